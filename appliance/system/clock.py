# SPDX-License-Identifier: GPL-2.0-only
"""The system's clock, its time zone, and the clock chip of the board.

Only the wall clock is changed here. Leases, timers and check-ins count on CLOCK_MONOTONIC, which no change reaches.
"""

from __future__ import annotations

import ctypes
import difflib
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

ZONES: Final = "usr/share/zoneinfo"
FIRST_YEAR: Final = 2020  # a clock that shows another year is wrong
LAST_YEAR: Final = 2099
RTC: Final = Path("/sys/class/rtc/rtc0/since_epoch")
_ADJ_MAXERROR, _ADJ_STATUS = 0x0004, 0x0010
_STA_UNSYNC = 0x0040


class _Timex(ctypes.Structure):
    """The head of `struct timex` (adjtimex(2)); the rest is not used."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def _adjust(timex: _Timex) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(ctypes.byref(timex)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def set_time(moment: datetime) -> None:
    """Set the clock, and have the kernel write it to the board's clock chip. OSError: not allowed.

    The kernel keeps the chip by a clock that it believes in (the same switch that an NTP client uses).
    """
    time.clock_settime(time.CLOCK_REALTIME, moment.timestamp())
    _adjust(_Timex(modes=_ADJ_STATUS | _ADJ_MAXERROR, status=0, maxerror=0))


def is_kept() -> bool:
    """Whether the kernel considers its clock set, by hand or by NTP (adjtimex(2)). OSError: it does not say."""
    timex = _Timex(modes=0)
    _adjust(timex)
    return not timex.status & _STA_UNSYNC


def chip() -> datetime | None:
    """What the board's clock chip shows; None where the kernel shows none."""
    try:
        return datetime.fromtimestamp(int(RTC.read_text()), UTC)
    except (OSError, ValueError):
        return None


def zone_trouble(root: Path, name: str) -> str:
    """Why a time zone cannot be used; empty when it can. Reads the files of zones below `root`."""
    folder = root / ZONES
    if name == "UTC" or (folder / name).is_file():
        return ""
    if not folder.is_dir():
        return "this image has no time zones other than UTC"
    names = [str(path.relative_to(folder)) for path in folder.rglob("[A-Z]*") if path.is_file()]
    close = difflib.get_close_matches(name, names, 3, 0.5)
    said = f"; did you mean {' or '.join(close)}?" if close else ": it is an area and a city, as Europe/Berlin"
    return f'no time zone is named "{name}"{said}'


def use_zone(root: Path, name: str) -> bool:
    """Have this process and all programs that start from now on use a time zone; whether it was another one before.

    OSError: /etc cannot be written.
    """
    link, target = root / "etc/localtime", f"/{ZONES}/{name}"
    if name == "UTC" and not (root / ZONES / name).is_file():
        if not link.is_symlink():
            return False
        link.unlink()
    elif link.is_symlink() and os.readlink(link) == target:
        return False
    else:
        new = link.with_name("localtime.new")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.replace(link)
    time.tzset()
    return True
