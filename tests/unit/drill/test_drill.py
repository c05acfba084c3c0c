# SPDX-License-Identifier: GPL-2.0-only
"""Drills as decisions: what a relay drill measures, what a reset proves, when a proof is too old and what is due."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import pytest

from appliance.drill import evidence, protection
from appliance.drill.protection import Schedule, due, parse_window
from appliance.drill.record import KEPT, Pending, Record, Result
from appliance.drill.relay import FRAME, MOVE, MS, REST, RETURN, SECOND, Measured, Phase, RelayDrill, Seen
from appliance.hardware.reset_cause import Reset

INLINE, BYPASS = Seen("inline", "healthy", 100), Seen("bypass", "drill", 100)


def drilled(*steps: tuple[int, Seen]) -> RelayDrill:
    """A drill after these observations, at times from its begin on."""
    drill = RelayDrill(SECOND, INLINE)
    for now, seen in steps:
        drill.step(SECOND + now, seen)
    return drill


AWAY = (30 * MS, BYPASS)
RESTED = (30 * MS + REST, BYPASS)
BACK = (30 * MS + REST + 200 * MS, INLINE)


# -- a relay


def test_a_relay_that_moves_both_ways_is_measured() -> None:
    drill = drilled(AWAY, RESTED, BACK, (BACK[0] + 70 * MS, Seen("inline", "healthy", 101)))
    passed = "the relay moved to bypass and back"
    assert drill.result == Measured(True, passed, 30 * MS, 200 * MS, 70 * MS, 0)
    assert drill.deadline() is None


def test_bypass_is_asked_for_until_the_rest_is_over() -> None:
    asked = [drilled(*steps).bypass for steps in ([], [AWAY], [AWAY, (31 * MS, BYPASS)], [AWAY, RESTED])]
    assert asked == [True, True, True, False]


def test_a_quiet_link_is_no_failure_but_is_said() -> None:
    drill = drilled(AWAY, RESTED, BACK, (BACK[0] + FRAME, INLINE))
    assert drill.result.passed
    assert drill.result.first_frame is None
    assert "no frame came" in drill.result.said


def test_frames_that_arrive_in_bypass_are_said() -> None:
    """The contacts may be welded; whether the ports of the board stay connected is not known here."""
    drill = drilled(AWAY, (RESTED[0], BYPASS._replace(frames=7100)), BACK, (BACK[0] + MS, INLINE._replace(frames=8000)))
    assert drill.result.rest_frames == 7000
    assert "received 7000 frames in bypass" in drill.result.said


@pytest.mark.parametrize(
    ("steps", "why"),
    [
        ([(MOVE, INLINE)], "was not reported in bypass within 3 s"),
        ([AWAY, (SECOND, INLINE)], "left bypass by itself: it is reported in inline"),
        ([AWAY, (SECOND, Seen(""))], "it is reported in no position"),
        ([AWAY, RESTED, (RESTED[0] + RETURN, BYPASS._replace(cause="relay_fault"))], "within 120 s: relay_fault"),
        ([AWAY, RESTED, BACK, (BACK[0] + MS, BYPASS._replace(cause="links_down"))], "left inline again at once"),
        ([(MS, INLINE._replace(asked="bypass"))], "aborted: an operator asked for bypass meanwhile"),
        ([AWAY, RESTED, (RESTED[0] + MS, BYPASS._replace(asked="disconnect"))], "aborted: an operator asked"),
    ],
)
def test_a_drill_that_fails_asks_for_nothing_any_more(steps: list[tuple[int, Seen]], why: str) -> None:
    drill = drilled(*steps)
    assert why in drill.result.said
    assert (drill.phase, drill.bypass, drill.result.passed) == (Phase.DONE, False, False)
    drill.step(1 << 40, BYPASS)
    assert why in drill.result.said, "what ended it stays"


def test_no_limit_passes_before_its_time() -> None:
    assert drilled((MOVE - 1, INLINE)).phase is Phase.LEAVING
    assert drilled(AWAY, (AWAY[0] + REST - 1, BYPASS)).phase is Phase.RESTING
    assert drilled(AWAY, RESTED, (RESTED[0] + RETURN - 1, BYPASS)).phase is Phase.RETURNING


# -- a reset

STARVED = (
    "<4>[  100.250000] bypass-keeper: drill: the watchdog is not fed from now on\n"
    "<0>[  102.300000] Kernel panic - not syncing: NMI: Not continuing\n"
)
WATCHDOG = Pending("watchdog", "boot-1", "anna", 1.0)
POWER = Pending("power", "boot-1", "anna", 1.0)


@pytest.mark.parametrize(
    ("pending", "last", "reset", "text", "expected"),
    [
        (WATCHDOG, "boot-1", "watchdog", STARVED, ("drill", True, "2050 ms after its last feed")),
        (WATCHDOG, "boot-1", "watchdog", "", ("drill", True, "the watchdog reset the machine")),
        (WATCHDOG, "boot-1", "unknown", "", ("drill", True, "without a record")),
        (WATCHDOG, "boot-1", "power", "", ("drill", True, "without a record")),
        (WATCHDOG, "boot-1", "panic", STARVED, ("panic", False, "by something else")),
        (WATCHDOG, "boot-1", "reboot", "", ("reboot", False, "by something else")),
        (WATCHDOG, "boot-0", "watchdog", STARVED, ("watchdog", False, "before it was over")),
        (POWER, "boot-1", "panic", "", ("panic", False, "the power was not cut")),
        (POWER, "boot-1", "orderly", "", ("orderly", False, "the power was not cut")),
    ],
)
def test_what_the_reset_after_a_drill_proves(
    pending: Pending, last: str, reset: str, text: str, expected: tuple[str, bool, str]
) -> None:
    counts_as, passed, said = expected
    found = evidence.judge(pending, last, Reset(reset, "why"), text, 9.0)
    assert found.reset.kind == counts_as
    assert found.result is not None
    assert (found.result.passed, found.result.kind, found.result.by, found.result.at) == (
        passed, pending.kind, "anna", 9.0,
    )  # fmt: skip
    assert said in found.result.said


def test_the_time_to_the_reset_is_from_the_last_order() -> None:
    again = STARVED.splitlines()[0].replace("100.25", "101.80") + "\n"
    assert evidence.time_to_panic(again + STARVED) == pytest.approx(2050)
    assert evidence.time_to_panic(STARVED.splitlines()[0]) is None
    assert evidence.time_to_panic(STARVED.splitlines()[1]) is None


def test_whether_the_link_survived_a_power_cut_is_for_a_person_to_say() -> None:
    found = evidence.judge(POWER, "boot-1", Reset("power", ""), "", 9.0)
    assert (found.reset.kind, found.result, found.ask) == ("drill", None, True)
    answered = Pending("power", "boot-1", "anna", 1.0, "answer")
    assert evidence.judge(answered, "boot-1", Reset("power", ""), "", 9.0).reset.kind == "power"


@pytest.mark.parametrize("pending", [None, WATCHDOG])
def test_a_restart_of_bypassd_proves_nothing(pending: Pending | None) -> None:
    found = evidence.judge(pending, "boot-1", Reset("none", ""), "", 9.0)
    assert (found.reset.kind, found.result) == ("none", None)


# -- the record


def result(at: float, kind: str = "relay", segment: str = "main", *, passed: bool = True) -> Result:
    return Result(kind, segment, at, "anna", passed, "because", 30.5)


def test_results_and_what_outlives_a_reset_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "drills.json"
    record = Record(path)
    record.read()
    record.wait_for(WATCHDOG)
    record.add(result(1))
    again = Record(path)
    again.read()
    assert (again.pending, again.results) == (WATCHDOG, (result(1),))
    again.add(result(2, "watchdog", ""))
    assert again.pending is None, "its result is there"
    again.wait_for(POWER)
    again.ask_person()
    third = Record(path)
    third.read()
    assert third.pending is not None
    assert third.pending.state == "answer"


def test_the_record_is_bounded_and_never_loses_the_newest_of_a_kind(tmp_path: Path) -> None:
    record = Record(tmp_path / "drills.json")
    record.add(result(0, "power", ""))
    for at in range(1, 3 * KEPT):
        record.add(result(at))
    assert len(record.results) == KEPT + 1
    assert record.newest("power", "") == result(0, "power", "")
    assert record.newest("relay", "main") == result(3 * KEPT - 1)
    assert record.newest("relay", "other") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"results": [{}], "pending": null}', '{"results": 1, "pending": null}'])
def test_a_damaged_record_proves_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "drills.json").write_text(text)
    record = Record(tmp_path / "drills.json")
    record.read()
    assert (record.results, record.pending) == ((), None)


# -- what is proven

DAY = 86400.0


def newest(results: Iterable[Result]) -> protection.Newest:
    return lambda kind, segment: {(each.kind, each.segment): each for each in results}.get((kind, segment))


@pytest.mark.parametrize(
    ("results", "required", "age", "state", "said"),
    [
        ([], ("relay",), 9 * DAY, "unproven", "relay drill of segment main: none yet; `drill run relay` makes it"),
        ([result(1)], ("relay",), 9 * DAY, "protected", "proven by relay drills"),
        ([result(1)], ("relay",), 8 * DAY, "unproven", "the last one was 9 days ago"),
        ([result(1, passed=False)], ("relay",), 9 * DAY, "unproven", "the last one failed (because)"),
        ([result(1)], ("relay", "watchdog"), 9 * DAY, "unproven", "watchdog drill: none yet; `drill run watchdog`"),
        ([result(1), result(1, "watchdog", "")], ("relay", "watchdog"), 9 * DAY, "protected", "relay and watchdog"),
        ([], ("relay",), 0, "not judged", "drill.max_age_days is 0"),
        ([], (), 9 * DAY, "protected", ""),
    ],
)
def test_what_is_proven(results: list[Result], required: tuple[str, ...], age: float, state: str, said: str) -> None:
    found = protection.judge(required, ["main"], newest(results), age, 1 + 9 * DAY)
    assert found.state == state
    assert said in found.detail


def test_a_machine_without_a_relay_has_nothing_to_prove() -> None:
    assert protection.judge(("relay",), [], newest([]), DAY, 1).state == "none"


# -- what is due

SUNDAY = datetime(2026, 11, 29, 3, 30).astimezone()  # a Sunday


@pytest.mark.parametrize(
    ("text", "day", "clock", "inside"),
    [
        ("sun 03:00-04:00", 29, "03:30", True),
        ("sun 03:00-04:00", 28, "03:30", False),
        ("sun 03:00-04:00", 29, "02:59", False),
        ("sun 03:00-04:00", 29, "04:00", False),
        ("03:00-04:00", 28, "03:30", True),
        ("sat 23:00-01:00", 28, "23:30", True),
        ("sat 23:00-01:00", 29, "00:30", True),
        ("sat 23:00-01:00", 28, "00:30", False),
        ("sun 23:00-01:00", 30, "00:30", True),
        ("23:00-01:00", 30, "12:00", False),
    ],
)
def test_a_window_of_the_week(text: str, day: int, clock: str, inside: bool) -> None:
    assert parse_window(text).holds(datetime.fromisoformat(f"2026-11-{day} {clock}")) == inside


@pytest.mark.parametrize("text", ["sunday 03:00-04:00", "03:00", "03:00-03:00", "sun sat 03:00-04:00", "25:00-26:00"])
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(ValueError, match=r"window|empty|hour|format"):
        parse_window(text)


def schedule(every_days: float = 7, window: str = "sun 03:00-04:00", kinds: tuple[str, ...] = ("relay",)) -> Schedule:
    return Schedule(kinds, every_days * DAY, parse_window(window) if window else None)


def test_in_the_window_the_oldest_drill_is_due() -> None:
    now = SUNDAY.timestamp()
    both = [result(now - 8 * DAY), result(now - 9 * DAY, segment="side")]
    assert due(schedule(), ["main", "side"], newest(both), SUNDAY) == ("relay", "side")
    assert due(schedule(), ["main", "side"], newest([both[1]]), SUNDAY) == ("relay", "main"), "none yet is oldest"
    assert due(schedule(10), ["main", "side"], newest(both), SUNDAY) is None
    assert due(schedule(kinds=("watchdog",)), ["main"], newest(both), SUNDAY) == ("watchdog", "")
    failed = [result(now - 3600, passed=False)]
    assert due(schedule(), ["main"], newest(failed), SUNDAY) is None, "not again at once"
    assert due(schedule(), ["main"], newest([result(now - 7 * 3600, passed=False)]), SUNDAY) == ("relay", "main")


@pytest.mark.parametrize(
    ("asked", "now"),
    [
        (schedule(every_days=0), SUNDAY),
        (schedule(window=""), SUNDAY),
        (schedule(window="mon 03:00-04:00"), SUNDAY),
        (schedule(window="03:00-04:00"), datetime(1970, 1, 1, 3, 30).astimezone()),
    ],
)
def test_nothing_is_due_unasked_outside_the_window_or_without_a_clock(asked: Schedule, now: datetime) -> None:
    assert due(asked, ["main"], newest([]), now) is None
