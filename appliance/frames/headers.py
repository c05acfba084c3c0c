# SPDX-License-Identifier: GPL-2.0-only
"""The headers of an ordinary frame, as the datapath reads them (appliance/bpf/parsing.h): tags, IP, ports. Pure.

What lies deeper, in tunnels and behind labels, is for `nested`.
"""

from __future__ import annotations

from dataclasses import dataclass

_VLANS = (0x8100, 0x88A8)
MAX_VLANS = 4
MAX_EXTENSIONS = 8
MAX_OFFSET = 2047
WITH_PORTS = (6, 17, 33, 132, 136)
TCP = 6
HOPOPTS, ROUTING, FRAGMENT, AH, DSTOPTS, MOBILITY = 0, 43, 44, 51, 60, 135
EXTENSIONS = (FRAGMENT, HOPOPTS, ROUTING, DSTOPTS, MOBILITY, AH)
IPV4, IPV6 = 0x0800, 0x86DD


@dataclass
class Ip:
    """What the headers of an IP packet say. Addresses are numbers; `ports` 0, 0 where there are none to be seen."""

    source: int
    destination: int
    protocol: int = 0
    ports: tuple[int, int] = (0, 0)
    fragment: int = 0
    id: int = 0
    tcp_flags: int = 0


def number(frame: bytes, at: int, size: int) -> int:
    """Bytes of the frame as a number."""
    return int.from_bytes(frame[at : at + size], "big")


def _transport(frame: bytes, at: int, ip: Ip) -> None:
    if ip.protocol in WITH_PORTS and at + 4 <= len(frame):
        ip.ports = number(frame, at, 2), number(frame, at + 2, 2)
        if ip.protocol == TCP and at + 14 <= len(frame):
            ip.tcp_flags = frame[at + 13]


def _ipv4(frame: bytes, at: int) -> Ip | None:
    if at + 20 > len(frame) or frame[at] >> 4 != 4 or frame[at] & 15 < 5:
        return None
    ip = Ip(number(frame, at + 12, 4), number(frame, at + 16, 4), frame[at + 9])
    offset = number(frame, at + 6, 2)
    if offset & 0x3FFF:
        ip.id = number(frame, at + 4, 2)
        ip.fragment = 2 if offset & 0x1FFF else 1
    if ip.fragment != 2:
        _transport(frame, at + (frame[at] & 15) * 4, ip)
    return ip


def _ipv6(frame: bytes, at: int) -> Ip | None:
    if at + 40 > len(frame) or frame[at] >> 4 != 6:
        return None
    ip = Ip(number(frame, at + 8, 16), number(frame, at + 24, 16))
    following = frame[at + 6]
    at += 40
    for _ in range(MAX_EXTENSIONS):
        if following not in EXTENSIONS:
            break
        if at > MAX_OFFSET or at + 8 > len(frame):
            break
        if following == FRAGMENT:
            offset = number(frame, at + 2, 2)
            if offset & 0xFFF9:  # else "atomic": whole after all
                ip.id = number(frame, at + 4, 4)
                ip.fragment = 2 if offset & 0xFFF8 else 1
            following = frame[at]
            at += 8
            if ip.fragment == 2:
                break
        elif following == AH:
            following, at = frame[at], at + (frame[at + 1] + 2) * 4
        else:
            following, at = frame[at], at + (frame[at + 1] + 1) * 8
    ip.protocol = following
    if ip.fragment != 2 and at <= MAX_OFFSET:
        _transport(frame, at, ip)
    return ip


def read(frame: bytes) -> tuple[tuple[int, ...], int, Ip | None]:
    """VLAN ids from outside in, EtherType behind them, and the IP headers where it is IP and can be read."""
    at, ethertype = 14, number(frame, 12, 2)
    vlans: list[int] = []
    for _ in range(MAX_VLANS):
        if ethertype not in _VLANS:
            break
        if at + 4 > len(frame):
            ethertype = 0
            break
        vlans.append(number(frame, at, 2) & 0xFFF)
        ethertype, at = number(frame, at + 2, 2), at + 4
    if ethertype == IPV4:
        return tuple(vlans), ethertype, _ipv4(frame, at)
    return tuple(vlans), ethertype, _ipv6(frame, at) if ethertype == IPV6 else None


def maybe_fragment(frame: bytes) -> bool:
    """Whether to look if it is a fragment whose datagram's rule counts; a quick question, which may say yes too often.

    IPv4 and IPv6, behind two tags and PPPoE at most; behind MPLS labels always yes.
    """
    at, ethertype = 14, number(frame, 12, 2)
    if len(frame) < at + 20:
        return False
    for _ in range(2):
        if ethertype not in (0x8100, 0x88A8, 0x9100):
            break
        ethertype, at = number(frame, at + 2, 2), at + 4
        if len(frame) < at + 20:
            return False
    if ethertype == 0x8864:
        ethertype, at = {0x0021: IPV4, 0x0057: IPV6}.get(number(frame, at + 6, 2), 0), at + 8
        if len(frame) < at + 20:
            return False
    if ethertype == IPV4:
        return number(frame, at + 6, 2) & 0x3FFF != 0
    if ethertype == IPV6:
        return frame[at + 6] in (FRAGMENT, HOPOPTS, ROUTING, DSTOPTS)
    return ethertype in (0x8847, 0x8848)
