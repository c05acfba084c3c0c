# SPDX-License-Identifier: GPL-2.0-only
"""`terminal` and `show terminal`: settings of the session's terminal."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from dataclasses import fields

from appliance.counted import counted
from appliance.errors import RefusedError
from console.line.outcome import Outcome
from console.line.parse import Parsed
from console.session import Context
from console.tty import Terminal

ANSWER_S = 2.0  # maximum time for a terminal to report its cursor position


def _of(context: Context) -> Terminal:
    if context.terminal is None:
        raise RefusedError("terminal settings apply to a shell session: start `bypass` first")
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
            raise RefusedError(f"{name} must be {least} to {most}, or 0 (as reported by the terminal)")
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
    """`terminal detect`: ask the terminal for its size; the only command that queries its cursor position."""
    terminal = _of(context)
    if terminal.only_prints:
        raise RefusedError("a plain-text terminal cannot report its size: use `terminal width` and `terminal height`")
    rows, columns = _far_corner()
    terminal.width, terminal.height = columns, rows
    return Outcome([f"{counted(columns, 'column')}, {counted(rows, 'row')}"], "lines")


def _far_corner() -> tuple[int, int]:
    """Move the cursor as far as it goes and ask for its position. RefusedError if no answer comes."""
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
        raise RefusedError("the terminal did not answer: use `terminal width` and `terminal height`")
    return int(rows), int(columns)
