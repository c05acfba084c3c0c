# SPDX-License-Identifier: GPL-2.0-only
"""Times and sizes as written in the configuration, with their units."""

from __future__ import annotations

import re
from typing import Self

_MINUTE = 60_000_000_000
_TIME_UNITS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000, "min": _MINUTE, "m": _MINUTE}
_TIME_UNITS["h"] = 60 * _MINUTE
_SIZE_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Duration(int):
    """A time in nanoseconds, written "100ms", "2s", "1.5min" (ns, us, ms, s, min or m, h)."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a time with its unit; ValueError says what is accepted."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ns|us|ms|s|min|m|h)", text.strip())
        if not found:
            raise ValueError(f'"{text}" is not a time with a unit, such as "100ms" or "2s"')
        return cls(round(float(found[1]) * _TIME_UNITS[found[2]]))

    def __str__(self) -> str:
        for unit in ("h", "min", "s", "ms", "us"):
            if self and self % _TIME_UNITS[unit] == 0:
                return f"{self // _TIME_UNITS[unit]}{unit}"
        return f"{int(self)}ns"

    @property
    def seconds(self) -> float:
        """The same time in seconds."""
        return int(self) / 1e9


class Size(int):
    """A size in bytes, written "512M" (K, M, G are powers of 1024)."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a size with its unit; ValueError says what is accepted."""
        found = re.fullmatch(r"(\d+)\s*([KMG]?)", text.strip())
        if not found:
            raise ValueError(f'"{text}" is not a size such as "512M" or "2G"')
        return cls(int(found[1]) * _SIZE_UNITS[found[2]])

    def __str__(self) -> str:
        for unit in ("G", "M", "K"):
            if self and self % _SIZE_UNITS[unit] == 0:
                return f"{self // _SIZE_UNITS[unit]}{unit}"
        return str(int(self))
