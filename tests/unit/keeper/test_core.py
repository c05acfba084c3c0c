# SPDX-License-Identifier: GPL-2.0-only
"""What joins the keeper's rules: the start, the check-in, the orderly stop, and every order of events."""

from __future__ import annotations

import itertools

import pytest

from appliance.keeper.core import KeeperCore
from appliance.keeper.lifecycle import Phase
from appliance.keeper.limits import FAR, MS, SECOND, Limits
from appliance.keeper.messages import (
    BYPASS,
    HOLD,
    INLINE,
    Ask,
    CheckIn,
    CloseWatchdog,
    Drive,
    Event,
    Exit,
    Exited,
    Feed,
    Kill,
    LinkLost,
    Log,
    OpenRelay,
    OpenWatchdog,
    ReadRelay,
    RelayReport,
    Spawn,
    Stop,
    Tick,
    WatchdogReport,
)
from tests.support.keeper_bench import RELAY, Bench, of


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_keeper_that_has_not_begun_reports_nothing() -> None:
    """No relay, no watchdog, no bypassd that ended."""
    assert KeeperCore().state() == {
        "type": "state",
        "relays": {},
        "bypassd_restarts": 0,
        "last_exit": "",
        "watchdog": {"present": False, "timeout_ms": 0, "error": "", "unfed": False, "devices": []},
        "keeper_started_ns": 0,
    }


def test_the_state_says_since_when_the_keeper_runs(bench: Bench) -> None:
    began = bench.now
    bench.serve()
    assert bench.core.state()["keeper_started_ns"] == began


def test_start_opens_the_watchdog_first_then_the_relay_then_starts_bypassd(bench: Bench) -> None:
    order = [type(action) for _, action in bench.log if isinstance(action, OpenWatchdog | OpenRelay | Spawn)]
    assert order == [OpenWatchdog, OpenRelay, Spawn]
    assert bench.line == BYPASS


def test_what_could_not_be_used_of_a_check_in_is_logged_once(bench: Bench) -> None:
    for _ in range(3):
        bench.feed(CheckIn({RELAY: Ask(INLINE)}, notes=("grace_ms -1 is outside 0 to 5: 0 is used",)))
    logged = [action.text for _, action in bench.log if isinstance(action, Log)]
    assert len([text for text in logged if "grace_ms -1" in text]) == 1


def test_stop_moves_the_relay_at_once_and_ends_when_bypassd_did(bench: Bench) -> None:
    bench.serve()
    done = bench.feed(Stop())
    assert Drive(RELAY, BYPASS) in done
    assert Kill(orderly=True) in done
    assert not of(done, Exit)
    assert not of(bench.serve(1), Drive), "nobody moves it again"
    done = bench.feed(Exited("ended with status 0"))
    assert [a for a in done if isinstance(a, CloseWatchdog | Exit)] == [CloseWatchdog(60_000), Exit()]
    assert bench.line == BYPASS


def test_stop_kills_a_bypassd_that_does_not_end_and_feeds_meanwhile(bench: Bench) -> None:
    bench.serve()
    bench.feed(Stop())
    done = bench.run(bench.now + 5100 * MS)
    assert Kill(orderly=False) in done
    assert of(done, Feed)


def test_stop_while_bypassd_is_down_ends_at_once(bench: Bench) -> None:
    bench.feed(Exited("ended with status 1"))
    done = bench.feed(Stop())
    assert [a for a in done if isinstance(a, CloseWatchdog | Exit)] == [CloseWatchdog(60_000), Exit()]
    assert not of(done, Kill)


def test_nothing_is_done_after_the_exit_although_it_was_due(bench: Bench) -> None:
    bench.feed(Exited("ended with status 1"))
    bench.now += 60 * SECOND
    done = bench.core.step(bench.now, Stop())
    after = done[done.index(Exit()) + 1 :]
    assert not [action for action in after if isinstance(action, Feed | ReadRelay | OpenRelay | Spawn | Kill)]
    assert bench.core.deadline() == FAR


def test_stop_while_bypassd_is_ending_waits_for_it(bench: Bench) -> None:
    bench.serve()
    bench.feed(LinkLost("closed its keeper link"))
    assert not of(bench.feed(Stop()), Exit)
    assert of(bench.feed(Exited("ended with status 0")), Exit) == [Exit()]


EVENTS: list[Event] = [
    Tick(),
    CheckIn({RELAY: Ask(INLINE, "healthy")}, watchdog_ms=2000, grace_ns=5 * SECOND),
    CheckIn({RELAY: Ask(BYPASS, "operator")}),
    CheckIn({RELAY: Ask(HOLD, "starting")}),
    CheckIn({}),
    Exited("ended with status 1"),
    LinkLost("closed its keeper link"),
    RelayReport(RELAY, BYPASS, expected=BYPASS),
    RelayReport(RELAY, error="gone"),
    WatchdogReport(timeout_ms=2000),
    WatchdogReport(error="gone"),
    Stop(),
]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_every_order_of_events_keeps_the_promises(length: int) -> None:
    """After any events: inline only if it was requested, a deadline in the future, no loop that spins."""
    for events in itertools.product(EVENTS, repeat=length):
        bench = Bench(limits=Limits(grace=3 * SECOND))
        for event in events:
            bench.now += 300 * MS
            bench.feed(event)
            if bench.core.bypassd.phase is Phase.DOWN and bench.core.stopping:
                break
            relay = bench.core.relays.states[RELAY]
            if bench.core.stopping or not relay.usable:
                assert relay.target == BYPASS, events
            if not any(isinstance(e, CheckIn) and e.relays and e.relays[RELAY].want == INLINE for e in events):
                assert bench.line == BYPASS, events
            assert bench.core.deadline() > bench.now, events
        steps = 0
        end = bench.now + 6 * SECOND
        while bench.core.deadline() <= end and not any(isinstance(a, Exit) for _, a in bench.log):
            bench.now = max(bench.now, bench.core.deadline())
            bench.feed(Tick())
            steps += 1
            assert steps < 300, f"spins after {events}"
        assert bench.line == BYPASS, f"silence must end in bypass: {events}"
