# SPDX-License-Identifier: GPL-2.0-only
"""The agent channel: JSON lines between a guest and bypassd over virtio-serial.

A guest is not trusted. What it sends is limited in size and rate, and checked against the messages below; what does not
fit is counted and changes nothing else. `Inbox` is the pure half (bytes and time in, messages out), `Channel` the
connection to QEMU's socket. An inbox lives as long as one connection.

From the guest, one JSON object a line, at most 4096 bytes:
    {"type": "hello", "version": 1, "agent": "forwarder", "capabilities": ["command"]}
    {"type": "heartbeat", "status": "ok", "counters": {"frames": 12}}     status: "ok", or what is wrong
To the guest:
    {"type": "command", "command": "hang", "value": 0}                    for the demo guest and for tests
    {"type": "shutdown"}                                                  power off in good order
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import msgspec

from appliance.errors import UnreachableError

LINE_BYTES = 4096
MESSAGES_PER_SECOND = 50
BURST = 100
_SECOND_NS = 1_000_000_000

_Word = Annotated[str, msgspec.Meta(max_length=64)]


class Hello(msgspec.Struct, tag_field="type", tag="hello", frozen=True):
    """The agent introduces itself. `version` = of this protocol."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    agent: _Word = ""
    capabilities: Annotated[tuple[_Word, ...], msgspec.Meta(max_length=32)] = ()


class Heartbeat(msgspec.Struct, tag_field="type", tag="heartbeat", frozen=True):
    """The application is there. Any `status` other than "ok" says that it does not work."""

    status: _Word = "ok"
    counters: Annotated[dict[_Word, int], msgspec.Meta(max_length=64)] = msgspec.field(default_factory=dict)


Message = Hello | Heartbeat
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


@dataclass
class Inbox:
    """Cuts what a guest sends into messages. Times are nanoseconds of CLOCK_MONOTONIC."""

    accepted: int = 0
    malformed: int = 0
    oversized: int = 0
    too_frequent: int = 0
    _rest: bytes = field(default=b"", repr=False)
    _skipping: bool = field(default=False, repr=False)  # inside a line that is too long
    _tokens: float = field(default=BURST, repr=False)
    _filled: int | None = field(default=None, repr=False)

    def feed(self, now: int, data: bytes) -> list[Message]:
        """The messages that `data` completes."""
        messages: list[Message] = []
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if self._skipping:
                self._skipping = False
            elif len(line) > LINE_BYTES:
                self.oversized += 1
            elif line.strip():
                message = self._one(now, line)
                if message is not None:
                    messages.append(message)
        if len(self._rest) > LINE_BYTES:
            self.oversized += not self._skipping
            self._rest, self._skipping = b"", True
        return messages

    def _one(self, now: int, line: bytes) -> Message | None:
        if not self._take(now):
            self.too_frequent += 1
            return None
        try:
            message = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.malformed += 1
            return None
        self.accepted += 1
        return message

    def _take(self, now: int) -> bool:
        """One token of a bucket that fills with MESSAGES_PER_SECOND up to BURST."""
        if self._filled is not None:
            self._tokens = min(BURST, self._tokens + (now - self._filled) * MESSAGES_PER_SECOND / _SECOND_NS)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Channel:
    """The connection to one guest's agent socket."""

    def __init__(self, path: Path, clock: Callable[[], int]) -> None:
        self._path, self._clock = path, clock
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.inbox = Inbox()

    async def connect(self) -> None:
        """UnreachableError when QEMU does not have the socket open."""
        try:
            self._reader, self._writer = await asyncio.open_unix_connection(str(self._path))
        except OSError as error:
            raise UnreachableError(f"guest {self._path.parent.name}: agent channel: {error.strerror}") from error

    async def run(self, on_message: Callable[[Message], None]) -> None:
        """Read until the other side ends. A guest that sends faster than allowed is read slower, and so held back."""
        assert self._reader is not None, "connect() comes first"
        try:
            while data := await self._reader.read(LINE_BYTES):
                before = self.inbox.too_frequent
                for message in self.inbox.feed(self._clock(), data):
                    on_message(message)
                if self.inbox.too_frequent > before:
                    await asyncio.sleep(1 / MESSAGES_PER_SECOND)
        except ConnectionError:
            pass  # QEMU ended; the pidfd says so too

    def close(self) -> None:
        """Idempotent."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    def send(self, message: dict[str, object]) -> None:
        """Send one message; UnreachableError when there is no connection or the guest does not read."""
        if self._writer is None or self._writer.is_closing():
            raise UnreachableError(f"guest {self._path.parent.name}: no agent channel: the guest is not running")
        if self._writer.transport.get_write_buffer_size() > 16 * LINE_BYTES:
            raise UnreachableError(f"guest {self._path.parent.name}: its agent does not read what it is sent")
        self._writer.write(json.dumps(message).encode() + b"\n")
