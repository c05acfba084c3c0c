# SPDX-License-Identifier: GPL-2.0-only
"""The terminal of a session: its size, what it can do, and what the person said about it with `terminal`.

A serial line knows neither its size nor its type, so all of it can be said; what is not said is found out anew at each
command, for windows change. Lives as long as the session.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass, fields

from appliance.errors import RefusedError
from console.execute import Context, style_of
from console.outcome import Outcome
from console.parse import Parsed
from console.render import Style

COLUMNS, ROWS = 80, 24  # where nobody knows better
ANSWER_S = 2.0  # that a terminal may take to say where its cursor is
PROMPT_S = float(os.environ.get("BYPASS_PROMPT_S", "1"))  # that a prompt waits for what bypassd says of the state


def is_dumb(term: str) -> bool:
    """A terminal that can only print."""
    return term in ("", "dumb", "unknown")


@dataclass
class Terminal:
    """What was set; None: as the terminal says."""

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
        """No cursor may be moved on it."""
        return self.dumb if self.dumb is not None else is_dumb(os.environ.get("TERM", "dumb"))

    @property
    def style(self) -> Style:
        """For what is printed now."""
        found = style_of(sys.stdout)
        colour = found.colour if self.colour is None else self.colour
        return Style(colour=colour and not self.only_prints, width=self.size[0])

    @contextlib.contextmanager
    def lines(self) -> Iterator[None]:
        """Whole lines are read from standard input, and shown as they are typed; else keys come one by one, unseen."""
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


def _of(context: Context) -> Terminal:
    if context.terminal is None:
        raise RefusedError("terminal settings hold for a session of the shell: start `bypass` first")
    return context.terminal


def setting(parsed: Parsed, context: Context) -> Outcome:
    """`terminal width|height N`, `terminal length N` (0: no paging), `terminal dumb|paging|colour on|off`."""
    terminal, name = _of(context), str(parsed.command.words[1])
    if name == "length":
        name, terminal.paging = "height", parsed.args["N"].strip("0") != ""
        if not terminal.paging:
            return Outcome([], "lines")
    if name in ("width", "height"):
        value, (least, most) = int(parsed.args["N"]), ((20, 500) if name == "width" else (5, 500))
        if value and not least <= value <= most:
            raise RefusedError(f"{name} is 0 (as the terminal says), or {least} to {most}")
        setattr(terminal, name, value or None)
    else:
        setattr(terminal, name, parsed.args["VALUE"] == "on")
    return Outcome([], "lines")


def show(_: Parsed, context: Context) -> Outcome:
    """`show terminal`."""
    terminal = _of(context)
    columns, rows = terminal.size
    said = [field.name for field in fields(terminal) if getattr(terminal, field.name) != field.default]
    return Outcome(
        {
            "type": os.environ.get("TERM", "dumb"),
            "width": columns,
            "height": rows,
            "dumb": terminal.only_prints,
            "colour": terminal.style.colour,
            "paging": terminal.paging,
            "set_by_hand": said,
        }
    )


def detect(_: Parsed, context: Context) -> Outcome:
    """`terminal detect`: ask the terminal how large it is; the only time that its cursor is asked for."""
    terminal = _of(context)
    if terminal.only_prints:
        raise RefusedError(
            "a terminal that only prints cannot say its size: use `terminal width` and `terminal height`"
        )
    rows, columns = _far_corner()
    terminal.width, terminal.height = columns, rows
    return Outcome([f"{columns} columns, {rows} rows"], "lines")


def _far_corner() -> tuple[int, int]:
    """Send the cursor as far as it goes and ask where it is. RefusedError when no answer comes."""
    inward = sys.stdin.fileno()
    before = termios.tcgetattr(inward)
    answer = b""
    try:
        tty.setcbreak(inward)
        sys.stdout.write("\x1b7\x1b[999;999H\x1b[6n\x1b8")
        sys.stdout.flush()
        until = time.monotonic() + ANSWER_S
        while not answer.endswith(b"R") and select.select([inward], [], [], max(0.0, until - time.monotonic()))[0]:
            answer += os.read(inward, 32)
    finally:
        termios.tcsetattr(inward, termios.TCSANOW, before)
    rows, _, columns = answer.removesuffix(b"R").rpartition(b"[")[2].partition(b";")
    if not (rows.isdigit() and columns.isdigit()):
        raise RefusedError("the terminal does not answer: use `terminal width` and `terminal height`")
    return int(rows), int(columns)
