# SPDX-License-Identifier: GPL-2.0-only
"""Orders to a relay, and their reports: late, missing or overtaken; and the line of a keep-alive relay."""

from __future__ import annotations

from appliance.keeper.core import KeeperCore
from appliance.keeper.lifecycle import Phase
from appliance.keeper.limits import MS, SECOND
from appliance.keeper.messages import (
    BYPASS,
    INLINE,
    UNKNOWN,
    Action,
    Ask,
    CheckIn,
    CloseRelay,
    Drive,
    Exited,
    Kick,
    Log,
    OpenRelay,
    ReadRelay,
    RelayReport,
    Send,
    Started,
    Stop,
    Tick,
)
from tests.support.keeper_bench import of

A = "a"
HIGH, LOW = 200 * MS, 100 * MS
HANGS = f"relay {A}: no answer within 2000 ms: its bus or controller hangs"


def core_with(
    position: str | None = BYPASS,
    *,
    settle: int = 0,
    keep_alive: tuple[int, int] | None = None,
    keeps: bool = False,
) -> tuple[KeeperCore, list[Action]]:
    """A core with one relay that was opened at time 0 and reported `position`; None: it has not reported."""
    core = KeeperCore()
    alive = {A: keep_alive} if keep_alive else None
    started = Started((A,), watchdog=False, settle={A: settle}, keep_alive=alive, keeps=frozenset({A} if keeps else ()))
    done = core.step(0, started)
    if position is not None:
        done += core.step(0, RelayReport(A, position))
    return core, done


def asked(want: str) -> CheckIn:
    return CheckIn({A: Ask(want, "healthy")})


def shown(core: KeeperCore) -> tuple[str, str, bool]:
    """Position, cause and usable, as bypassd is told."""
    relay = core.state()["relays"][A]  # type: ignore[index]
    return relay["relay"], relay["cause"], relay["usable"]


def pass_time(core: KeeperCore, start: int, end: int, want: str = INLINE) -> list[tuple[int, Action]]:
    """Steps by deadline from `start` to `end`, with check-ins each 100 ms; what was ordered when."""
    done, checkin = [], start
    while (now := min(core.deadline(), checkin)) <= end:
        event = asked(want) if checkin <= now else Tick()
        checkin += 100 * MS if checkin <= now else 0
        done += [(now, action) for action in core.step(now, event)]
    return done


def when(done: list[tuple[int, Action]], action: Action) -> list[int]:
    return [now for now, one in done if type(one) is type(action) and one == action]


# -- an order that is not carried out in time


def test_a_relay_that_never_answers_its_opening_is_named_and_tried_again() -> None:
    core, _ = core_with(None)
    done = pass_time(core, 0, 3 * SECOND)
    assert when(done, CloseRelay(A)) == when(done, Log(HANGS)) == [2 * SECOND]
    assert when(done, OpenRelay(A)) == [3 * SECOND], "the first one was in the step that began"
    assert shown(core) == (BYPASS, "relay_no_answer", False)
    later = pass_time(core, 3 * SECOND + 1, 9 * SECOND)
    assert when(later, CloseRelay(A)) == [5 * SECOND, 8 * SECOND]
    assert not when(later, Log(HANGS)), "said once"


def test_a_relay_that_hangs_when_it_is_driven() -> None:
    core, _ = core_with()
    done = pass_time(core, MS, 2 * SECOND + MS)
    assert when(done, Drive(A, INLINE)) == [MS]
    assert when(done, CloseRelay(A)) == [2 * SECOND + MS]
    assert Send() in [action for now, action in done if now == 2 * SECOND + MS]
    assert shown(core) == (BYPASS, "relay_no_answer", False)


def test_a_relay_that_hangs_when_it_is_read_back() -> None:
    core, _ = core_with()
    core.step(MS, asked(INLINE))
    core.step(MS, RelayReport(A, INLINE, expected=INLINE, moved=True))
    done = pass_time(core, 2 * MS, 3 * SECOND)
    assert when(done, ReadRelay(A, INLINE)) == [SECOND, 2 * SECOND]
    assert when(done, CloseRelay(A)) == [3 * SECOND], "the first read is what is overdue, not the last"


def test_a_relay_that_answers_is_never_overdue() -> None:
    core, _ = core_with()
    core.step(MS, asked(INLINE))
    core.step(2 * SECOND, RelayReport(A, INLINE, expected=INLINE, moved=True))
    core.step(2 * SECOND, Tick())
    assert shown(core) == (INLINE, "healthy", True)
    core.step(2 * SECOND + MS, RelayReport(A, INLINE, expected=INLINE))  # of the read that was due meanwhile
    assert not of([action for _, action in pass_time(core, 2 * SECOND + 2 * MS, 2900 * MS)], CloseRelay)


def test_a_machine_that_stood_still_gives_a_relay_its_time_again() -> None:
    """The thread that carries out the order stood still too."""
    for late, still in ((150 * MS, False), (SECOND, True)):
        core, _ = core_with()
        pass_time(core, MS, 1900 * MS)  # driven at 1 ms: overdue at 2 s and 1 ms
        core.step(1999 * MS, asked(INLINE))
        due = core.deadline()
        assert due == 2 * SECOND, "the next read"
        done = core.step(due + late, asked(INLINE))
        assert bool(of(done, CloseRelay)) is not still
        if still:
            after = pass_time(core, due + late, due + late + MS)
            assert when(after, CloseRelay(A)) == [2 * SECOND + MS + late]


# -- reports that come late


def test_the_report_of_an_earlier_order_leaves_the_last_one_awaited() -> None:
    core, _ = core_with()
    core.step(MS, asked(INLINE))
    core.step(2 * MS, asked(BYPASS))
    core.step(500 * MS, RelayReport(A, INLINE, expected=INLINE, moved=True))
    assert shown(core)[0] == INLINE, "where it really is"
    done = pass_time(core, 500 * MS, 2500 * MS, BYPASS)
    assert when(done, CloseRelay(A)) == [2500 * MS]


def test_the_report_of_the_last_order_leaves_nothing_awaited() -> None:
    core, _ = core_with()
    core.step(MS, asked(INLINE))
    core.step(2 * MS, RelayReport(A, INLINE, expected=INLINE, moved=True))
    core.step(SECOND, Tick())
    core.step(1001 * MS, RelayReport(A, INLINE, expected=INLINE))
    assert not when(pass_time(core, 1002 * MS, 1999 * MS), CloseRelay(A))
    core.step(2 * SECOND, Tick())
    core.step(2001 * MS, RelayReport(A, INLINE, expected=INLINE))
    assert not when(pass_time(core, 2001 * MS, 2600 * MS), CloseRelay(A)), "answered each time"


def test_contacts_settle_from_the_moment_when_they_were_moved() -> None:
    """An order that waited for its turn on a slow bus leaves the contacts their whole time."""
    core, _ = core_with(settle=50 * MS)
    core.step(MS, asked(INLINE))
    core.step(31 * MS, RelayReport(A, BYPASS, expected=INLINE, moved=True))
    assert not of(core.step(51 * MS, Tick()), ReadRelay)
    assert core.deadline() == 81 * MS
    assert of(core.step(81 * MS, Tick()), ReadRelay) == [ReadRelay(A, INLINE)]
    assert of(core.step(81 * MS, RelayReport(A, BYPASS, expected=INLINE)), CloseRelay)


def test_a_plain_read_moves_nothing_and_prolongs_nothing() -> None:
    core, _ = core_with(settle=50 * MS)
    core.step(MS, asked(INLINE))
    core.step(2 * MS, RelayReport(A, BYPASS, expected=INLINE, moved=True))
    core.step(20 * MS, RelayReport(A, BYPASS, expected=INLINE))
    assert core.deadline() == 52 * MS


def test_the_move_of_an_earlier_order_does_not_prolong_the_last_one() -> None:
    core, _ = core_with(settle=50 * MS)
    core.step(MS, asked(INLINE))
    core.step(2 * MS, asked(BYPASS))
    core.step(40 * MS, RelayReport(A, INLINE, expected=INLINE, moved=True))
    assert core.deadline() == 52 * MS


# -- a relay that failed


def test_one_that_comes_back_inline_goes_to_bypass_first() -> None:
    """Only what an earlier keeper left is taken over; one that failed under this keeper has to be asked for again."""
    core, _ = core_with(keeps=True)
    core.step(MS, asked(INLINE))
    core.step(2 * MS, RelayReport(A, INLINE, expected=INLINE, moved=True))
    core.step(3 * MS, RelayReport(A, error="the bus is gone"))
    assert shown(core) == (UNKNOWN, "relay_missing", False)
    core.step(1003 * MS, Tick())
    done = core.step(1004 * MS, RelayReport(A, INLINE))
    assert of(done, Drive) == [Drive(A, BYPASS)]


def test_nothing_of_it_is_due_before_it_is_tried_again() -> None:
    core, _ = core_with(settle=50 * MS, keep_alive=(HIGH, LOW))
    core.step(MS, asked(INLINE))
    core.step(2 * MS, RelayReport(A, INLINE, expected=INLINE, moved=True))
    core.step(3 * MS, RelayReport(A, error="gone"))
    assert core.deadline() > HIGH + LOW, "neither settling nor toggling: what is due is a look at bypassd"


def test_an_exit_opens_again_what_failed_away_from_bypass() -> None:
    """It is the last chance to bring a relay to bypass that keeps its position without us."""
    core, _ = core_with(keeps=True)
    core.step(MS, asked(INLINE))
    core.step(2 * MS, RelayReport(A, error="gone"))
    core.step(3 * MS, Exited("killed by signal 9"))
    done = [action for action in core.step(4 * MS, Stop()) if isinstance(action, OpenRelay | Drive)]
    assert done == [OpenRelay(A), Drive(A, BYPASS)]


def test_an_exit_drives_what_is_open_without_opening_it_again() -> None:
    core, _ = core_with(settle=500 * MS)
    core.step(MS, asked(INLINE))
    core.step(600 * MS, RelayReport(A, INLINE, expected=INLINE, moved=True))
    core.step(1200 * MS, RelayReport(A, INLINE, expected=INLINE))
    core.step(1201 * MS, Exited("killed by signal 9"))
    assert core.bypassd.phase is Phase.DOWN
    assert not of(core.step(1202 * MS, Stop()), OpenRelay)


# -- keep-alive


def test_its_line_is_toggled_while_it_is_inline_and_from_when_the_order_left_it_high() -> None:
    """Each level for its own time; after a start sequence that took long, the first high counts from its end."""
    core, done = core_with(keep_alive=(HIGH, LOW))
    assert not of(done, Kick)
    core.step(MS, asked(INLINE))
    core.step(150 * MS, RelayReport(A, INLINE, expected=INLINE, moved=True))
    kicks = [(now, one.level) for now, one in pass_time(core, 150 * MS, 900 * MS) if isinstance(one, Kick)]
    assert [(now // MS, level) for now, level in kicks] == [
        (350, False), (450, True), (650, False), (750, True),
    ]  # fmt: skip
    assert of(core.step(901 * MS, asked(BYPASS)), Drive) == [Drive(A, BYPASS)]
    assert not of([one for _, one in pass_time(core, 902 * MS, 1900 * MS, BYPASS)], Kick)


def test_the_report_of_an_earlier_order_toggles_nothing() -> None:
    core, _ = core_with(keep_alive=(HIGH, LOW))
    core.step(MS, asked(INLINE))
    core.step(2 * MS, asked(BYPASS))
    core.step(3 * MS, RelayReport(A, INLINE, expected=INLINE, moved=True))
    assert not of([one for _, one in pass_time(core, 4 * MS, 900 * MS, BYPASS)], Kick)


def test_one_that_an_earlier_keeper_toggled_is_toggled_at_once() -> None:
    """Its time may be almost over: high first."""
    core, done = core_with(INLINE, keep_alive=(HIGH, LOW))
    assert of(done, Kick) == [Kick(A, True)]
    assert core.deadline() == HIGH
    assert of(core.step(HIGH, asked(INLINE)), Kick) == [Kick(A, False)]


def test_a_relay_of_another_kind_is_never_toggled() -> None:
    core, done = core_with(INLINE)
    done += [one for _, one in pass_time(core, 0, 2 * SECOND)]
    assert not of(done, Kick)


def test_a_name_may_have_blanks() -> None:
    core = KeeperCore()
    assert of(core.step(0, Started(("port 1 relay",), watchdog=False)), OpenRelay) == [OpenRelay("port 1 relay")]
