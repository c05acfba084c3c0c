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
    CloseWatchdog,
    Drive,
    Exit,
    Exited,
    Kill,
    Led,
    Log,
    OpenRelay,
    ReadRelay,
    RelayReport,
    Send,
    Started,
    Stop,
    Tick,
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


# -- several relays, step by step

A, B = "a", "b"


def two(settle: dict[str, int] | None = None) -> KeeperCore:
    """A core with two relays, both taken in bypass at time 0, and bypassd started."""
    core = KeeperCore()
    core.step(0, Started((A, B), watchdog=False, settle=settle))
    for name in (A, B):
        core.step(0, RelayReport(name, BYPASS))
    return core


def asks(a: str, b: str) -> CheckIn:
    return CheckIn({A: Ask(a, "healthy"), B: Ask(b, "operator")})


def shown(core: KeeperCore, name: str) -> tuple[str, str, bool, str]:
    """Position, cause, usable and error of a relay as bypassd is sent them."""
    relay = core.state()["relays"][name]  # type: ignore[index]
    return relay["relay"], relay["cause"], relay["usable"], relay["error"]


def test_a_relay_is_in_bypass_and_starting_until_bypassd_asks() -> None:
    core = KeeperCore()
    core.step(0, Started((A,)))
    assert shown(core, A) == (BYPASS, "starting", False, "")
    core.step(0, RelayReport(A, BYPASS))
    assert shown(core, A) == (BYPASS, "starting", True, "")


def test_each_relay_goes_where_it_is_asked_to() -> None:
    core = two()
    done = core.step(1, asks(INLINE, BYPASS))
    assert [action for action in done if isinstance(action, Drive | Send)] == [Drive(A, INLINE), Send()]
    assert Send() in core.step(1, RelayReport(A, INLINE, expected=INLINE))
    assert shown(core, A) == (INLINE, "healthy", True, "")
    assert shown(core, B) == (BYPASS, "operator", True, "")
    assert of(core.step(2, asks(BYPASS, INLINE)), Drive) == [Drive(A, BYPASS), Drive(B, INLINE)]


def test_the_led_is_on_only_while_all_relays_are_inline() -> None:
    core = two()
    assert of(core.step(1, asks(INLINE, BYPASS)), Led) == []
    assert of(core.step(2, asks(INLINE, INLINE)), Led) == [Led(True)]
    assert of(core.step(3, asks(BYPASS, INLINE)), Led) == [Led(False)]


def test_the_led_of_a_board_without_relays_stays_off() -> None:
    core = KeeperCore()
    done = core.step(0, Started(())) + core.step(1, CheckIn({}))
    assert of(done, Led) == [Led(False)]


def test_a_relay_without_a_settling_time_is_judged_by_what_is_read_at_once() -> None:
    core = two()
    core.step(0, asks(INLINE, BYPASS))
    assert of(core.step(0, RelayReport(A, BYPASS, expected=INLINE)), CloseRelay) == [CloseRelay(A)]
    said = f"relay {A}: set to inline, reads bypass: check coil and GPIO controller"
    assert shown(core, A) == (BYPASS, "relay_fault", False, said)


def test_each_relay_settles_in_its_own_time() -> None:
    core = two({A: 50 * MS})
    core.step(MS, asks(INLINE, INLINE))
    core.step(MS, RelayReport(B, INLINE, expected=INLINE))
    assert core.deadline() == 51 * MS
    assert of(core.step(51 * MS, Tick()), ReadRelay) == [ReadRelay(A, INLINE)]


def test_all_relays_are_read_back_once_a_second_and_only_a_change_is_told() -> None:
    core = two()
    core.step(MS, asks(INLINE, BYPASS))
    for name, position in ((A, INLINE), (B, BYPASS)):
        core.step(MS, RelayReport(name, position, expected=position))
    for number in (1, 2):
        assert not of(core.step(number * SECOND - MS, asks(INLINE, BYPASS)), ReadRelay)
        read = of(core.step(number * SECOND, Tick()), ReadRelay)
        assert read == [ReadRelay(A, INLINE), ReadRelay(B, BYPASS)]
        assert not of(core.step(number * SECOND, RelayReport(A, INLINE, expected=INLINE)), Send)


def test_a_relay_that_is_lost_is_told_at_once_tried_a_second_later_and_not_read_meanwhile() -> None:
    core = two()
    core.step(MS, asks(INLINE, INLINE))
    done = core.step(900 * MS, RelayReport(A, error="gone"))
    assert [action for action in done if isinstance(action, Log | Send)] == [Log("gone"), Send()]
    assert shown(core, A) == (BYPASS, "relay_missing", False, "gone")
    assert shown(core, B)[2]
    assert of(core.step(SECOND, Tick()), ReadRelay) == [ReadRelay(B, INLINE)]
    assert not of(core.step(1899 * MS, asks(INLINE, INLINE)), OpenRelay)
    assert of(core.step(1900 * MS, Tick()), OpenRelay) == [OpenRelay(A)]
    done = core.step(1900 * MS, RelayReport(A, error="gone"))
    assert not of(done, Log) + of(done, Send), "the same error is said once"
    core.step(2900 * MS, Tick())
    done = core.step(2910 * MS, RelayReport(A, BYPASS))
    assert of(done, Drive) == [Drive(A, BYPASS)], "it has to show that it works"
    assert not of(done, Log) + of(done, Send)
    done = core.step(2920 * MS, RelayReport(A, BYPASS, expected=BYPASS, moved=True))
    assert Send() in done
    assert not of(done, Drive), "bypassd has to ask again: the cause may have changed"
    assert shown(core, A) == (BYPASS, "relay_missing", True, "")
    assert of(core.step(2920 * MS, asks(INLINE, INLINE)), Drive) == [Drive(A, INLINE)]


def test_a_relay_that_stays_inline_is_one_fault_and_inline_until_it_is_found_in_bypass() -> None:
    """Opened again, it is driven to bypass, and judged when its contacts have had their time; nothing else is told."""
    core = two({A: 50 * MS, B: 50 * MS})
    core.step(MS, asks(INLINE, BYPASS))
    core.step(60 * MS, RelayReport(A, INLINE, expected=INLINE))
    core.step(100 * MS, CheckIn({A: Ask(BYPASS, "operator"), B: Ask(BYPASS, "operator")}))
    done = core.step(160 * MS, RelayReport(A, INLINE, expected=BYPASS))
    assert of(done, CloseRelay) == [CloseRelay(A)]
    fault = (INLINE, "relay_fault", False, f"relay {A}: set to bypass, reads inline: check coil and GPIO controller")
    assert shown(core, A) == fault
    for now, found in ((1160, INLINE), (2220, BYPASS)):
        assert OpenRelay(A) in core.step(now * MS, Tick())
        done = core.step((now + 1) * MS, RelayReport(A, found))
        assert of(done, Drive) == [Drive(A, BYPASS)]
        done = core.step((now + 2) * MS, RelayReport(A, found, expected=BYPASS, moved=True))
        assert not of(done, Log) + of(done, Send)
        assert ReadRelay(A, BYPASS) in core.step((now + 52) * MS, Tick())
        assert shown(core, A) == fault
        done = core.step((now + 60) * MS, RelayReport(A, found, expected=BYPASS))
        assert (Send() in done) == (found == BYPASS)
        assert of(done, CloseRelay) == ([] if found == BYPASS else [CloseRelay(A)])
    assert shown(core, A) == (BYPASS, "relay_fault", True, "")


def test_a_relay_that_fails_while_it_has_to_show_that_it_works_is_tried_again_a_second_later() -> None:
    core = two()
    core.step(MS, RelayReport(A, error="gone"))
    core.step(SECOND + MS, Tick())
    core.step(SECOND + 2 * MS, RelayReport(A, BYPASS))
    done = core.step(SECOND + 3 * MS, RelayReport(A, error="gone", expected=BYPASS))
    assert not of(done, Log) + of(done, Send)
    assert OpenRelay(A) in core.step(2 * SECOND + 3 * MS, Tick())
    assert of(core.step(2 * SECOND + 4 * MS, RelayReport(A, INLINE)), Drive) == [Drive(A, BYPASS)]


def test_relays_are_held_to_the_end_of_the_grace_and_to_the_nanosecond() -> None:
    core = two()
    core.step(MS, CheckIn({A: Ask(INLINE), B: Ask(BYPASS, "operator")}, grace_ns=3 * SECOND))
    core.step(MS, RelayReport(A, INLINE, expected=INLINE))
    core.step(MS, Exited("killed by signal 9"))
    end = MS + 3 * SECOND
    assert not of(core.step(end - 1, Tick()), Drive)
    assert core.deadline() == end
    assert of(core.step(end, Tick()), Drive) == [Drive(A, BYPASS)]
    assert (shown(core, A)[1], shown(core, B)[1]) == ("supervisor_lost", "operator")


def test_a_stop_without_bypassd_drives_what_is_held_to_bypass_before_the_watchdog_is_let_go() -> None:
    core = two()
    core.step(MS, asks(INLINE, BYPASS))
    core.step(MS, RelayReport(A, INLINE, expected=INLINE))
    core.step(2 * MS, Exited("killed by signal 9"))
    done = core.step(3 * MS, Stop())
    ordered = [action for action in done if isinstance(action, Drive | CloseWatchdog | Exit)]
    assert ordered == [Drive(A, BYPASS), CloseWatchdog(60_000), Exit()]
    assert shown(core, A)[1] == "stopping"


def test_a_slow_relay_that_has_not_confirmed_bypass_is_driven_again_at_the_end() -> None:
    core = two({A: 500 * MS, B: 500 * MS})
    core.step(MS, asks(INLINE, BYPASS))
    core.step(501 * MS, RelayReport(A, INLINE, expected=INLINE))
    assert of(core.step(510 * MS, Stop()), Drive) == [Drive(A, BYPASS)]
    assert of(core.step(520 * MS, Exited("ended with status 0")), Drive) == [Drive(A, BYPASS)]


def test_an_orderly_stop_tries_no_lost_relay_again() -> None:
    core = two()
    core.step(MS, asks(INLINE, BYPASS))
    core.step(2 * MS, RelayReport(B, error="gone"))
    core.step(3 * MS, Stop())
    core.step(4 * MS, RelayReport(A, error="gone too"))
    done = [action for now in range(1, 5) for action in core.step(now * SECOND, Tick())]
    assert not of(done, OpenRelay)
