# SPDX-License-Identifier: GPL-2.0-only
"""The agent channel: JSON lines between a guest and bypassd over virtio-serial.

A guest is not trusted. What it sends is limited in size and rate, and checked against the messages below; anything else
is counted and has no other effect. `Inbox` is the pure half (bytes and time in, messages out), `Channel` the connection
to QEMU's socket. An inbox lives as long as one connection.

The messages, their units and errors are documented for authors of agents in appliance/guest-agent/README.md;
conversation.py acts on them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from appliance.errors import UnreachableError
from appliance.quota import TokenBucket

LINE_BYTES = 4096
MESSAGES_PER_SECOND = 50
BURST = 100
PACE_BYTES = 256 << 10
"""Bytes read per second at most, slightly more than a well-behaved agent may send."""
_SECOND_NS = 1_000_000_000

_Word = Annotated[str, msgspec.Meta(max_length=64)]


_Id = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]


class Hello(msgspec.Struct, tag_field="type", tag="hello", frozen=True):
    """The agent introduces itself: the newest version of this protocol that it speaks."""

    version: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1
    agent: _Word = ""
    capabilities: Annotated[tuple[_Word, ...], msgspec.Meta(max_length=32)] = ()
    id: _Id | None = None


class Heartbeat(msgspec.Struct, tag_field="type", tag="heartbeat", frozen=True):
    """The application is running. Any `status` other than "ok" means that it does not work."""

    status: _Word = "ok"
    counters: Annotated[dict[_Word, int], msgspec.Meta(max_length=64)] = msgspec.field(default_factory=dict)


class Accept(msgspec.Struct, tag_field="type", tag="accept", frozen=True):
    """The frames that the guest can process, as a pcap filter; "" or null: whatever the administrator allows.

    `names`: the same in words (traffic_names.py), instead of a filter.
    """

    filter: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    id: _Id | None = None
    names: Annotated[tuple[_Word, ...], msgspec.Meta(max_length=32)] = ()


class Drain(msgspec.Struct, tag_field="type", tag="drain", frozen=True):
    """Asks for no new flows (or for new flows again)."""

    on: bool = True
    id: _Id | None = None


class Bypass(msgspec.Struct, tag_field="type", tag="bypass", frozen=True):
    """Asks for no frames at all (or for frames again)."""

    on: bool = True
    why: Annotated[str, msgspec.Meta(max_length=200)] = ""
    id: _Id | None = None


class Tags(msgspec.Struct, tag_field="type", tag="tags", frozen=True):
    """The guest chooses the next hop by 802.1ad tags (or no longer)."""

    on: bool = True
    id: _Id | None = None


_Address = Annotated[str, msgspec.Meta(max_length=45)]
_Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class Shunt(msgspec.Struct, tag_field="type", tag="shunt", frozen=True):
    """The guest needs the frames of this flow no more (or again)."""

    lan: _Address
    wan: _Address
    lan_port: _Port
    wan_port: _Port
    protocol: Literal["tcp", "udp"] = "tcp"
    vlan: Annotated[int, msgspec.Meta(ge=0, le=4095)] | None = None
    service_tag: bool = False
    segment: _Word = ""
    direction: Literal["both", "to-wan", "to-lan"] = "both"
    time_s: Annotated[float, msgspec.Meta(gt=0, le=1e9)] | None = None
    on: bool = True
    id: _Id | None = None


class Result(msgspec.Struct, tag_field="type", tag="result", frozen=True):
    """The result of a check that we asked for."""

    id: _Id
    status: Annotated[str, msgspec.Meta(max_length=200)] = "ok"


Message = Hello | Heartbeat | Accept | Drain | Bypass | Tags | Shunt | Result
_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


@dataclass
class Inbox:
    """Splits what a guest sends into messages. Times are nanoseconds of CLOCK_MONOTONIC."""

    accepted: int = 0
    malformed: int = 0
    oversized: int = 0
    too_frequent: int = 0
    _rest: bytes = field(default=b"", repr=False)
    _skipping: bool = field(default=False, repr=False)  # inside a line that is too long
    _budget: TokenBucket | None = field(default=None, repr=False)  # begins with the first message

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
        if self._budget is None:
            self._budget = TokenBucket(MESSAGES_PER_SECOND / _SECOND_NS, BURST, now)
        if not self._budget.allow(now):
            self.too_frequent += 1
            return None
        try:
            message = _decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self.malformed += 1
            return None
        self.accepted += 1
        return message


class Channel:
    """The connection to one guest's agent socket."""

    def __init__(self, path: Path, clock: Callable[[], int]) -> None:
        self._path, self._clock = path, clock
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.inbox = Inbox()

    async def connect(self) -> None:
        """Connect; UnreachableError if QEMU does not have the socket open."""
        try:
            self._reader, self._writer = await asyncio.open_unix_connection(str(self._path))
        except OSError as error:
            raise UnreachableError(f"guest {self._path.parent.name}: agent channel: {error.strerror}") from error

    async def run(self, on_message: Callable[[Message], None]) -> None:
        """Read until the other side closes. Reading is paced, so that any flood is held back in the guest and costs
        bypassd next to nothing."""
        assert self._reader is not None, "connect() comes first"
        try:
            while data := await self._reader.read(LINE_BYTES):
                before = self.inbox.too_frequent
                for message in self.inbox.feed(self._clock(), data):
                    on_message(message)
                slower = 1 / MESSAGES_PER_SECOND if self.inbox.too_frequent > before else 0.0
                await asyncio.sleep(slower + len(data) / PACE_BYTES)
        except ConnectionError:
            pass  # QEMU ended; the pidfd reports that too

    def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None

    def send(self, message: dict[str, object]) -> None:
        """Send one message; UnreachableError if there is no connection or the guest does not read."""
        if self._writer is None or self._writer.is_closing():
            raise UnreachableError(f"guest {self._path.parent.name}: no agent channel: the guest is not running")
        if self._writer.transport.get_write_buffer_size() > 16 * LINE_BYTES:
            raise UnreachableError(f"guest {self._path.parent.name}: its agent does not read what it is sent")
        self._writer.write(json.dumps(message).encode() + b"\n")
