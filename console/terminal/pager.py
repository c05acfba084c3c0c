# SPDX-License-Identifier: GPL-2.0-only
"""Show a long text page by page, on any terminal: it only prints and waits for a key.

Keys typed ahead (pasted commands) are never taken as answers: then the text is printed without stopping.
"""

from __future__ import annotations

import os
import select
from typing import TextIO

MORE = "-- more -- (space: page, Enter: line, q: quit)"
_LINE = (b"\r", b"\n", b"\x1b[B", b"\x1bOB")  # Enter, arrow down
_PAGE = (b" ", b"\x1b[6~")  # space, Page Down
_END = (b"q", b"Q")


class IdleError(Exception):
    """No key was pressed within the idle timeout."""


def page(text: str, out: TextIO, keys: int, size: tuple[int, int], *, idle_s: float = 0, above: int = 0) -> str:
    """Print `text`, stopping after each page of `size` (columns, rows); `keys` is the keyboard's descriptor.

    `above` rows of the first page are in use. A printable key that means nothing to the pager ends the text and is
    returned: it begins the next command. IdleError: no key for `idle_s` seconds; 0: wait for ever.
    """
    columns, rows = size
    room = rows - 1 - above
    lines = text.splitlines()
    for number, line in enumerate(lines):
        needs = max(1, -(-_width(line) // columns))
        if room < needs and number and not _waiting(keys):
            key = _ask(out, keys, idle_s)
            if key in _LINE:
                room = 1
            elif key in _PAGE:
                room = rows - 1
            else:
                typed = key.decode("ascii", "ignore")
                return typed if typed.isprintable() and key not in _END else ""
        room -= needs
        print(line, file=out)
    out.flush()
    return ""


def _ask(out: TextIO, keys: int, idle_s: float) -> bytes:
    """Wait for a key."""
    out.write(MORE)
    out.flush()
    try:
        if not select.select([keys], [], [], idle_s or None)[0]:
            raise IdleError
        key = os.read(keys, 1)
        if key == b"\x1b":  # an arrow key or Page Down: read its whole sequence
            key += os.read(keys, 16) if _waiting(keys) else b""
    finally:
        out.write("\r" + " " * len(MORE) + "\r")
        out.flush()
    return key


def _waiting(keys: int) -> bool:
    return bool(select.select([keys], [], [], 0)[0])


def _width(line: str) -> int:
    """The columns of a line, without colour codes."""
    import re

    return len(re.sub(r"\x1b\[[0-9;]*m", "", line))
