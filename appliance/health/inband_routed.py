# SPDX-License-Identifier: GPL-2.0-only
"""In-band heartbeats for guests that route: UDP packets over IPv4 or IPv6, recognized by their payload.

A router replaces both MAC addresses, so a frame cannot be recognized by them when it comes out, and it drops frames of
our own EtherType. A routed heartbeat is sent to the guest's port like any packet to be forwarded, between two addresses
that the administrator chooses; its payload is that of every heartbeat (inband.py). The guest needs a route to each of
the two addresses, and for each a neighbour entry with `neighbour_address`: by that destination and the key in the
payload the datapath keeps the heartbeat off the link (steer.h). What a router changes (addresses, time to live or hop
limit, options, checksums) is ignored. Pure.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass

from appliance.health.inband import Beat, Direction, neighbour_address, pack, source_address, unpack

IPV4, IPV6 = 0x0800, 0x86DD  # EtherTypes
_TTL, _UDP, _DONT_FRAGMENT = 64, 17, 0x4000

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) & 1)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


@dataclass(frozen=True)
class Route:
    """The route of one direction: MAC address of the guest's port where it enters, IP addresses, UDP port.

    Both addresses are of one family.
    """

    enters: bytes
    source: Address
    target: Address
    port: int

    @property
    def ethertype(self) -> int:
        """The EtherType of the packets."""
        return IPV4 if self.source.version == 4 else IPV6

    def encode(self, beat: Beat) -> bytes:
        """The frame of a heartbeat."""
        body = pack(beat)
        ends = self.source.packed + self.target.packed
        udp = struct.pack(">HHHH", self.port, self.port, 8 + len(body), 0) + body
        # The sum of the pseudo header is the same whether its two numbers have 16 bits (IPv4) or 32 (IPv6). Never 0:
        # that means "no checksum", and an IPv6 router drops it.
        total = _checksum(ends + struct.pack(">HH", _UDP, len(udp)) + udp) or 0xFFFF
        udp = udp[:6] + total.to_bytes(2, "big") + udp[8:]
        ethernet = self.enters + source_address(beat.nonce, beat.direction) + self.ethertype.to_bytes(2, "big")
        if self.source.version == 6:
            return ethernet + struct.pack(">IHBB", 6 << 28, len(udp), _UDP, _TTL) + ends + udp
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), beat.sequence & 0xFFFF, _DONT_FRAGMENT, _TTL, _UDP, 0)
        return ethernet + head[:10] + _checksum(head + ends).to_bytes(2, "big") + ends + udp

    def decode(self, frame: bytes, hop: int) -> Beat | None:
        """The heartbeat in a frame that came out of a router; None if there is none (never raises)."""
        if (
            frame[:4] != neighbour_address(hop, Direction.LAN_TO_WAN)[:4]
            or frame[12:14] != self.ethertype.to_bytes(2, "big")
            or len(frame) < 54
        ):
            return None
        version = frame[14] >> 4
        length = (frame[14] & 15) * 4 if version == 4 else 40
        if version != self.source.version or length < 20 or frame[23 if version == 4 else 20] != _UDP:
            return None
        return unpack(frame, 14 + length + 8)
