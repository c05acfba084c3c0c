# SPDX-License-Identifier: GPL-2.0-only
"""When a guest's process should run, and what follows its end: rows of a state, an end, and the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.guest.process_policy import ProcessEnd, ProcessPolicy
from appliance.health.bypass_latency import Fault
from appliance.health.verdict import Available
from appliance.hop.hop import Hop
from appliance.hop.lifecycle import ALIVE, HopState

SECOND = 1_000_000_000
FIRST = model.Restart().first
KILLED = ProcessEnd("killed by SIGKILL", "", answered=True)
POWERED_OFF = ProcessEnd("exited with status 0", "", answered=True, in_order=True)
PANICKED = ProcessEnd("exited with status 0", "", answered=True, panicked=True)
REFUSED = ProcessEnd("exited with status 1", "bad argument", answered=False)
NEVER_ANSWERED = ProcessEnd("killed by SIGSEGV", "", answered=False)


class Anybody:
    """The datapath and the owner, of whom nothing is asked here."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: 0


class Bench:
    """A policy with its hop, and what it reported."""

    def __init__(self, folder: Path, config: model.Guest | None = None) -> None:
        anybody = cast(Any, Anybody())
        self.hop = Hop("guest", "ips1", folder, leases=anybody, owner=anybody, now=0)
        self.wanted: bool | None = None
        self.deaths: list[tuple[Fault, str]] = []
        config = config or model.Guest(name="ips1", image="a")
        self.policy = ProcessPolicy(config, self.hop, self.want, lambda fault, why: self.deaths.append((fault, why)))

    def want(self, on: bool) -> None:
        self.wanted = on

    def reach(self, state: HopState, drained_by: Cause = Cause.OPERATOR) -> Bench:
        self.policy.autostart(running=True)
        if state in ALIVE:
            self.hop.running("")
        if state in ALIVE - {HopState.PROVING}:
            self.hop.on_decision(1, Available(100))
        if state is HopState.DRAINING:
            self.hop.drain(drained_by)
        elif state is HopState.STOPPED:
            self.policy.stop()
        elif state is HopState.FAILED:
            self.policy.cannot_start(Cause.IMAGE_UNREADABLE, "no such image")
        assert self.hop.state is state
        return self


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize(
    ("state", "end", "after", "died"),
    [
        (HopState.AVAILABLE, KILLED, (HopState.STARTING, Cause.GUEST_EXITED), True),
        (HopState.AVAILABLE, POWERED_OFF, (HopState.STARTING, Cause.GUEST_EXITED), False),
        (HopState.AVAILABLE, PANICKED, (HopState.STARTING, Cause.GUEST_EXITED), False),
        (HopState.PROVING, KILLED, (HopState.STARTING, Cause.GUEST_EXITED), True),
        (HopState.STARTING, REFUSED, (HopState.FAILED, Cause.QEMU_REFUSED), False),
        (HopState.STARTING, NEVER_ANSWERED, (HopState.STARTING, Cause.GUEST_EXITED), False),
        (HopState.DRAINING, KILLED, (HopState.STOPPED, Cause.GUEST_EXITED), True),
        (HopState.DRAINING, POWERED_OFF, (HopState.STOPPED, Cause.OPERATOR), False),
        (HopState.STOPPED, KILLED, (HopState.STOPPED, Cause.OPERATOR), False),
    ],
)
def test_what_follows_an_end(
    bench: Bench, state: HopState, end: ProcessEnd, after: tuple[HopState, Cause], died: bool
) -> None:
    """Restarted as the policy says, left stopped if it was drained, failed if QEMU refused its arguments."""
    bench.reach(state)
    wait = bench.policy.ended(SECOND, end)
    assert (bench.hop.state, bench.hop.cause) == after
    assert wait == (FIRST if bench.hop.state is HopState.STARTING else 0)
    assert bench.wanted is (bench.hop.state is HopState.STARTING)
    assert bool(bench.deaths) is died


def test_a_stop_that_was_ordered_is_no_death_however_it_ended(bench: Bench) -> None:
    """A guest that does not power down in time is killed, which counts as ordered; afterwards it can be started."""
    bench.reach(HopState.AVAILABLE).policy.stop()
    assert (bench.hop.stopping, bench.wanted) == (True, False)
    assert bench.policy.ended(SECOND, KILLED) == 0
    assert (bench.hop.state, bench.hop.cause, bench.deaths) == (HopState.STOPPED, Cause.OPERATOR, [])
    assert bench.policy.start().said == "guest ips1 is being started"
    assert bench.wanted


def test_a_guest_that_drained_itself_to_end_is_started_again_and_one_that_is_drained_is_not(tmp_path: Path) -> None:
    for by, after, wanted in (
        (Cause.GUEST_ASKED, HopState.STARTING, True),
        (Cause.OPERATOR, HopState.STOPPED, False),
    ):
        bench = Bench(tmp_path / by.value).reach(HopState.DRAINING, by)
        bench.policy.ended(SECOND, POWERED_OFF)
        assert (bench.hop.state, bench.wanted) == (after, wanted)


def test_a_guest_that_drained_itself_and_is_then_stopped_stays_stopped(bench: Bench) -> None:
    bench.reach(HopState.DRAINING, Cause.GUEST_ASKED).policy.stop()
    assert bench.policy.ended(SECOND, POWERED_OFF) == 0
    assert (bench.hop.state, bench.wanted) == (HopState.STOPPED, False)


def test_a_death_says_when_it_was_last_known_to_work(bench: Bench) -> None:
    bench.reach(HopState.AVAILABLE)
    bench.hop.last_proof, bench.hop.ended_at = 5, 7
    bench.policy.ended(SECOND, ProcessEnd("killed by SIGKILL", "out of memory", answered=True))
    assert bench.deaths == [(Fault(Cause.GUEST_EXITED, 5, 7), "killed by SIGKILL: out of memory")]


@pytest.mark.parametrize(
    ("policy", "end", "after", "detail"),
    [
        ("always", POWERED_OFF, HopState.STARTING, "exited with status 0; restarting in 0.2 s"),
        ("on-failure", POWERED_OFF, HopState.STOPPED, "it powered itself off, and restart.policy = on-failure"),
        ("on-failure", KILLED, HopState.STARTING, "killed by SIGKILL; restarting in 0.2 s"),
        ("never", POWERED_OFF, HopState.STOPPED, "it powered itself off, and restart.policy = never"),
        ("never", KILLED, HopState.FAILED, "killed by SIGKILL; restart.policy = never"),
    ],
)
def test_the_restart_policy(tmp_path: Path, policy: Any, end: ProcessEnd, after: HopState, detail: str) -> None:
    """From a guest that was available, and from one that never answered."""
    for state in (HopState.AVAILABLE, HopState.STARTING):
        config = model.Guest(name="ips1", image="a", restart=model.Restart(policy=policy))
        bench = Bench(tmp_path / state.value, config).reach(state)
        bench.policy.ended(SECOND, end)
        assert (bench.hop.state, bench.hop.detail) == (after, detail)
        assert bench.wanted is (after is HopState.STARTING)


def test_ends_that_follow_each_other_are_a_crash_loop_until_an_order_to_start(bench: Bench) -> None:
    bench.reach(HopState.STARTING)
    attempts = bench.policy.config.restart.attempts
    waits = [bench.policy.ended(SECOND, NEVER_ANSWERED) for _ in range(attempts)]
    assert waits == [FIRST << number for number in range(attempts - 1)] + [0]
    assert (bench.hop.state, bench.hop.cause) == (HopState.FAILED, Cause.CRASH_LOOP)
    assert (bench.hop.detail, bench.wanted) == ("killed by SIGSEGV", False)
    bench.policy.start()
    assert bench.wanted
    assert bench.policy.ended(SECOND, NEVER_ANSWERED) == FIRST


def test_a_long_run_waits_the_first_time_again(bench: Bench) -> None:
    bench.reach(HopState.STARTING)
    steady = bench.policy.config.restart.steady
    for _ in range(2):
        bench.policy.ended(SECOND, NEVER_ANSWERED)
    end = ProcessEnd("killed by SIGSEGV", "", answered=False, since=SECOND)
    assert bench.policy.ended(SECOND + steady, end) == FIRST


@pytest.mark.parametrize(
    ("autostart", "running", "wanted"), [(True, False, True), (False, False, None), (False, True, True)]
)
def test_what_runs_already_is_wanted_whatever_the_configuration_says(
    tmp_path: Path, autostart: bool, running: bool, wanted: bool | None
) -> None:
    bench = Bench(tmp_path, model.Guest(name="ips1", image="a", autostart=autostart))
    bench.policy.autostart(running=running)
    assert bench.wanted is wanted


def test_what_an_operator_stopped_is_not_adopted(bench: Bench) -> None:
    bench.hop.order.write("stopped")
    bench.policy.autostart(running=True)
    assert (bench.hop.state, bench.wanted) == (HopState.STOPPED, None)


@pytest.mark.parametrize(
    ("new", "after"),
    [
        (model.Guest(name="ips1", image="a"), HopState.FAILED),
        (model.Guest(name="ips1", image="b"), HopState.STARTING),
        (model.Guest(name="ips1", image="b", autostart=False), HopState.FAILED),
    ],
    ids=["unchanged", "changed", "not started by itself"],
)
def test_a_commit_that_changes_a_failed_guest_starts_it_again(bench: Bench, new: model.Guest, after: HopState) -> None:
    """One that is as it was, or is not started by itself, waits for an order."""
    bench.reach(HopState.FAILED)
    assert bench.wanted is False
    bench.policy.reconfigure(new)
    assert (bench.hop.state, bench.wanted) == (after, after is HopState.STARTING)
    assert bench.policy.config is new


def test_a_changed_restart_policy_counts_for_the_next_end(bench: Bench) -> None:
    bench.reach(HopState.AVAILABLE)
    bench.policy.reconfigure(model.Guest(name="ips1", image="a", restart=model.Restart(policy="never")))
    assert bench.hop.state.value == "available"
    bench.policy.ended(SECOND, KILLED)
    assert bench.hop.state.value == "failed"


def test_a_commit_that_repairs_a_crash_loop_resets_the_back_off(bench: Bench) -> None:
    bench.reach(HopState.STARTING)
    for _ in range(bench.policy.config.restart.attempts):
        bench.policy.ended(SECOND, NEVER_ANSWERED)
    bench.policy.reconfigure(model.Guest(name="ips1", image="b"))
    assert bench.policy.ended(SECOND, NEVER_ANSWERED) == FIRST


def test_an_order_that_changes_nothing_resets_nothing(bench: Bench) -> None:
    """Repeated orders to start do not hide a crash loop, and stop nothing."""
    bench.reach(HopState.STARTING)
    bench.policy.ended(SECOND, NEVER_ANSWERED)
    bench.wanted = None
    assert not bench.policy.start().changed
    assert bench.wanted is None
    assert bench.policy.ended(SECOND, NEVER_ANSWERED) == 2 * FIRST


def test_a_start_that_ends_a_drain_starts_no_process(bench: Bench) -> None:
    bench.reach(HopState.DRAINING)
    bench.wanted = None
    assert bench.policy.start().changed
    assert (bench.hop.state, bench.wanted) == (HopState.PROVING, None)
    bench.policy.stop()
    bench.wanted = None
    assert not bench.policy.stop().changed
    assert bench.wanted is None


@pytest.mark.parametrize("state", [HopState.PROVING, HopState.AVAILABLE, HopState.DRAINING])
def test_a_restart_is_a_stop_and_a_start(bench: Bench, state: HopState) -> None:
    """The traffic leaves it first; it is started when it has ended, and by the next bypassd if this one ends first."""
    bench.reach(state)
    assert bench.policy.restart().said == "guest ips1 is being restarted"
    assert (bench.hop.state, bench.hop.stopping, bench.wanted) == (HopState.DRAINING, True, False)
    assert bench.hop.order.read() == ""
    assert bench.policy.ended(SECOND, POWERED_OFF) == 0
    assert (bench.hop.state, bench.wanted, bench.deaths) == (HopState.STARTING, True, [])
    bench.hop.running("")
    assert bench.policy.ended(2 * SECOND, KILLED) == FIRST, "the restart is over: this is an end like any other"


@pytest.mark.parametrize("state", [HopState.STOPPED, HopState.FAILED])
def test_a_restart_of_one_that_is_down_is_a_start(bench: Bench, state: HopState) -> None:
    assert bench.reach(state).policy.restart().said == "guest ips1 is being started"
    assert (bench.hop.state, bench.wanted) == (HopState.STARTING, True)


def test_a_stop_ends_a_restart(bench: Bench) -> None:
    """Whoever stops it while it is being restarted wants it down, now and after a restart of bypassd."""
    bench.reach(HopState.AVAILABLE).policy.restart()
    assert bench.policy.stop().said == "guest ips1 is already being stopped"
    assert bench.hop.order.read() == "stopped"
    bench.policy.ended(SECOND, POWERED_OFF)
    assert (bench.hop.state, bench.wanted) == (HopState.STOPPED, False)
