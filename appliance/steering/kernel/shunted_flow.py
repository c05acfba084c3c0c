# SPDX-License-Identifier: GPL-2.0-only
"""A flow as the shunts know it (appliance/bpf/shunts.h): all of its addresses, ports, tag and segment. Pure.

Both directions are the same flow, because its ends are named by the side that they are at.
"""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from appliance.frames import nested
from appliance.frames.headers import IPV4, IPV6, number
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Side

TCP, UDP = 6, 17
PROTOCOLS = {"tcp": TCP, "udp": UDP}
TUNNELS = (nested.VXLAN, nested.GENEVE, nested.GTPU)
_C_TAG, _S_TAG = 0x8100, 0x88A8
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ShuntedFlow(NamedTuple):
    """TCP or UDP, unfragmented, directly behind Ethernet or one tag. `vlan`: as in struct shunt_key; 0: no tag."""

    segment: int
    protocol: int
    lan: Address
    lan_port: int
    wan: Address
    wan_port: int
    vlan: int = 0

    @property
    def protocol_name(self) -> str:
        """ "tcp" or "udp"."""
        return next((name for name, number in PROTOCOLS.items() if number == self.protocol), str(self.protocol))

    @property
    def tag(self) -> int | None:
        """The VLAN id; None: the frames have no tag."""
        return self.vlan & 0xFFF if self.vlan else None

    def key(self) -> layout.ShuntKey:
        """As the datapath keeps it."""
        key = layout.ShuntKey(vlan=self.vlan, protocol=self.protocol, place=self.segment)
        for to, address in ((key.lan, self.lan), (key.wan, self.wan)):
            to[:] = address.packed.rjust(16, b"\0")
        if self.lan.version == 6:
            key.place |= layout.SHUNT_IPV6
        key.lan_port[:] = self.lan_port.to_bytes(2, "big")
        key.wan_port[:] = self.wan_port.to_bytes(2, "big")
        return key

    @classmethod
    def of(cls, key: layout.ShuntKey) -> ShuntedFlow:
        """The opposite of `key`."""

        def address(raw: bytes) -> Address:
            return ipaddress.IPv6Address(raw) if key.place & layout.SHUNT_IPV6 else ipaddress.IPv4Address(raw[12:])

        return cls(
            key.place & ~layout.SHUNT_IPV6,
            key.protocol,
            address(bytes(key.lan)),
            int.from_bytes(bytes(key.lan_port), "big"),
            address(bytes(key.wan)),
            int.from_bytes(bytes(key.wan_port), "big"),
            key.vlan,
        )


def vlan_of(number: int, *, service: bool = False) -> int:
    """A tag as the flow has it. `service`: an 802.1ad tag."""
    return layout.SHUNT_TAG | number | (layout.SHUNT_AD if service else 0)


def flow_of(frame: bytes, segment: int, direction: Side) -> ShuntedFlow | None:
    """The flow of a frame in this direction; None if it cannot be shunted."""
    if len(frame) < 38:
        return None
    at, ethertype, vlan = 14, number(frame, 12, 2), 0
    if ethertype in (_C_TAG, _S_TAG):
        vlan = vlan_of(number(frame, 14, 2) & 0xFFF, service=ethertype == _S_TAG)
        ethertype, at = number(frame, 16, 2), 18
    source: Address
    destination: Address
    if ethertype == IPV4 and len(frame) >= at + 24:
        if frame[at] != 0x45 or number(frame, at + 6, 2) & 0x3FFF:
            return None
        protocol, ports = frame[at + 9], at + 20
        source = ipaddress.IPv4Address(frame[at + 12 : at + 16])
        destination = ipaddress.IPv4Address(frame[at + 16 : at + 20])
    elif ethertype == IPV6 and len(frame) >= at + 44 and frame[at] >> 4 == 6:
        protocol, ports = frame[at + 6], at + 40
        source = ipaddress.IPv6Address(frame[at + 8 : at + 24])
        destination = ipaddress.IPv6Address(frame[at + 24 : at + 40])
    else:
        return None
    ends = (source, number(frame, ports, 2)), (destination, number(frame, ports + 2, 2))
    if protocol == TCP:
        if len(frame) < ports + 14:
            return None
    elif protocol != UDP or any(port in TUNNELS for _, port in ends):
        return None
    lan, wan = ends if direction is Side.LAN else ends[::-1]
    return ShuntedFlow(segment, protocol, *lan, *wan, vlan)
