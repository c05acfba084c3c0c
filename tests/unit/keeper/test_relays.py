# SPDX-License-Identifier: GPL-2.0-only
"""Who moves the relay when, and how long it is held without a supervisor."""

from __future__ import annotations

import pytest

from appliance.causes import Cause
from appliance.keeper.core import KeeperCore
from appliance.keeper.lifecycle import Phase
from appliance.keeper.limits import MS, SECOND
from appliance.keeper.messages import (
    BYPASS,
    HOLD,
    INLINE,
    Ask,
    CheckIn,
    CloseRelay,
    Drive,
    Exited,
    Kill,
    Led,
    Log,
    OpenRelay,
    RelayReport,
    Started,
)
from tests.support.keeper_bench import RELAY, Bench, of


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_inline_only_when_asked(bench: Bench) -> None:
    assert not of(bench.check_in(HOLD), Drive)
    assert not of(bench.check_in(BYPASS), Drive)
    assert of(bench.check_in(INLINE), Drive) == [Drive(RELAY, INLINE)]
    assert bench.line == INLINE
    assert of(bench.check_in(BYPASS), Drive) == [Drive(RELAY, BYPASS)]


def test_bypassd_is_told_each_confirmed_position(bench: Bench) -> None:
    bench.check_in(INLINE)
    assert bench.told[-1] == INLINE
    bench.check_in(BYPASS)
    assert bench.told[-1] == BYPASS


def test_a_relay_that_is_not_named_goes_to_bypass(bench: Bench) -> None:
    bench.check_in()
    bench.feed(CheckIn({}))
    assert bench.line == BYPASS


def test_checking_in_keeps_inline_for_ever(bench: Bench) -> None:
    done = bench.serve(120)
    assert bench.line == INLINE
    assert not of(done, Kill)
    assert len(of(done, Drive)) == 1


def test_without_a_supervisor_the_relay_is_in_bypass_after_the_grace(bench: Bench) -> None:
    bench.serve()
    bench.feed(Exited("killed by signal 9"))
    start = bench.now
    while bench.now < start + 60 * SECOND and bench.line == INLINE:
        bench.run(bench.now + 100 * MS)
        if bench.core.bypassd.phase is Phase.STARTING:
            bench.feed(Exited("ended with status 1"))
    assert 28 * SECOND < bench.now - start <= 31 * SECOND
    assert bench.core.relays.states[RELAY].cause == "supervisor_lost"


def test_a_crash_loop_that_only_holds_does_not_prolong_the_grace(bench: Bench) -> None:
    bench.serve()
    bench.feed(Exited("ended with status 1"))
    start = bench.now
    while bench.now < start + 40 * SECOND:
        bench.run(bench.now + 500 * MS)
        if bench.core.bypassd.phase is Phase.STARTING:
            bench.check_in(HOLD)
            bench.feed(Exited("ended with status 1"))
    assert bench.line == BYPASS


def test_the_grace_comes_from_the_configuration(bench: Bench) -> None:
    bench.feed(CheckIn({RELAY: Ask(INLINE)}, grace_ns=3 * SECOND))
    bench.feed(Exited("killed by signal 9"))
    bench.run(bench.now + 2900 * MS)
    assert bench.line == INLINE
    bench.run(bench.now + 200 * MS)
    assert bench.line == BYPASS


def test_a_grace_of_zero_holds_while_bypassd_serves_and_not_a_moment_longer(bench: Bench) -> None:
    """Healthy check-ins keep the link inline; the end of bypassd, or its silence beyond the limit, bypasses at once."""
    bench.feed(CheckIn({RELAY: Ask(INLINE)}, grace_ns=0))
    done = bench.serve(60)
    assert bench.line == INLINE
    assert not of(done, Drive)
    bench.run(bench.now + bench.core.limits.checkin)
    assert bench.line == BYPASS, "silent"
    bench = Bench()
    bench.feed(CheckIn({RELAY: Ask(INLINE)}, grace_ns=0))
    bench.serve()
    assert of(bench.feed(Exited("killed by signal 9")), Drive) == [Drive(RELAY, BYPASS)]
    assert bench.core.relays.states[RELAY].cause == "supervisor_lost"


def test_a_missing_line_stays_in_bypass_is_said_once_and_is_taken_when_it_appears() -> None:
    bench = Bench()
    bench.relay_error = 'GPIO line "relay-inline" not found'
    bench.feed(RelayReport(RELAY, error=bench.relay_error))
    done = bench.serve(5)
    assert not of(done, Drive)
    assert len(of(done, OpenRelay)) >= 4
    assert not [a for a in done if isinstance(a, Log) and "GPIO" in a.text]
    assert bench.core.relays.states[RELAY].cause == "relay_missing"
    bench.relay_error = ""
    bench.serve(2)
    assert bench.line == INLINE


def test_a_line_that_does_not_follow_is_a_fault(bench: Bench) -> None:
    bench.stuck = True
    done = bench.check_in()
    assert of(done, CloseRelay)
    assert bench.core.relays.states[RELAY].cause == "relay_fault"
    assert not bench.core.relays.states[RELAY].usable


def test_a_relay_that_cannot_be_driven_has_the_cause_that_its_report_names(bench: Bench) -> None:
    bench.feed(RelayReport(RELAY, error="kind", cause=Cause.RELAY_UNSUPPORTED))
    assert bench.core.relays.states[RELAY].cause == "relay_unsupported"


def test_a_slow_relay_is_read_back_when_it_has_settled() -> None:
    """Until then its old position is told and is no fault; a relay that has not moved by then is one."""
    for stuck, cause in ((False, "healthy"), (True, "relay_fault")):
        bench = Bench(settle=50 * MS)
        bench.lags = True
        bench.check_in(INLINE)
        assert (bench.line, bench.told[-1]) == (BYPASS, BYPASS)
        bench.run(bench.now + 49 * MS)
        assert bench.core.relays.states[RELAY].usable
        bench.line = BYPASS if stuck else INLINE
        bench.run(bench.now + MS)
        assert bench.core.relays.states[RELAY].cause == cause
        assert bench.told[-1] == bench.line


def test_a_line_that_falls_by_itself_is_noticed(bench: Bench) -> None:
    bench.serve()
    bench.line = BYPASS
    bench.serve(1.2, INLINE)
    assert any(isinstance(a, Log) and "reads bypass" in a.text for _, a in bench.log)


def test_a_kept_line_is_taken_over_driven_and_held_for_the_grace() -> None:
    bench = Bench()
    bench.core = KeeperCore()
    bench.line = INLINE
    done = bench.feed(Started((RELAY,)))
    assert not of(done, Drive)
    bench.run(bench.now + 29 * SECOND)
    assert bench.line == INLINE
    bench.run(bench.now + 2 * SECOND)
    assert bench.line == BYPASS


def test_the_led_follows_the_relay(bench: Bench) -> None:
    bench.check_in()
    bench.check_in(BYPASS)
    assert [a.on for _, a in bench.log if isinstance(a, Led)] == [False, True, False]
