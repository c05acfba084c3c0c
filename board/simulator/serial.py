# SPDX-License-Identifier: GPL-2.0-only
"""One serial port of the board: its output (kept, logged, passed on) and input.

Lives as long as the Board, across power cycles; each power-on brings a new connection. Any thread may type and wait;
bytes arrive in the loop's thread.
"""

from __future__ import annotations

import asyncio
import codecs
import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from simulator.events import WaitTimeout

KEPT = 4_000_000  # characters
PANIC = re.compile(r"Kernel panic - not syncing[^\r\n]*")


class SerialPort:
    def __init__(
        self,
        name: str,
        loop: asyncio.AbstractEventLoop,
        log: Path,
        check: Callable[[], None],
        on_panic: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self._loop = loop
        self._file = log.open("wb", buffering=0)
        self._check = check
        self._on_panic = on_panic
        self._changed = threading.Condition()
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._text = ""
        self._place = 0
        self._scanned = 0
        self.first_ns: int | None = None  # time of the machine's first output, CLOCK_MONOTONIC
        self._transport: asyncio.Transport | None = None
        self.sinks: list[Callable[[bytes], None]] = []
        self.stretch: Callable[[float], float] = float  # as in EventLog

    async def connect(self, connection: socket.socket) -> None:
        port = self

        class Protocol(asyncio.Protocol):
            def data_received(self, data: bytes) -> None:
                port._received(data)

        self.first_ns = None
        transport, _ = await self._loop.create_connection(Protocol, sock=connection)
        self._transport = transport

    def disconnect(self) -> None:
        if self._transport:
            self._transport.close()
            self._transport = None

    def close(self) -> None:
        self.disconnect()
        self._file.close()

    def wake(self) -> None:
        """Let waiters check the board again."""
        with self._changed:
            self._changed.notify_all()

    def send(self, data: str | bytes) -> None:
        """Send input. Bytes that the board does not accept yet are queued; none is lost while it has power."""
        raw = data.encode() if isinstance(data, str) else data
        self._loop.call_soon_threadsafe(self._write, raw)

    def sendline(self, line: str = "") -> None:
        self.send(line + "\r")

    def mark(self) -> int:
        """The present end of the output; `expect` searches from the last match unless it gets such a position."""
        with self._changed:
            return len(self._text)

    @property
    def text(self) -> str:
        with self._changed:
            return self._text

    def expect(self, pattern: str, timeout: float = 60.0, since: int | None = None) -> re.Match[str]:
        """Wait until the regular expression appears after the last match; raises WaitTimeout or BoardPanic."""
        compiled = re.compile(pattern, re.MULTILINE)
        timeout = self.stretch(timeout)
        deadline = time.monotonic() + timeout
        with self._changed:
            place = self._place if since is None else since
            while True:
                found = compiled.search(self._text, place)
                if found:
                    self._place = found.end()
                    return found
                self._check()
                left = deadline - time.monotonic()
                if left <= 0:
                    raise WaitTimeout(f"{self.name}: no {pattern!r} within {timeout:g} s; last:\n{self._text[-2000:]}")
                self._changed.wait(left)

    def _write(self, data: bytes) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.write(data)

    def _received(self, data: bytes) -> None:
        if self.first_ns is None:
            self.first_ns = time.monotonic_ns()
        self._file.write(data)
        for sink in list(self.sinks):
            sink(data)
        panics: list[str] = []
        with self._changed:
            self._text += self._decoder.decode(data)
            if len(self._text) > 2 * KEPT:
                gone = len(self._text) - KEPT
                self._text = self._text[gone:]
                self._place, self._scanned = max(0, self._place - gone), max(0, self._scanned - gone)
            if self._on_panic:
                end = self._text.rfind("\n") + 1  # whole lines only, so that no message is split
                panics = PANIC.findall(self._text[self._scanned : end])
                self._scanned = max(self._scanned, end)
            self._changed.notify_all()
        for panic in panics:
            assert self._on_panic is not None
            self._on_panic(panic)
