# SPDX-License-Identifier: GPL-2.0-only
"""In-band heartbeats: numbered frames sent through a guest's data ports, in both directions.

A frame enters the guest through its LAN-side tap and must come out of its WAN-side tap, and the other way round. The
datapath hands frames of this EtherType that come *from* a hop's tap to the host stack, where a packet socket bound to
that tap and EtherType sees them. This module is the pure half: frame format, and which frames prove something.
Socket I/O is in taplink.py.

Frame (big endian): destination, source, EtherType 0x88B5, magic "TWHB", version, direction, hop id (16 bit), nonce
(64 bit), sequence (64 bit), send time (64 bit, ns of CLOCK_MONOTONIC), zeros up to 60 bytes. The nonce is drawn once
per run of bypassd, so frames of an earlier run, or echoed by something else, prove nothing.

Addresses are locally administered unicast. No station ever sends from the destination, so a bridge in the guest does
not learn it and floods; each direction has a source of its own, so a bridge never sees one station at both ports.
"""

from __future__ import annotations

import secrets
import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import IntEnum

ETHERTYPE = 0x88B5  # IEEE 802 local experimental 1
MAGIC = b"TWHB"
VERSION = 1
FRAME_BYTES = 60
REMEMBERED = 64
"""How many sent heartbeats a lane remembers; one that comes back later than that proves nothing."""

_BODY = struct.Struct(">4sBBHQQQ")
_ADDRESS_PREFIX = b"\x02\x54\x57"


class Direction(IntEnum):
    """Which way through the guest, as in the datapath."""

    LAN_TO_WAN = 0
    WAN_TO_LAN = 1

    @property
    def arrow(self) -> str:
        """For a person."""
        return "lan to wan" if self is Direction.LAN_TO_WAN else "wan to lan"


@dataclass(frozen=True)
class Beat:
    """What one heartbeat frame says."""

    hop: int
    direction: Direction
    nonce: int
    sequence: int
    sent: int


def source_address(hop: int, direction: Direction) -> bytes:
    """The MAC address heartbeats of this direction come from."""
    return _ADDRESS_PREFIX + bytes((hop & 0xFF, direction, 0x01))


def target_address(hop: int, direction: Direction) -> bytes:
    """The MAC address heartbeats go to; nobody sends from it."""
    return _ADDRESS_PREFIX + bytes((hop & 0xFF, direction, 0x02))


def encode(beat: Beat) -> bytes:
    """The frame of a heartbeat, without the checksum, 60 bytes."""
    header = target_address(beat.hop, beat.direction) + source_address(beat.hop, beat.direction)
    body = _BODY.pack(MAGIC, VERSION, beat.direction, beat.hop, beat.nonce, beat.sequence, beat.sent)
    return (header + struct.pack(">H", ETHERTYPE) + body).ljust(FRAME_BYTES, b"\0")


def decode(frame: bytes) -> Beat | None:
    """The heartbeat in a frame; None when it is none of this version (never an exception: frames come from a guest)."""
    if len(frame) < 14 + _BODY.size or frame[12:14] != ETHERTYPE.to_bytes(2, "big"):
        return None
    magic, version, direction, hop, nonce, sequence, sent = _BODY.unpack_from(frame, 14)
    if magic != MAGIC or version != VERSION or direction not in (0, 1):
        return None
    return Beat(hop, Direction(direction), nonce, sequence, sent)


def new_nonce() -> int:
    """Drawn once per run of bypassd."""
    return secrets.randbits(64)


@dataclass(frozen=True)
class Proof:
    """A heartbeat came back: the guest forwarded at some time after `sent` (ns); `latency` in nanoseconds."""

    sent: int
    latency: int


@dataclass
class Lane:
    """One direction through one hop on one segment: what was sent, what came back. Pure, no clock."""

    hop: int
    direction: Direction
    nonce: int
    sent: int = 0
    received: int = 0
    foreign: int = 0  # not ours: another nonce, hop or direction, a sequence never sent or seen before
    _next: int = 0
    _outstanding: OrderedDict[int, int] = field(default_factory=OrderedDict, repr=False)

    def send(self, now: int) -> bytes:
        """The next frame to send, at time `now`."""
        sequence, self._next = self._next, self._next + 1
        self._outstanding[sequence] = now
        if len(self._outstanding) > REMEMBERED:
            self._outstanding.popitem(last=False)
        self.sent += 1
        return encode(Beat(self.hop, self.direction, self.nonce, sequence, now))

    def receive(self, now: int, frame: bytes) -> Proof | None:
        """A frame that came out of the guest at the far side; None when it proves nothing (counted)."""
        beat = decode(frame)
        if beat is None or (beat.nonce, beat.hop, beat.direction) != (self.nonce, self.hop, self.direction):
            self.foreign += 1
            return None
        sent = self._outstanding.pop(beat.sequence, None)
        if sent is None or sent != beat.sent or sent > now:
            self.foreign += 1
            return None
        self.received += 1
        return Proof(sent, now - sent)
