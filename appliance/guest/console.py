# SPDX-License-Identifier: GPL-2.0-only
"""The serial line of one guest: its log, its latest output, and the people who are attached to it.

bypassd is the only client of QEMU's console socket. The guest's output goes into a log file that is rotated when it is
full, into a tail in memory, and to everybody who is attached; what they type goes to the guest. A guest that floods its
line is read at a limited pace, which slows it down; a client that does not read loses output but never slows down the
guest. Lives as long as the guest is configured, over all of its runs; the log is in the guest's run folder.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from appliance.errors import RefusedError

log = logging.getLogger(__name__)

LOG_BYTES = 256 << 10
"""When the log grows beyond this it becomes console.log.1, so at most twice as much is kept."""
TAIL_BYTES = 64 << 10
REPLAY_BYTES = 2 << 10
CHUNK = 16 << 10
PACE_BYTES = 1 << 20  # per second; a serial line carries a hundredth of that
UNREAD_BYTES = 256 << 10
MOST_ATTACHED = 4


class Console:
    """One guest's serial line."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        self._tail = bytearray(self._kept())
        self._guest: asyncio.StreamWriter | None = None
        self._people: set[asyncio.StreamWriter] = set()
        self._size: int | None = None  # of the log file; None: not known yet

    def _kept(self) -> bytes:
        """The end of what an earlier bypassd logged."""
        try:
            return self.log_file.read_bytes()[-TAIL_BYTES:]
        except OSError:
            return b""

    @property
    def log_file(self) -> Path:
        """Where the guest's output is kept."""
        return self._folder / "console.log"

    def tail(self, lines: int | None = None) -> bytes:
        """The last output, at most 64 KiB; with `lines`, only that many of its last lines."""
        if lines is None:
            return bytes(self._tail)
        return b"\n".join(bytes(self._tail).rstrip(b"\r\n").split(b"\n")[-lines:])

    async def serve(self) -> None:
        """Read the serial line of a running QEMU until it ends. If it cannot be reached, only the console is lost."""
        try:
            reader, self._guest = await asyncio.open_unix_connection(str(self._folder / "console.sock"))
        except OSError as error:
            log.warning("guest %s: no console: %s", self._name, error.strerror)
            return
        try:
            while data := await reader.read(CHUNK):
                self._take(data)
                await asyncio.sleep(len(data) / PACE_BYTES)
        except ConnectionError:
            pass  # QEMU ended; the pidfd reports that too
        finally:
            self._guest.close()
            self._guest = None

    def say(self, text: str) -> None:
        """Add a line of our own to the output: the guest starts, or has ended."""
        self._take(f"\r\n[{text}]\r\n".encode())

    def _take(self, data: bytes) -> None:
        self._tail += data
        del self._tail[:-TAIL_BYTES]
        self._write(data)
        for person in self._people:
            if person.transport.get_write_buffer_size() < UNREAD_BYTES:
                person.write(data)

    def _write(self, data: bytes) -> None:
        path = self.log_file
        try:
            if self._size is None:
                self._size = path.stat().st_size if path.exists() else 0
            if self._size > LOG_BYTES:
                path.replace(path.with_name(path.name + ".1"))
                self._size = 0
            with path.open("ab") as file:
                file.write(data)
            self._size += len(data)
        except OSError as error:
            log.debug("guest %s: console log: %s", self._name, error)  # a full /run costs the log, never the guest

    def check_room(self) -> None:
        """RefusedError if too many people are already attached."""
        if len(self._people) >= MOST_ATTACHED:
            raise RefusedError(f"guest {self._name}: {MOST_ATTACHED} people are already attached to its console")

    async def attach(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one person until they leave: first the latest output, then everything as it comes."""
        writer.write(bytes(self._tail[-REPLAY_BYTES:]))
        self._people.add(writer)
        try:
            while data := await reader.read(1024):
                if self._guest is not None and self._guest.transport.get_write_buffer_size() < UNREAD_BYTES:
                    self._guest.write(data)
        except ConnectionError:
            pass  # they disconnected
        finally:
            self._people.discard(writer)
