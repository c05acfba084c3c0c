# SPDX-License-Identifier: GPL-2.0-only
"""The policy of a hop, as rows of events with their times: state, lease, drain, falls, orders, bypass latency.

The datapath and the owner are fakes at the hop's two protocols; nothing waits, and no clock is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from appliance.causes import Cause
from appliance.errors import RefusedError
from appliance.health.bypass_latency import Fault
from appliance.health.detector import Detector, Good, Limits
from appliance.health.verdict import Available, Flip, History, Overloaded, Relieved, Unavailable, Verdict
from appliance.hop.hop import PROOF_NS, Hop
from appliance.hop.lifecycle import ALIVE, SERVING, HopEvent, HopState
from appliance.hop.operator_order import FILE, OperatorOrder
from appliance.transition import IllegalMoveError

MS = 1_000_000
LOST = Unavailable("probe", "nothing for 45.0 ms", Cause.HEARTBEAT_LOST, proof=100 * MS)


class Kernel:
    """The datapath's leases, for one hop. `log` has everything in the order in which it was done."""

    end_with_processes = True

    def __init__(self, log: list[str]) -> None:
        self.log, self.until, self.draining, self.skipped, self.died_at = log, 1, False, 0, 0

    def renew(self, hop: str, until_ns: int) -> None:
        self.until = until_ns
        self.skipped = 0
        self.log.append("renew")

    def revoke(self, hop: str) -> None:
        self.until = 0
        self.log.append("revoke")

    def tie(self, hop: str, threads: Iterable[int]) -> None:
        raise AssertionError("a hop has no threads")

    def untie(self, hop: str) -> None:
        self.log.append("untie")

    def ended(self, hop: str) -> int:
        return self.died_at

    def set_draining(self, hop: str, on: bool) -> None:
        self.draining = on

    def available(self, hop: str, now_ns: int) -> bool:
        return self.until > now_ns

    def first_skip(self, hop: str) -> int:
        return self.skipped


class Owner:
    """Keeps what the hop reports."""

    def __init__(self, log: list[str]) -> None:
        self.log = log
        self.moves: list[tuple[str, str]] = []
        self.failed: list[tuple[Fault, str]] = []
        self.measured: list[int | None] = []

    def on_move(self, old: HopState) -> None:
        self.log.append("move")
        self.moves.append((old.value, self.hop.state.value))

    def on_failed(self, fault: Fault, why: str) -> None:
        self.log.append("failed")
        self.failed.append((fault, why))

    def on_measured(self, fault: Fault, at_most: int | None) -> None:
        self.measured.append(at_most)

    hop: Hop


class Bench:
    """A hop with its fakes."""

    def __init__(self, folder: Path, now: int = 0) -> None:
        self.folder, self.log = folder, list[str]()
        self.kernel, self.owner = Kernel(self.log), Owner(self.log)
        self.hop = self.owner.hop = Hop("remote", "dpi", folder / "dpi", leases=self.kernel, owner=self.owner, now=now)

    def reach(self, state: HopState) -> Bench:
        """Bring the hop into a state by the shortest realistic sequence."""
        if state is not HopState.DEFINED:
            self.hop.begin(wanted=True)
        if state in ALIVE:
            self.hop.running("")
        if state in ALIVE - {HopState.PROVING}:
            self.good(1, 1000)
        last: dict[HopState, Callable[[], object]] = {
            HopState.SUSPECT: lambda: self.hop.on_decision(2, LOST),
            HopState.OVERLOADED: lambda: self.hop.on_decision(2, Overloaded("much")),
            HopState.DRAINING: lambda: self.hop.drain(Cause.OPERATOR),
            HopState.STOPPED: self.hop.stop,
            HopState.FAILED: lambda: self.hop.refused(Cause.GUEST_FAILED, "no"),
        }
        last.get(state, lambda: None)()
        assert self.hop.state is state
        return self

    def good(self, now: int, until: int) -> None:
        self.hop.on_decision(now, Available(until))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


# -- evidence and lease


@pytest.mark.parametrize(
    ("state", "after", "until"),
    [
        (HopState.DEFINED, HopState.DEFINED, 0),
        (HopState.STARTING, HopState.STARTING, 0),
        (HopState.PROVING, HopState.AVAILABLE, 2000),
        (HopState.AVAILABLE, HopState.AVAILABLE, 2000),
        (HopState.OVERLOADED, HopState.OVERLOADED, 2000),
        (HopState.SUSPECT, HopState.AVAILABLE, 2000),
        (HopState.DRAINING, HopState.DRAINING, 2000),
        (HopState.STOPPED, HopState.STOPPED, 0),
        (HopState.FAILED, HopState.FAILED, 0),
    ],
)
def test_evidence_renews_the_lease_only_in_the_states_that_have_one(
    bench: Bench, state: HopState, after: HopState, until: int
) -> None:
    """Good evidence of something that does not run, or is stopped, gives it no traffic."""
    bench.reach(state)
    bench.kernel.until = 0
    bench.good(10, 2000)
    assert (bench.hop.state, bench.kernel.until) == (after, until)


@pytest.mark.parametrize(
    ("state", "after", "reported"),
    [
        (HopState.STARTING, HopState.STARTING, 0),
        (HopState.PROVING, HopState.PROVING, 0),
        (HopState.AVAILABLE, HopState.SUSPECT, 1),
        (HopState.SUSPECT, HopState.SUSPECT, 0),
        (HopState.DRAINING, HopState.DRAINING, 1),
    ],
)
def test_a_failed_check_ends_the_lease_first_and_is_reported_where_there_was_traffic(
    bench: Bench, state: HopState, after: HopState, reported: int
) -> None:
    bench.reach(state)
    bench.owner.failed.clear()
    bench.log.clear()
    bench.hop.on_decision(150 * MS, LOST)
    assert bench.log == ["revoke", "move", "failed"][: 1 + 2 * reported]
    assert (bench.hop.state, bench.kernel.until) == (after, 0)
    expected = Fault(Cause.HEARTBEAT_LOST, 100 * MS, 150 * MS)
    assert bench.owner.failed == [(expected, LOST.why)] * reported
    if reported:
        assert (bench.hop.cause, bench.hop.detail) == (Cause.HEARTBEAT_LOST, LOST.why)
        assert bench.hop.bypass_latency.pending is not None


@pytest.mark.parametrize("cause", [Cause.GUEST_ASKED, Cause.GUEST_EXITED])
def test_what_it_asked_for_and_an_end_are_no_failure(bench: Bench, cause: Cause) -> None:
    """It goes without traffic all the same; an end is reported when it has ended."""
    bench.reach(HopState.AVAILABLE)
    bench.hop.on_decision(5, Unavailable("agent", "new rules", cause))
    assert (bench.hop.state, bench.kernel.until, bench.owner.failed) == (HopState.SUSPECT, 0, [])
    assert bench.hop.bypass_latency.pending is None


def test_falls_are_kept_with_each_decision(bench: Bench) -> None:
    bench.reach(HopState.AVAILABLE)
    bench.hop.history.flips.append(Flip(1, "probe", "failing", "why"))
    bench.hop.history.falls.append(1)
    bench.hop.history.count += 1
    bench.hop.on_decision(2, LOST)
    assert list(Bench(bench.folder, now=3).hop.history.falls) == [1]


# -- drain


def test_a_drained_hop_keeps_its_established_flows_and_gets_no_new_ones(bench: Bench) -> None:
    bench.reach(HopState.AVAILABLE)
    answer = bench.hop.drain(Cause.OPERATOR)
    assert answer.said == "remote dpi is draining: established flows stay, new ones take another path"
    assert (bench.kernel.draining, bench.kernel.until, bench.hop.serves) == (True, 1000, True)
    again = bench.hop.drain(Cause.OPERATOR)
    assert (again.said, again.changed) == ("remote dpi is already draining", False)


def test_a_check_that_fails_while_draining_takes_the_established_flows_too_and_gives_them_back(bench: Bench) -> None:
    """One fall is reported once, however often the check fails, and the drain goes on all the while."""
    bench.reach(HopState.DRAINING)
    for now in (10, 20):
        bench.hop.on_decision(now, LOST)
    assert (bench.kernel.until, bench.hop.serves, len(bench.owner.failed)) == (0, False, 1)
    bench.good(30, 3000)
    assert (bench.kernel.until, bench.hop.serves, bench.kernel.draining) == (3000, True, True)
    assert (bench.hop.state, bench.hop.cause) == (HopState.DRAINING, Cause.OPERATOR)
    assert bench.hop.detail == "it works again, and is still draining"
    moves = len(bench.owner.moves)
    bench.good(40, 4000)  # it never was ill since: no move, a longer lease
    assert (len(bench.owner.moves), bench.kernel.until) == (moves, 4000)
    bench.hop.on_decision(50, LOST)
    assert len(bench.owner.failed) == 2


def test_a_fall_before_the_drain_does_not_count_in_it(bench: Bench) -> None:
    """A second drain starts without what the first one had."""
    bench.reach(HopState.DRAINING)
    bench.hop.on_decision(10, LOST)
    bench.hop.cancel_drain(Cause.OPERATOR)
    bench.hop.drain(Cause.OPERATOR)
    assert bench.hop.serves


def test_cancelling_a_drain_lets_it_prove_itself_with_new_flows(bench: Bench) -> None:
    bench.reach(HopState.DRAINING)
    answer = bench.hop.start()
    assert (answer.said, answer.changed) == ("remote dpi is taken back into service", True)
    assert (bench.hop.state, bench.kernel.draining, bench.hop.order.read()) == (HopState.PROVING, False, "")


@pytest.mark.parametrize("state", [HopState.DEFINED, HopState.STARTING, HopState.STOPPED, HopState.FAILED])
def test_only_a_running_hop_can_be_drained(bench: Bench, state: HopState) -> None:
    bench.reach(state)
    with pytest.raises(RefusedError, match=f"remote dpi is {state.value}: only a running remote can be drained"):
        bench.hop.drain(Cause.OPERATOR)
    assert not bench.kernel.draining
    assert bench.hop.order.read() != "draining"


def test_a_hop_that_ends_while_it_drains_stays_stopped(bench: Bench) -> None:
    bench.reach(HopState.DRAINING)
    bench.hop.drained(Cause.GUEST_EXITED, "killed")
    assert (bench.hop.state, bench.kernel.draining, bench.hop.order.read()) == (HopState.STOPPED, False, "stopped")
    assert (bench.hop.cause, bench.hop.detail) == (Cause.GUEST_EXITED, "killed")


# -- starting over


@pytest.mark.parametrize(
    ("by", "after", "drains"),
    [(Cause.OPERATOR, HopState.DRAINING, True), (Cause.GUEST_ASKED, HopState.PROVING, False)],
)
def test_a_reset_ends_a_drain_that_it_asked_for_and_no_other(
    bench: Bench, by: Cause, after: HopState, drains: bool
) -> None:
    bench.reach(HopState.AVAILABLE)
    bench.hop.drain(by)
    bench.hop.on_decision(5, LOST)
    bench.hop.restarted(Cause.GUEST_RESET, "guest true")
    assert (bench.hop.state, bench.kernel.draining, bench.kernel.until) == (after, drains, 0)
    assert bench.hop.cause is Cause.GUEST_RESET
    assert bench.hop.serves is drains  # what it had failed before counts no more


def test_a_reset_ends_the_lease_before_it_is_recorded(bench: Bench) -> None:
    bench.reach(HopState.AVAILABLE)
    bench.log.clear()
    bench.hop.restarted(Cause.GUEST_RESET, "")
    assert bench.log == ["revoke", "move"]
    assert bench.hop.state is HopState.PROVING


def test_new_checks_leave_the_lease_and_ask_for_new_evidence(bench: Bench) -> None:
    bench.reach(HopState.AVAILABLE)
    bench.hop.prove_again("its checks have changed")
    assert (bench.hop.state, bench.hop.cause, bench.kernel.until) == (HopState.SUSPECT, Cause.PROVING, 1000)
    moves = len(bench.owner.moves)
    bench.hop.prove_again("its checks have changed")  # it has no traffic to go on with
    assert len(bench.owner.moves) == moves


# -- orders, and what the next bypassd makes of them


@pytest.mark.parametrize(
    ("ordered", "wanted", "after", "started"),
    [
        ("", False, HopState.DEFINED, False),
        ("", True, HopState.STARTING, True),
        ("stopped", False, HopState.STOPPED, False),
        ("stopped", True, HopState.STOPPED, False),
        ("draining", False, HopState.STARTING, True),
        ("draining", True, HopState.STARTING, True),
        ("nonsense", False, HopState.DEFINED, False),
    ],
)
def test_what_was_ordered_counts_before_the_configuration(
    tmp_path: Path, ordered: str, wanted: bool, after: HopState, started: bool
) -> None:
    (tmp_path / "dpi").mkdir()
    (tmp_path / "dpi" / FILE).write_text(ordered)
    bench = Bench(tmp_path)
    assert bench.hop.begin(wanted=wanted) is started
    assert bench.hop.state is after


@pytest.mark.parametrize(
    ("order", "kept"), [(Hop.stop, "stopped"), (lambda hop: hop.drain(Cause.OPERATOR), "draining")]
)
def test_orders_of_an_operator_outlive_bypassd(bench: Bench, order: Callable[[Hop], object], kept: str) -> None:
    order(bench.reach(HopState.AVAILABLE).hop)
    later = Bench(bench.folder)
    assert later.hop.order.read() == kept
    later.hop.begin(wanted=True)
    if kept == "draining":
        later.hop.running("adopted")
        assert (later.hop.state, later.kernel.draining, later.hop.drained_by) == (
            HopState.DRAINING, True, Cause.OPERATOR,
        )  # fmt: skip
        assert later.hop.serves
    else:
        assert later.hop.state is HopState.STOPPED


def test_a_drain_that_it_asked_for_itself_does_not_outlive_bypassd(bench: Bench) -> None:
    bench.reach(HopState.AVAILABLE).hop.drain(Cause.GUEST_ASKED)
    assert bench.hop.drained_by is Cause.GUEST_ASKED
    assert Bench(bench.folder).hop.order.read() == ""


def test_without_an_order_it_is_up_without_a_drain(bench: Bench) -> None:
    bench.reach(HopState.STARTING).hop.running("adopted")
    assert (bench.hop.state, bench.hop.detail, bench.kernel.draining) == (HopState.PROVING, "adopted", False)


@pytest.mark.parametrize(
    ("state", "after", "stopping"),
    [
        (HopState.DEFINED, HopState.STOPPED, False),
        (HopState.STARTING, HopState.STOPPED, False),
        (HopState.PROVING, HopState.DRAINING, True),
        (HopState.AVAILABLE, HopState.DRAINING, True),
        (HopState.SUSPECT, HopState.DRAINING, True),
        (HopState.DRAINING, HopState.DRAINING, True),
        (HopState.FAILED, HopState.STOPPED, False),
    ],
)
def test_stopping_takes_the_traffic_first(bench: Bench, state: HopState, after: HopState, stopping: bool) -> None:
    bench.reach(state)
    bench.log.clear()
    answer = bench.hop.stop()
    assert answer.said == f"remote dpi is {'being ' * stopping}stopped"
    assert (bench.hop.state, bench.hop.stopping, bench.log) == (after, stopping, ["revoke", "move"])
    assert (bench.hop.order.read(), bench.hop.serves) == ("stopped", False)
    bench.good(10, 5000)
    assert bench.kernel.until == 0, "what is being stopped gets no lease, whatever its checks say"
    again = bench.hop.stop()
    assert (again.said, again.changed) == (f"remote dpi is already {'being ' * stopping}stopped", False)


def test_nothing_is_started_while_it_is_being_stopped(bench: Bench) -> None:
    bench.reach(HopState.AVAILABLE).hop.stop()
    with pytest.raises(RefusedError, match="is being stopped: start it again when it has stopped"):
        bench.hop.start()


@pytest.mark.parametrize(
    ("state", "said"),
    [(HopState.STARTING, "starting"), (HopState.AVAILABLE, "available"), (HopState.SUSPECT, "suspect")],
)
def test_starting_what_runs_changes_nothing(bench: Bench, state: HopState, said: str) -> None:
    bench.reach(state)
    bench.hop.order.write("draining")
    answer = bench.hop.start()
    assert (answer.said, answer.changed) == (f"remote dpi is already {said}", False)
    assert bench.hop.order.read() == "draining"


@pytest.mark.parametrize("state", [HopState.STOPPED, HopState.FAILED])
def test_an_order_to_start_withdraws_the_one_before(bench: Bench, state: HopState) -> None:
    bench.reach(state)
    answer = bench.hop.start()
    assert (answer.said, bench.hop.order.read()) == ("remote dpi is being started", "")
    assert (bench.hop.state, bench.hop.cause) == (HopState.STARTING, Cause.OPERATOR)


def test_what_cannot_start_has_no_lease_and_says_why_unless_it_was_stopped(bench: Bench) -> None:
    bench.reach(HopState.STARTING).hop.refused(Cause.MEMORY_SHORT, "64 MiB")
    assert (bench.hop.state, bench.hop.cause, bench.hop.detail) == (HopState.FAILED, Cause.MEMORY_SHORT, "64 MiB")
    assert bench.kernel.until == 0
    bench.hop.stop()
    bench.kernel.until = 1
    bench.hop.refused(Cause.MEMORY_SHORT, "late")
    assert (bench.hop.state, bench.kernel.until) == (HopState.STOPPED, 0)


def test_a_move_that_makes_no_sense_is_a_bug(bench: Bench) -> None:
    with pytest.raises(IllegalMoveError, match="a hop in state defined has no move on proved"):
        bench.hop.move(HopEvent.PROVED, Cause.HEALTHY)
    assert bench.owner.moves == []


def test_an_order_that_cannot_be_kept_is_carried_out_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "dpi").write_text("a file where the folder should be")
    bench = Bench(tmp_path).reach(HopState.AVAILABLE)
    bench.hop.stop()
    assert bench.hop.stopping
    assert "the order will not survive a restart of bypassd" in caplog.text
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / FILE).write_bytes(b"\xff")
    assert OperatorOrder(tmp_path / "other").read() == ""


# -- its end, and how soon it was bypassed


def proved(at: int) -> Verdict:
    verdict = Verdict([Detector("probe", Limits(20 * MS, 2, 1))], History())
    verdict.step(at, "probe", Good(at))
    return verdict


@pytest.mark.parametrize(("seen", "ended"), [(0, 120 * MS), (118 * MS, 118 * MS)], ids=["our time", "the kernel's"])
def test_an_end_takes_the_lease_before_anything_else(bench: Bench, seen: int, ended: int) -> None:
    bench.reach(HopState.AVAILABLE)
    bench.log.clear()
    bench.kernel.died_at = seen
    bench.hop.gone(120 * MS, Cause.GUEST_EXITED, proved(100 * MS))
    assert bench.log == ["revoke", "untie"]
    assert (bench.hop.ended_at, bench.hop.last_proof) == (ended, 100 * MS)
    assert bench.hop.bypass_latency.pending == Fault(Cause.GUEST_EXITED, 100 * MS, ended)


@pytest.mark.parametrize("state", [HopState.STARTING, HopState.PROVING, HopState.SUSPECT])
def test_the_end_of_what_had_no_traffic_is_not_measured(bench: Bench, state: HopState) -> None:
    bench.reach(state)
    bench.hop.bypass_latency.back()
    bench.hop.gone(120 * MS, Cause.GUEST_EXITED, proved(100 * MS))
    assert bench.hop.bypass_latency.pending is None


def test_the_end_of_what_was_never_up_is_only_a_lease_that_ends(bench: Bench) -> None:
    bench.hop.gone(5, Cause.GUEST_EXITED, None)
    assert (bench.kernel.until, bench.hop.ended_at, bench.hop.last_verdict) == (0, 0, None)


def test_the_first_frame_after_a_fall_is_measured_once(bench: Bench) -> None:
    bench.reach(HopState.AVAILABLE)
    bench.hop.on_decision(150 * MS, LOST)
    bench.hop.look(0)
    assert bench.owner.measured == []
    bench.kernel.skipped = 160 * MS
    for _ in range(2):
        bench.hop.look(0)
    assert bench.owner.measured == [60 * MS]


@pytest.mark.parametrize("drain", [False, True])
def test_what_the_datapath_noted_is_read_before_the_renewal_overwrites_it(bench: Bench, drain: bool) -> None:
    bench.reach(HopState.DRAINING if drain else HopState.AVAILABLE)
    bench.hop.on_decision(150 * MS, LOST)
    bench.kernel.skipped = 160 * MS
    bench.good(200 * MS, 300 * MS)
    assert (bench.owner.measured, bench.kernel.skipped) == ([60 * MS], 0)


def test_back_before_a_frame_came_measures_nothing(bench: Bench) -> None:
    bench.reach(HopState.AVAILABLE)
    bench.hop.on_decision(150 * MS, LOST)
    bench.good(200 * MS, 300 * MS)
    bench.kernel.skipped = 210 * MS
    bench.hop.look(0)
    assert bench.owner.measured == []


def test_a_guest_that_never_passes_its_checks_is_told_once(bench: Bench) -> None:
    """Also one that restarts itself again and again; what is known better is not overwritten."""
    bench.reach(HopState.PROVING)
    for at in (0, PROOF_NS - 1):
        bench.hop.look(at)
        assert bench.hop.cause is Cause.PROVING
    bench.hop.look(PROOF_NS)
    assert (bench.hop.cause, bench.hop.detail) == (Cause.NOT_PROVED, "for 2 min, last: proving")
    bench.hop.restarted(Cause.GUEST_RESET, "guest-reset")
    bench.hop.look(PROOF_NS + 1)
    assert bench.hop.cause is Cause.GUEST_RESET
    bench.good(PROOF_NS + 2, PROOF_NS + 100 * MS)
    bench.hop.look(PROOF_NS + 3)
    assert bench.hop.state is HopState.AVAILABLE
    bench.hop.restarted(Cause.GUEST_RESET, "guest-reset")
    bench.hop.look(2 * PROOF_NS)
    bench.hop.explain(Cause.TUNNEL_DOWN, "")
    bench.hop.look(4 * PROOF_NS)
    assert (bench.hop.state, bench.hop.cause) == (HopState.PROVING, Cause.TUNNEL_DOWN)


def test_a_guest_that_starts_over_while_it_is_stopped_goes_on_stopping(bench: Bench) -> None:
    """A stop is attributed to the operator, also without a preceding drain."""
    bench.reach(HopState.AVAILABLE)
    bench.hop.stop()
    bench.hop.restarted(Cause.GUEST_RESET, "guest-reset")
    assert (bench.hop.state, bench.hop.stopping) == (HopState.DRAINING, True)
    assert bench.kernel.until == 0


# -- overload


def test_overload_is_a_state_with_traffic(bench: Bench) -> None:
    """Evidence renews the lease, no fall is counted, and it ends as it began: by name."""
    bench.reach(HopState.AVAILABLE)
    bench.hop.on_decision(10, Overloaded("it gets more frames than it can handle, lan to wan"))
    assert (bench.hop.state, bench.hop.cause) == (HopState.OVERLOADED, Cause.OVERLOADED)
    assert "lan to wan" in bench.hop.detail
    assert bench.hop.serves
    bench.good(20, 3000)
    assert (bench.hop.state, bench.kernel.until) == (HopState.OVERLOADED, 3000)
    bench.hop.on_decision(30, Relieved())
    assert (bench.hop.state, bench.hop.cause, bench.owner.failed) == (HopState.AVAILABLE, Cause.HEALTHY, [])


def test_an_overloaded_hop_can_fall(bench: Bench) -> None:
    bench.reach(HopState.AVAILABLE)
    bench.hop.on_decision(10, Overloaded("much"))
    bench.hop.on_decision(20, LOST)
    assert (bench.hop.state, bench.kernel.until) == (HopState.SUSPECT, 0)
    assert len(bench.owner.failed) == 1
    bench.hop.on_decision(30, Relieved())
    assert bench.hop.state is HopState.SUSPECT


@pytest.mark.parametrize("state", [state for state in HopState if state not in SERVING])
def test_only_a_hop_with_traffic_is_overloaded(bench: Bench, state: HopState) -> None:
    bench.reach(state)
    bench.hop.on_decision(10, Overloaded("much"))
    assert bench.hop.state is state


def test_an_overloaded_hop_is_drained_and_its_checks_change_like_those_of_an_available_one(bench: Bench) -> None:
    bench.reach(HopState.AVAILABLE)
    bench.hop.on_decision(10, Overloaded("much"))
    bench.hop.prove_again("its checks have changed")
    assert bench.hop.state is HopState.SUSPECT
    bench.good(20, 3000)
    bench.hop.on_decision(30, Overloaded("much"))
    bench.hop.drain(Cause.OPERATOR)
    bench.good(40, 4000)
    assert (bench.hop.state.value, bench.kernel.until) == ("draining", 4000)


@pytest.mark.parametrize("state", HopState)
def test_a_better_explanation_changes_nothing_else(bench: Bench, state: HopState) -> None:
    """Only while it must pass its checks, and once: its cause is recorded, its state and lease stay."""
    bench.reach(state)
    moves, cause, until = len(bench.owner.moves), bench.hop.cause, bench.kernel.until
    for _ in range(2):
        bench.hop.explain(Cause.TUNNEL_DOWN, "mgmt0 has no link")
    assert (bench.hop.state, bench.kernel.until) == (state, until)
    if state in (HopState.PROVING, HopState.SUSPECT):
        assert bench.owner.moves[moves:] == [(state.value, state.value)]
        assert (bench.hop.cause, bench.hop.detail) == (Cause.TUNNEL_DOWN, "mgmt0 has no link")
    else:
        assert (bench.owner.moves[moves:], bench.hop.cause) == ([], cause)
