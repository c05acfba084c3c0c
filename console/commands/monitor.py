# SPDX-License-Identifier: GPL-2.0-only
"""`monitor`: a live view. Full-screen if the terminal supports it, else one report after the other.

Only changed lines are sent, and the next refresh waits until they have been transmitted, so it keeps up on a 9600-baud
line. The screen, the cursor and the keyboard settings are restored however it ends.
"""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.errors import BypassError, UnreachableError
from console.client import Follow
from console.commands.dashboard import ASCII, BLOCKS, Dashboard, Sample
from console.line.outcome import Outcome
from console.line.parse import Parsed, UsageError
from console.render import cell
from console.session import Context
from console.terminal.interrupt import Interrupt
from console.tty import Terminal
from console.views.access import events as event_lines
from console.views.common import alarm, rows_of

EVERY_S, EVERY_DUMB_S = 1, 5  # seconds between refreshes
AGAIN_S = 1.0  # seconds between attempts to reach bypassd
EVENTS = 20  # number of events requested
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l\x1b[2J", "\x1b[?25h\x1b[?1049l"


def monitor(parsed: Parsed, context: Context) -> Outcome:
    """`monitor [every SECONDS] [count N]`."""
    terminal = context.terminal or Terminal()
    full = context.out.isatty() and not terminal.only_prints
    every = int(parsed.options.get("every", [str(EVERY_S if full else EVERY_DUMB_S)])[0])
    if not 1 <= every <= 3600:
        raise UsageError(f"every must be 1 to 3600 seconds, not {every}")
    looks = int(parsed.options.get("count", ["0"])[0])
    board = Dashboard(BLOCKS if _shows_blocks(context) else ASCII)
    keys = sys.stdin.fileno() if sys.stdin.isatty() else -1
    with Interrupt() as stop, _single_keys(keys):
        screen = _Screen(context, terminal) if full else _Roll(context, terminal)
        with screen.open():
            _loop(context, board, screen, _Waits(stop, keys, every, looks))
    return Outcome([], "lines")


class _Waits:
    """Waits between refreshes for keys, Ctrl-C and time."""

    def __init__(self, stop: Interrupt, keys: int, every: int, looks: int) -> None:
        self._stop, self._keys, self.every, self._left = stop, keys, every, looks or -1
        self.paused = False

    def note(self) -> str:
        """The line that explains the keys."""
        state = "paused" if self.paused else f"every {self.every} s"
        return f"q quit  space {'resume' if self.paused else 'pause'}  + - interval   {state}"

    def until(self, deadline: float) -> bool:
        """Wait; False when it is time to stop. A key ends the wait."""
        self._left -= 1
        if not self._left:
            return False
        while True:
            left = deadline - time.monotonic()
            if left <= 0 and not self.paused:
                return not self._stop.happened
            watched = [self._stop.fileno(), *([self._keys] if self._keys >= 0 else [])]
            ready = select.select(watched, [], [], None if self.paused else max(0.0, left))[0]
            if self._stop.happened:
                return False
            if self._keys in ready:
                key = os.read(self._keys, 16)
                if not key or key[:1] in (b"q", b"Q", b"\x04", b"\x1b"):
                    return False
                self.paused ^= key == b" "
                self.every = min(3600, self.every + 1) if key == b"+" else max(1, self.every - (key == b"-"))
                return True


def _loop(context: Context, board: Dashboard, screen: _Screen | _Roll, waits: _Waits) -> None:
    while True:
        began = time.monotonic()
        trouble = ""
        if not waits.paused:
            try:
                board.add(_look(context, began))
            except BypassError as error:
                trouble = str(error)
        screen.show(board, waits.note(), trouble)
        if not waits.until(began + waits.every):
            return


def _look(context: Context, now: float) -> Sample:
    """One sample, in two requests: which guests exist, then everything else."""
    status, segments, counters, events = context.client.many(
        [("status.show", {}), ("segments.show", {}), ("counters.show", {}), ("events.show", {"count": EVENTS})]
    )
    known = rows_of(status.get("guests")) if isinstance(status, dict) else []
    names = [row["name"] for row in known if "name" in row]
    guests = context.client.many([("guest.show", {"name": name}) for name in names]) if names else []
    return Sample(now, status, segments, counters, [guest for guest in guests if guest], events)


def _shows_blocks(context: Context) -> bool:
    encoding = (getattr(context.out, "encoding", "") or "").lower().replace("-", "")
    return encoding == "utf8" and not os.environ.get("TERM", "").startswith(("vt", "ansi"))


@contextmanager
def _single_keys(keys: int) -> Iterator[None]:
    """Read keys one by one without echo; Ctrl-C stays a signal."""
    if keys < 0:
        yield
        return
    before = termios.tcgetattr(keys)
    tty.setcbreak(keys)
    try:
        yield
    finally:
        termios.tcsetattr(keys, termios.TCSADRAIN, before)


class _Screen:
    """Full-screen output; only lines that differ from the last refresh are sent."""

    def __init__(self, context: Context, terminal: Terminal) -> None:
        self._context, self._terminal = context, terminal
        self._shown: list[str] = []
        self._size = (0, 0)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Use the alternate screen until the end."""
        self._write(_ENTER)
        try:
            yield
        finally:
            self._write(f"\x1b[{self._terminal.size[1]};1H{_LEAVE}\r\n")

    def show(self, board: Dashboard, note: str, trouble: str) -> None:
        """Draw."""
        size, style = self._terminal.size, self._terminal.style
        if size != self._size:
            self._shown, self._size = [], size
            self._write("\x1b[2J")
        lines = board.draw((size[0] - 1, size[1]), style, note)
        if trouble:
            lines[: trouble.count("\n") + 2] = alarm([cell(trouble)], style, "STATE UNKNOWN").splitlines()[:2]
        sent = ""
        for row, line in enumerate(lines):
            if row >= len(self._shown) or self._shown[row] != line:
                sent += f"\x1b[{row + 1};1H{line}\x1b[K"
        self._shown = lines
        self._write(sent)
        if self._context.out.isatty():
            termios.tcdrain(self._context.out.fileno())  # do not outrun a slow line

    def _write(self, text: str) -> None:
        self._context.out.write(text)
        self._context.out.flush()


class _Roll:
    """One report after the other, for plain-text terminals, pipes and files."""

    def __init__(self, context: Context, terminal: Terminal) -> None:
        self._context, self._terminal = context, terminal

    @contextmanager
    def open(self) -> Iterator[None]:
        """Nothing to prepare."""
        yield

    def show(self, board: Dashboard, note: str, trouble: str) -> None:
        """Print one report, whatever its length."""
        columns, _ = self._terminal.size
        lines = board.draw((columns - 1, 40), self._context.style, "")
        text = "\n".join(line.rstrip() for line in lines).strip("\n")
        if trouble:
            text = alarm([cell(trouble)], self._context.style, "STATE UNKNOWN")
        print(f"--- {time.strftime('%H:%M:%S')}\n{text}\n", file=self._context.out, flush=True)


def events(_: Parsed, context: Context) -> Outcome:
    """`monitor events`: one line per event, until Ctrl-C or q; continues after a restart of bypassd."""
    keys = sys.stdin.fileno() if sys.stdin.isatty() and context.out.isatty() else -1
    if keys >= 0:
        context.say("waiting for events; q quits")
    with Interrupt() as stop, _single_keys(keys):
        while True:
            try:
                follow = context.client.follow(["event"])
            except UnreachableError as error:
                context.say(f"error: {cell(error)}")
                if select.select([stop.fileno()], [], [], AGAIN_S)[0]:
                    break
                continue
            try:
                if not _follow(follow, stop, keys, context):
                    break
            except UnreachableError as error:
                context.say(f"note: {cell(error)}")
            finally:
                follow.close()
    return Outcome([], "lines")


def _follow(follow: Follow, stop: Interrupt, keys: int, context: Context) -> bool:
    """Print events; False when the user quits."""
    while True:
        watched = [follow.fileno(), stop.fileno(), *([keys] if keys >= 0 else [])]
        ready = select.select(watched, [], [])[0]
        if follow.fileno() in ready:
            for _, event in follow.read():
                row = event_lines([event], context.style).splitlines()[1:]
                print("\n".join(row), file=context.out, flush=True)
        if stop.happened or (keys in ready and os.read(keys, 1) in (b"q", b"Q", b"\x04", b"\x1b", b"")):
            return False
