# SPDX-License-Identifier: GPL-2.0-only
"""In-band heartbeats for guests that route: IPv4/UDP packets, known by their payload when they come out.

A router takes its own address as the source and that of the next station as the destination, so what is sent into it
is not known by its addresses when it comes out, and a frame of an EtherType of ours does not come out at all. A routed
heartbeat goes to the guest's port, as any packet that it is to forward, from one address of the administrator's to
another; the payload is that of every heartbeat (inband.py). The guest needs a route to each of the two, and for each
the neighbour entry of `next_hop`: by this destination the datapath takes it off the way to the link (steer.h). What a
router changes (addresses, time to live, options, checksums) is not looked at. Pure.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from appliance.health.inband import Beat, Direction, pack, source_address, source_prefix, target_address, unpack

ETHERTYPE = 0x0800
_TTL, _UDP, _DONT_FRAGMENT = 64, 17, 0x4000


def next_hop(hop: int, direction: Direction) -> bytes:
    """The MAC address that the guest must send to, for the address at the far side of this direction."""
    return target_address(hop, direction)


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) & 1)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


@dataclass(frozen=True)
class Route:
    """The way of one direction: the guest's port that it enters by (MAC), from and to which address, and the port."""

    enters: bytes
    source: ipaddress.IPv4Address
    target: ipaddress.IPv4Address
    port: int

    def encode(self, beat: Beat) -> bytes:
        """The frame of a heartbeat."""
        body = pack(beat)
        ends = self.source.packed + self.target.packed
        udp = struct.pack(">HHHH", self.port, self.port, 8 + len(body), 0) + body
        total = _checksum(ends + struct.pack(">HH", _UDP, len(udp)) + udp) or 0xFFFF
        udp = udp[:6] + total.to_bytes(2, "big") + udp[8:]
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), beat.sequence & 0xFFFF, _DONT_FRAGMENT, _TTL, _UDP, 0)
        head = head[:10] + _checksum(head + ends).to_bytes(2, "big") + ends
        ethernet = self.enters + source_address(beat.hop, beat.direction) + ETHERTYPE.to_bytes(2, "big")
        return ethernet + head + udp

    @staticmethod
    def decode(frame: bytes, hop: int) -> Beat | None:
        """The heartbeat in a frame that came out of a router; None when it is none (never an exception)."""
        if frame[:4] != source_prefix(hop) or frame[12:14] != ETHERTYPE.to_bytes(2, "big") or len(frame) < 34:
            return None
        length = (frame[14] & 15) * 4
        if frame[14] >> 4 != 4 or length < 20 or frame[23] != _UDP:
            return None
        return unpack(frame[14 + length + 8 :])
