# SPDX-License-Identifier: GPL-2.0-only
"""The keys of a table of board.toml: what each may hold, and one line of text for what it may not.

Both readers use it: bypassd, which refuses the file, and the keeper, which keeps the one relay in bypass. Imports are
light: the keeper loads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from appliance.ranges import Range

MS = 1_000_000


class Key(NamedTuple):
    """One key. `kind`: text, line, time, number, date, path, levels, bytes, ports, texts. `words`: the only texts that
    are allowed.

    `range`: of a time in ms, or of a number. A number may be written as text in hexadecimal ("0x37"). `pattern`: what a
    text must match in full, such as `example`.
    """

    meaning: str
    kind: str = "text"
    words: tuple[str, ...] = ()
    range: Range | None = None
    required: bool = False
    pattern: str = ""
    example: str = ""


Keys = Mapping[str, Key]


def complaints(keys: Keys, table: Mapping[str, object], others: tuple[str, ...] = ()) -> list[str]:
    """Everything that is wrong with a table, as "KEY: what"; `others`: keys that are allowed and checked elsewhere."""
    found = []
    for key, value in table.items():
        if key in keys:
            if said := _complaint(keys[key], value):
                found.append(f"{key}: {said}")
        elif key not in others:
            import difflib

            close = difflib.get_close_matches(key, [*others, *keys], 1)
            tail = f'did you mean "{close[0]}"?' if close else f"there are: {', '.join([*others, *keys])}"
            found.append(f"{key}: no such key; {tail}")
    found += [f"{key} is missing: {row.meaning}" for key, row in keys.items() if row.required and key not in table]
    return found


def milliseconds(value: object) -> float:
    """A time with its unit. ValueError says what is accepted."""
    from appliance.units import Duration

    return Duration.parse(str(value)) / MS


def number(value: object) -> int:
    """A number, or its text. ValueError: it is none."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"must be a number, not {value!r}")
    try:
        return int(value, 0) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f'must be a number such as 5 or "0x37", not {value!r}') from None


def levels(value: object) -> list[tuple[bool, float]]:
    """A sequence such as "high 10ms, low 20ms": level and time in ms. ValueError says what is wrong with it."""
    found = []
    for step in str(value).split(","):
        word, _, time = step.strip().partition(" ")
        if word not in ("high", "low"):
            raise ValueError(f'must be levels and times such as "high 10ms, low 10ms", not {value!r}')
        found.append((word == "high", milliseconds(time)))
    return found


def _complaint(key: Key, value: object) -> str:
    """What is wrong with a value; "" if nothing is."""
    try:
        match key.kind:
            case "time":
                return _outside(key.range, milliseconds(value), " ms")
            case "number":
                return _outside(key.range, number(value), "")
            case "levels":
                return _outside(key.range, sum(time for _, time in levels(value)), " ms in all")
            case "ports":
                if not isinstance(value, list) or len(value) != 2 or not all(isinstance(name, str) for name in value):
                    return f'must be the names of two ports such as ["lan0", "wan0"], not {value!r}'
                return "" if value[0] != value[1] else f"needs two different ports, not {value!r}"
            case "texts":
                if isinstance(value, list) and value and all(isinstance(text, str) and text for text in value):
                    return ""
                return f"must be a list of texts, not {value!r}"
            case "bytes":
                if not isinstance(value, str) or not 1 <= len(bytes.fromhex(value)) <= 32:
                    return f'must be 1 to 32 bytes such as "01 0a", not {value!r}'
                return ""
            case "date":
                import datetime

                if isinstance(value, datetime.datetime) or not isinstance(value, datetime.date):
                    return f"must be a date such as 2026-05-03, not {value!r}"
                return ""
    except ValueError as error:
        return str(error) if key.kind != "bytes" else f'must be bytes such as "01 0a", not {value!r}'
    if not isinstance(value, str) or not value or (key.words and value not in key.words):
        return f"must be {' or '.join(key.words) or 'text'}, not {value!r}"
    if key.pattern and not re.fullmatch(key.pattern, value):
        return f'must be like "{key.example}", not {value!r}'
    if key.kind == "path" and not value.startswith("/"):
        return f"must be a path that begins with /, not {value!r}"
    if key.kind == "line" and re.fullmatch(r".*:\d*[^\d].*|.*:", value):
        return f'must be the name of a line, or CHIP:OFFSET such as "gpiochip0:5", not {value!r}'
    return ""


def _outside(allowed: Range | None, value: float, unit: str) -> str:
    if allowed is None or allowed.least <= value <= allowed.most:
        return ""
    return f"must be {allowed.least} to {allowed.most}{unit}, not {value:g}"
