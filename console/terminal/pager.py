# SPDX-License-Identifier: GPL-2.0-only
"""Shows a long text a page at a time, on any terminal: it only prints and waits for a key.

Keys that wait already (pasted commands) are never taken for answers: then the text goes through without a stop.
"""

from __future__ import annotations

import os
import select
from typing import TextIO

MORE = "-- more -- (space: page, Enter: line, q: end)"


def page(text: str, out: TextIO, keys: int, size: tuple[int, int]) -> None:
    """Print `text`, stopping when a page of `size` (columns, rows) is full; `keys` is the keyboard's descriptor."""
    columns, rows = size
    room = rows - 1
    lines = text.splitlines()
    for number, line in enumerate(lines):
        needs = max(1, -(-_width(line) // columns))
        if room < needs and number and not _waiting(keys):
            room = _ask(out, keys, rows)
            if not room:
                return
        room -= needs
        print(line, file=out)
    out.flush()


def _ask(out: TextIO, keys: int, rows: int) -> int:
    """Wait for a key; how many rows to go on by, 0: no more."""
    out.write(MORE)
    out.flush()
    try:
        key = os.read(keys, 1)
        if key == b"\x1b":  # an arrow or Page Down: all of its sequence
            key += os.read(keys, 16) if _waiting(keys) else b""
    finally:
        out.write("\r" + " " * len(MORE) + "\r")
        out.flush()
    if key in (b"\r", b"\n", b"j", b"\x1b[B", b"\x1bOB"):
        return 1
    return rows - 1 if key in (b" ", b"f", b"\x1b[6~") else 0


def _waiting(keys: int) -> bool:
    return bool(select.select([keys], [], [], 0)[0])


def _width(line: str) -> int:
    """Columns of a line, without its colours."""
    import re

    return len(re.sub(r"\x1b\[[0-9;]*m", "", line))
