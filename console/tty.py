# SPDX-License-Identifier: GPL-2.0-only
"""The terminal of a session: its size, its capabilities, and what the user set with `terminal`.

A serial line knows neither its size nor its type, so everything can be set; what is not set is determined again for
each command, because windows are resized. Lives as long as the session.
"""

from __future__ import annotations

import contextlib
import os
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from console.render import Style

COLUMNS, ROWS = 80, 24  # if the size is unknown
PROMPT_S = float(os.environ.get("BYPASS_PROMPT_S", "1"))  # maximum time that a prompt waits for the state


def is_dumb(term: str) -> bool:
    """Whether this is a plain-text terminal: it can only print."""
    return term in ("", "dumb", "unknown")


def style_of(out: TextIO, environ: dict[str, str] | os._Environ[str] = os.environ) -> Style:
    """Colour only if the terminal supports it and NO_COLOR is not set; 80 columns if the size is unknown."""
    if not out.isatty():
        return Style()
    try:
        width = os.get_terminal_size(out.fileno()).columns or 80
    except (OSError, ValueError):
        width = 80
    term = environ.get("TERM", "")
    has = term.startswith(("linux", "xterm", "screen", "tmux", "rxvt", "putty", "ansi")) or "color" in term
    return Style(colour=has and not environ.get("NO_COLOR"), width=width)


@dataclass
class Terminal:
    """The settings; None: as reported by the terminal."""

    width: int | None = None
    height: int | None = None
    dumb: bool | None = None
    colour: bool | None = None
    paging: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """(columns, rows)."""
        try:
            columns, rows = os.get_terminal_size(sys.stdout.fileno())
        except (OSError, ValueError):
            columns, rows = 0, 0
        return self.width or columns or COLUMNS, self.height or rows or ROWS

    @property
    def only_prints(self) -> bool:
        """Whether it is a plain-text terminal, without cursor movement."""
        return self.dumb if self.dumb is not None else is_dumb(os.environ.get("TERM", "dumb"))

    @property
    def style(self) -> Style:
        """The style for current output."""
        found = style_of(sys.stdout)
        colour = found.colour if self.colour is None else self.colour
        return Style(colour=colour and not self.only_prints, width=self.size[0])

    @contextlib.contextmanager
    def lines(self) -> Iterator[None]:
        """Read whole lines with echo in this block; outside it the shell reads single keys without echo."""
        inward = sys.stdin.fileno()
        before = termios.tcgetattr(inward)
        now = termios.tcgetattr(inward)
        now[0] |= termios.ICRNL | termios.IXOFF
        now[3] |= termios.ICANON | termios.ECHO
        termios.tcsetattr(inward, termios.TCSANOW, now)
        try:
            yield
        finally:
            termios.tcsetattr(inward, termios.TCSANOW, before)
