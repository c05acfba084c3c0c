# SPDX-License-Identifier: GPL-2.0-only
"""Whether drills prove that the link survives this appliance, and which drill is due. Pure.

Unproven is no fault: a box on its first day is, and works. It says what to do, raises no alarm and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, time
from typing import Final, NamedTuple

from appliance.drill.record import Result

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
SET_SINCE: Final = 2025  # a clock that shows an earlier year was never set
_MAKE: Final = {
    "relay": "`drill run relay`",
    "watchdog": "`drill run watchdog`",
    "power": "`drill run power`",
}
RETRY_S: Final = 6 * 3600  # after an attempt by itself, passed or not

Newest = Callable[[str, str], Result | None]
"""The newest result of a kind and segment."""


class Protection(NamedTuple):
    """`state`: protected, unproven, not judged (max_age_days is 0), or none (no relay). `detail`: why; what to do."""

    state: str
    detail: str


class Window(NamedTuple):
    """A time of the week. `day` None: every day. One that ends before it begins ends on the next day."""

    day: int | None
    begin: time
    end: time

    def holds(self, now: datetime) -> bool:
        """Whether `now`, in local time, is in it."""
        clock, today = now.time(), now.weekday()
        if self.begin <= self.end:
            return self.day in (None, today) and self.begin <= clock < self.end
        return (self.day in (None, today) and clock >= self.begin) or (
            self.day in (None, (today - 1) % 7) and clock < self.end
        )


def parse_window(text: str) -> Window:
    """`sun 03:00-04:00`, or `03:00-04:00` for every day. ValueError."""
    *day, hours = text.split()
    begin, dash, end = hours.partition("-")
    if len(day) > 1 or not dash or (day and day[0] not in _DAYS):
        raise ValueError(f'"{text}" is not a window such as "sun 03:00-04:00" or "03:00-04:00"')
    found = Window(_DAYS.index(day[0]) if day else None, time.fromisoformat(begin), time.fromisoformat(end))
    if found.begin == found.end:
        raise ValueError(f'"{text}" is empty')
    return found


def places(kind: str, segments: Sequence[str]) -> Sequence[str]:
    """The segments for which a drill of this kind is made; the watchdog and the power are those of the machine."""
    return segments if kind == "relay" else ("",)


def judge(required: Sequence[str], segments: Sequence[str], newest: Newest, max_age_s: float, now: float) -> Protection:
    """`segments`: those that have a relay; `now`: seconds since 1970."""
    if not segments:
        return Protection("none", "no segment has a relay that a drill could prove")
    if not max_age_s:
        return Protection("not judged", "drill.max_age_days is 0")
    unproven = []
    for kind in required:
        for segment in places(kind, segments):
            if why := _missing(newest(kind, segment), max_age_s, now):
                of = f" of segment {segment}" if segment else ""
                unproven.append(f"{kind} drill{of}: {why}; {_MAKE[kind]} makes it")
    if unproven:
        return Protection("unproven", "; ".join(unproven))
    return Protection("protected", f"proven by {' and '.join(required)} drills")


def _missing(result: Result | None, max_age_s: float, now: float) -> str:
    """Why a result does not prove it now; empty: it does."""
    if result is None:
        return "none yet"
    if not result.passed:
        return f"the last one failed ({result.said})"
    age = now - result.at
    if age > max_age_s:
        return f"the last one was {int(age // 86400)} days ago"
    return ""


class Schedule(NamedTuple):
    """The kinds of drill that are made by themselves, how often (0: never), and when (None: never)."""

    kinds: Sequence[str]
    every_s: float
    window: Window | None


def due(schedule: Schedule, segments: Sequence[str], newest: Newest, now: datetime) -> tuple[str, str] | None:
    """The drill to make by itself now, and its segment: the oldest that is due. `now` in local time.

    Nothing while the clock is not set.
    """
    window, every_s = schedule.window, schedule.every_s
    if window is None or not every_s or now.year < SET_SINCE or not window.holds(now):
        return None
    waiting = []
    for kind in schedule.kinds:
        for segment in places(kind, segments):
            last = newest(kind, segment)
            age = now.timestamp() - last.at if last is not None else float("inf")
            if age >= (every_s if last is None or last.passed else RETRY_S):
                waiting.append((age, kind, segment))
    return max(waiting)[1:] if waiting else None
