# SPDX-License-Identifier: GPL-2.0-only
"""An order to reboot or to power off: now, after a time, or at a time of day. Pure.

A time span counts on CLOCK_MONOTONIC, so a clock that is set meanwhile does not move it; a time of day is the wall
clock's, so it is due when the clock says so.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Final, Literal

from msgspec import Struct

from appliance.errors import RefusedError

Action = Literal["reboot", "poweroff"]

RESETS: Final = ("all", "keep-images")
MAX_WAIT_S: Final = 30 * 24 * 3600
"""The longest wait: an order that is forgotten by then would surprise."""
SET_SINCE: Final = 2024  # a clock that shows an earlier year has not been set

_CLOCK = re.compile(r"(?:(\d{4})-(\d\d)-(\d\d)[T ])?(\d\d?):(\d\d)", re.ASCII)
_FORMS = "03:30, or 2026-12-24 03:30"


class Order(Struct, frozen=True):
    """What is to be done. Either `due_ns` (CLOCK_MONOTONIC) or `at` (seconds since 1970) is set."""

    action: Action
    user: str
    due_ns: int | None = None
    at: float | None = None
    force: bool = False  # also when a relay does not close
    reset: str = ""  # what the next boot erases: all, or keep-images; "" = nothing

    def seconds_left(self, now_ns: int, now: float) -> float:
        """Until it is due; 0 or less: it is."""
        return (self.due_ns - now_ns) / 1e9 if self.due_ns is not None else (self.at or 0.0) - now

    def when(self, now_ns: int, now: float) -> datetime:
        """When it is due, in the local time zone."""
        return datetime.fromtimestamp(now + self.seconds_left(now_ns, now)).astimezone()


def after(seconds: int) -> int:
    """A wait that is allowed. RefusedError otherwise."""
    if not 0 <= seconds <= MAX_WAIT_S:
        raise RefusedError(f"a reboot or poweroff can be ordered for the next {MAX_WAIT_S // 86400} days")
    return seconds


def at(text: str, now: datetime) -> float:
    """The next moment that `text` names, in seconds since 1970; `now` has the appliance's time zone. RefusedError."""
    found = _CLOCK.fullmatch(text.strip())
    if found is None:
        raise RefusedError(f'"{text}" is not a time: {_FORMS}')
    if now.year < SET_SINCE:
        raise RefusedError("the clock of the appliance is not set", "`reboot in 10min` needs no clock")
    year, month, day, hour, minute = (int(number) if number else 0 for number in found.groups())
    try:
        if year:
            wanted = datetime(year, month, day, hour, minute).astimezone()
        else:
            wanted = now.replace(tzinfo=None, hour=hour, minute=minute, second=0, microsecond=0).astimezone()
            if wanted <= now:
                tomorrow = now.replace(tzinfo=None) + timedelta(days=1)
                wanted = tomorrow.replace(hour=hour, minute=minute, second=0, microsecond=0).astimezone()
    except ValueError as error:
        raise RefusedError(f'"{text}" is not a time: {error}') from error
    if wanted <= now:
        raise RefusedError(f"{text} is over: it is {now:%Y-%m-%d %H:%M} now")
    after(int(wanted.timestamp() - now.timestamp()))
    return wanted.timestamp()
