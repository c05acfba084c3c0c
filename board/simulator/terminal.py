# SPDX-License-Identifier: GPL-2.0-only
"""The board's serial port in this terminal: raw keys in, bytes out, a key to leave; always restores the terminal.

Output is written by a separate thread, so a stopped terminal never delays the relay. Lives for one session.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable, Iterator

PREFIX = 0x01  # Ctrl-A; Ctrl-] belongs to the appliance: it leaves a guest's console
HELP = b"\r\n[Ctrl-A x  end   Ctrl-A e  show transitions here   Ctrl-A Ctrl-A  a Ctrl-A]\r\n"


class Keys:
    """Separates bytes for the board from commands to the simulator; remembers a Ctrl-A between calls."""

    def __init__(self) -> None:
        self._prefixed = False

    def feed(self, data: bytes) -> tuple[bytes, list[str]]:
        """Returns the bytes for the board and our commands: "leave", "events", "help"."""
        out, orders = bytearray(), []
        for byte in data:
            if self._prefixed:
                self._prefixed = False
                if byte == PREFIX:
                    out.append(PREFIX)
                else:
                    orders.append({ord("x"): "leave", ord("e"): "events"}.get(byte, "help"))
            elif byte == PREFIX:
                self._prefixed = True
            else:
                out.append(byte)
        return bytes(out), orders


@contextlib.contextmanager
def raw(fd: int) -> Iterator[None]:
    """Pass every key unchanged in this block; the terminal's settings are restored however the block ends."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


class Terminal:
    """Connects standard input and output with a serial port until `leave` is called or the user leaves."""

    def __init__(self, send: Callable[[bytes], None]) -> None:
        self._send = send
        self.on_events: Callable[[], None] = lambda: None
        self._output: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def show(self, data: bytes) -> None:
        self._output.put(data)

    def leave(self) -> None:
        """End the session; may be called from any thread and from signal handlers."""
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b"x")

    def run(self) -> None:
        writer = threading.Thread(target=self._write, name="terminal", daemon=True)
        writer.start()
        keys, sources = Keys(), [sys.stdin.fileno(), self._wake_read]
        tty_in = os.isatty(sources[0])
        with raw(sources[0]):
            while True:
                ready, _, _ = select.select(sources, [], [])
                if self._wake_read in ready:
                    break
                data = os.read(sources[0], 4096)
                if not data:
                    if tty_in:
                        break
                    sources = [self._wake_read]  # a pipe that ended: continue to show output
                    continue
                # only a user can escape; all bytes of a pipe go to the board
                out, orders = keys.feed(data) if tty_in else (data, [])
                if out:
                    self._send(out)
                if "leave" in orders:
                    break
                for order in orders:
                    if order == "events":
                        self.on_events()
                    else:
                        self.show(HELP)
            self._output.put(None)
            writer.join(1.0)

    def _write(self) -> None:
        fd = sys.stdout.fileno()
        while (data := self._output.get()) is not None:
            try:
                while data:
                    data = data[os.write(fd, data) :]
            except OSError:
                self.leave()
                return
