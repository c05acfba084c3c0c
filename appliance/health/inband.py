# SPDX-License-Identifier: GPL-2.0-only
"""In-band heartbeats: numbered frames sent through a guest's data ports, in both directions.

A frame enters the guest through its LAN-side tap and must come out of its WAN-side tap, and the other way round. The
datapath recognizes it *when it comes from a hop's tap*, by the hop's key in its addresses, and passes it to the host
stack, where a packet socket bound to that tap and EtherType receives it. The key is a secret of this run of bypassd, so
nobody on the link can forge a heartbeat; other frames of the same EtherType or address block pass like any frame. This
module is the pure half: frame format, and which frames are evidence. Socket I/O is in packet_socket.py.

Frame (big endian): destination, source, EtherType 0x88B5, magic "TWHB", version, direction, hop id (16 bit), nonce
(64 bit), sequence (64 bit), send time (64 bit, ns of CLOCK_MONOTONIC), zeros up to 60 bytes. The nonce is drawn once
per run of bypassd and hop, so frames of an earlier run, or echoed by something else, prove nothing. Its upper half is
the hop's key; the lower half is in the destination address.

A guest that drops unknown EtherTypes gets a frame from the administrator (`template`) instead. Only its addresses are
replaced; they carry the number: the last three bytes of the destination hold sequence and nonce.

Addresses are locally administered unicast. No station ever sends from the destination, and nobody outside knows it, so
a bridge in the guest does not learn it and floods; each direction has a source of its own, so that a bridge never sees
one station at both ports.
"""

from __future__ import annotations

import secrets
import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol

ETHERTYPE = 0x88B5  # IEEE 802 local experimental 1
MAGIC = b"TWHB"
VERSION = 1
FRAME_BYTES = 60
REMEMBERED = 64
"""How many sent heartbeats a lane remembers; one that comes back later proves nothing."""

_ETHERTYPE = ETHERTYPE.to_bytes(2, "big")
_BODY = struct.Struct(">4sBBHQQQ")
_LOCAL = b"\x02"  # first byte of an address: unicast, locally administered
_NEIGHBOUR_PREFIX = b"\x02\x54\x57"
_STANDARD, _TARGET, _FIRST_TEMPLATE = 1, 2, 0x10  # lower bits of the second byte: which kind of address
_BACK = 0x80  # its highest bit: the direction
_SPREAD = 0x9E3779  # odd, so that 2^24 sequences in a row give as many numbers
_GATHER = pow(_SPREAD, -1, 1 << 24)
QUEUE_BITS = 4
"""The lowest bits of a sequence are the queue by which the frame enters the guest."""


class Direction(IntEnum):
    """The direction through the guest, numbered as in the datapath."""

    LAN_TO_WAN = 0
    WAN_TO_LAN = 1

    @property
    def arrow(self) -> str:
        """The direction, for display."""
        return "lan to wan" if self is Direction.LAN_TO_WAN else "wan to lan"


_DIRECTIONS = tuple(Direction)


class Beat(NamedTuple):
    """The content of one heartbeat frame. `sent` in ns of CLOCK_MONOTONIC."""

    hop: int
    direction: Direction
    nonce: int
    sequence: int
    sent: int


def make_nonce(key: int) -> int:
    """The nonce of a hop's heartbeats, with the hop's key (32 bits) that the datapath knows (steer.h)."""
    return key << 32 | secrets.randbits(32)


def key_of(nonce: int) -> bytes:
    """The four bytes by which the datapath recognizes our heartbeats through a hop."""
    return (nonce >> 32).to_bytes(4, "big")


def source_address(nonce: int, direction: Direction, kind: int = _STANDARD) -> bytes:
    """The source MAC address of heartbeats in this direction."""
    return _LOCAL + bytes((_BACK * direction | kind,)) + key_of(nonce)


def target_address(nonce: int, direction: Direction) -> bytes:
    """The destination MAC address of heartbeats; nothing ever sends from it."""
    return _LOCAL + bytes((_BACK * direction | _TARGET,)) + (nonce & 0xFFFFFFFF).to_bytes(4, "big")


def neighbour_address(hop: int, direction: Direction) -> bytes:
    """The destination that a routing guest puts into heartbeats. It is configured there, so it is not secret."""
    return _NEIGHBOUR_PREFIX + bytes((hop & 0xFF, direction, 0x02))


def encode(beat: Beat) -> bytes:
    """The frame of a heartbeat, without the checksum, 60 bytes."""
    header = target_address(beat.nonce, beat.direction) + source_address(beat.nonce, beat.direction)
    return (header + _ETHERTYPE + pack(beat)).ljust(FRAME_BYTES, b"\0")


def pack(beat: Beat) -> bytes:
    """The content after the EtherType."""
    return _BODY.pack(MAGIC, VERSION, beat.direction, beat.hop, beat.nonce, beat.sequence, beat.sent)


def decode(frame: bytes) -> Beat | None:
    """The heartbeat in a frame; None if there is none of this version (never raises: frames come from a guest)."""
    return unpack(frame, 14) if frame[12:14] == _ETHERTYPE else None


def unpack(data: bytes, at: int = 0) -> Beat | None:
    """The heartbeat whose content begins at this byte; None if there is none."""
    if len(data) < at + _BODY.size:
        return None
    magic, version, direction, hop, nonce, sequence, sent = _BODY.unpack_from(data, at)
    if magic != MAGIC or version != VERSION or direction >= len(_DIRECTIONS):
        return None
    return Beat(hop, _DIRECTIONS[direction], nonce, sequence, sent)


@dataclass(frozen=True)
class Proof:
    """A heartbeat came back: the guest forwarded at some time after `sent` (ns); `latency` in nanoseconds."""

    sent: int
    latency: int


class Route(Protocol):
    """How heartbeats pass through a guest that routes (inband_routed.py)."""

    @property
    def ethertype(self) -> int:
        """The EtherType of the frames."""

    def encode(self, beat: Beat) -> bytes:
        """The frame to send into the guest."""

    def decode(self, frame: bytes, hop: int) -> Beat | None:
        """The heartbeat in a frame that came out of the guest; None if there is none."""


@dataclass
class Lane:
    """One direction through one hop on one segment: what was sent, what came back. Pure, no clock.

    With a `template`, frames look like it; `number` tells a guest's templates apart. With a `route`, they are packets
    that the guest forwards as a router. With several queues, each of them has lanes of its own, told apart by `queue`.
    """

    hop: int
    direction: Direction
    nonce: int
    template: bytes = b""
    number: int = 0
    route: Route | None = None
    queue: int = 0
    sent: int = 0
    received: int = 0
    foreign: int = 0  # not ours: another nonce, hop or direction, a sequence never sent or seen before
    _next: int = 0
    _outstanding: OrderedDict[int, int] = field(default_factory=OrderedDict, repr=False)

    @property
    def source(self) -> bytes:
        """The source address of this lane's frames."""
        kind = _FIRST_TEMPLATE + self.number if self.template else _STANDARD
        return source_address(self.nonce, self.direction, kind)

    @property
    def key(self) -> bytes:
        """The key by which the datapath and the socket recognize this lane's frames."""
        return key_of(self.nonce)

    @property
    def _template_prefix(self) -> bytes:
        return _LOCAL + (self.nonce & 0xFFFFFFFF).to_bytes(4, "big")[:2]

    @property
    def ethertype(self) -> int:
        """The EtherType for the packet socket: the one after the VLAN tags, which the kernel removes."""
        if self.route is not None:
            return self.route.ethertype
        return inner_ethertype(self.template) if self.template else ETHERTYPE

    def _decode(self, frame: bytes) -> Beat | None:
        return self.route.decode(frame, self.hop) if self.route is not None else decode(frame)

    def claims(self, frame: bytes) -> bool:
        """Whether a frame that came out of the guest is one of this lane's kind."""
        if self.template:
            number = int.from_bytes(frame[3:6], "big") - self.nonce
            return frame[6:12] == self.source and number * _GATHER % (1 << QUEUE_BITS) == self.queue
        beat = self._decode(frame)
        return beat is not None and beat.sequence % (1 << QUEUE_BITS) == self.queue

    def send(self, now: int) -> bytes:
        """The next frame to send, at time `now`."""
        sequence, self._next = self._next << QUEUE_BITS | self.queue, self._next + 1
        key = self._key(sequence)
        self._outstanding[key] = now
        if len(self._outstanding) > REMEMBERED:
            self._outstanding.popitem(last=False)
        self.sent += 1
        if not self.template:
            beat = Beat(self.hop, self.direction, self.nonce, sequence, now)
            return self.route.encode(beat) if self.route is not None else encode(beat)
        return self._template_prefix + key.to_bytes(3, "big") + self.source + self.template[12:]

    def _key(self, sequence: int) -> int:
        return (self.nonce + sequence * _SPREAD) & 0xFFFFFF if self.template else sequence

    def receive(self, now: int, frame: bytes) -> Proof | None:
        """Take a frame that came out of the guest at the far side; None if it proves nothing (which is counted)."""
        sent = self._take_template(frame) if self.template else self._take(frame)
        if sent is None or sent > now:
            self.foreign += 1
            return None
        self.received += 1
        return Proof(sent, now - sent)

    def _take(self, frame: bytes) -> int | None:
        beat = self._decode(frame)
        if beat is None or (beat.nonce, beat.hop, beat.direction) != (self.nonce, self.hop, self.direction):
            return None
        sent = self._outstanding.pop(beat.sequence, None)
        return sent if sent == beat.sent else None

    def _take_template(self, frame: bytes) -> int | None:
        if frame[6:12] != self.source or frame[:3] != self._template_prefix:
            return None
        return self._outstanding.pop(int.from_bytes(frame[3:6], "big"), None)

    def overdue(self, before: int) -> list[int]:
        """Send times of the frames that went in before this time and did not come out; the lane forgets them."""
        late = [key for key, sent in self._outstanding.items() if sent <= before]
        return [self._outstanding.pop(key) for key in late]


def inner_ethertype(frame: bytes) -> int:
    """The EtherType after the VLAN tags of a frame."""
    at = 12
    while frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8") and at + 6 <= len(frame):
        at += 4
    return int.from_bytes(frame[at : at + 2], "big")
