# SPDX-License-Identifier: GPL-2.0-only
"""The flow that a frame belongs to, as the datapath sees it (appliance/bpf/parsing.h). Pure functions of the bytes.

The hash is the same for both directions: each end is hashed by itself, and the results are added. VLAN tags are not
part of it, as they may differ between directions. A frame that is malformed or not IP is hashed by its MAC addresses.
"""

from __future__ import annotations

from dataclasses import dataclass

_MASK = (1 << 64) - 1
_VLANS = (0x8100, 0x88A8)
MAX_VLANS = 4
MAX_EXTENSIONS = 8
MAX_OFFSET = 2047
_WITH_PORTS = (6, 17, 33, 132, 136)
_HOPOPTS, _ROUTING, _FRAGMENT, _AH, _DSTOPTS, _MOBILITY = 0, 43, 44, 51, 60, 135


def fold(x: int) -> int:
    """One multiplication: spreads the low bits upwards and folds them back."""
    x = x * 0x9E3779B97F4A7C15 & _MASK
    return x ^ x >> 32


def finish(x: int) -> int:
    """Every bit of the input changes about half of the output."""
    x &= _MASK
    x ^= x >> 33
    x = x * 0xFF51AFD7ED558CCD & _MASK
    x ^= x >> 33
    x = x * 0xC4CEB9FE1A85EC53 & _MASK
    return x ^ x >> 33


@dataclass(frozen=True)
class Flow:
    """What selects the member of a group, and decides about draining."""

    hash: int  # with ports; of a later fragment: without (see fragment)
    hash_l3: int  # addresses only
    tcp_flags: int = 0
    fragment: int = 0  # 0 whole, 1 first fragment, 2 later fragment
    datagram: tuple[int, int, int, int] | None = None  # which datagram a fragment belongs to


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


def _number(frame: bytes, at: int, size: int) -> int:
    return int.from_bytes(frame[at : at + size], "big")


def _transport(frame: bytes, at: int, ip: Ip) -> None:
    if ip.protocol in _WITH_PORTS and at + 4 <= len(frame):
        ip.ports = _number(frame, at, 2), _number(frame, at + 2, 2)
        if ip.protocol == 6 and at + 14 <= len(frame):
            ip.tcp_flags = frame[at + 13]


def _ipv4(frame: bytes, at: int) -> Ip | None:
    if at + 20 > len(frame) or frame[at] >> 4 != 4 or frame[at] & 15 < 5:
        return None
    ip = Ip(_number(frame, at + 12, 4), _number(frame, at + 16, 4), frame[at + 9])
    offset = _number(frame, at + 6, 2)
    if offset & 0x3FFF:
        ip.id = _number(frame, at + 4, 2)
        ip.fragment = 2 if offset & 0x1FFF else 1
    if ip.fragment != 2:
        _transport(frame, at + (frame[at] & 15) * 4, ip)
    return ip


def _ipv6(frame: bytes, at: int) -> Ip | None:
    if at + 40 > len(frame) or frame[at] >> 4 != 6:
        return None
    ip = Ip(_number(frame, at + 8, 16), _number(frame, at + 24, 16))
    following = frame[at + 6]
    at += 40
    for _ in range(MAX_EXTENSIONS):
        if following not in (_FRAGMENT, _HOPOPTS, _ROUTING, _DSTOPTS, _MOBILITY, _AH):
            break
        if at > MAX_OFFSET or at + 8 > len(frame):
            break
        if following == _FRAGMENT:
            offset = _number(frame, at + 2, 2)
            if offset & 0xFFF9:  # else "atomic": whole after all
                ip.id = _number(frame, at + 4, 4)
                ip.fragment = 2 if offset & 0xFFF8 else 1
            following = frame[at]
            at += 8
            if ip.fragment == 2:
                break
        elif following == _AH:
            following, at = frame[at], at + (frame[at + 1] + 2) * 4
        else:
            following, at = frame[at], at + (frame[at + 1] + 1) * 8
    ip.protocol = following
    if ip.fragment != 2 and at <= MAX_OFFSET:
        _transport(frame, at, ip)
    return ip


def _fold_address(address: int) -> int:
    return fold(fold(address >> 64) ^ (address & _MASK))


def read(frame: bytes) -> tuple[tuple[int, ...], int, Ip | None]:
    """VLAN ids from outside in, EtherType behind them, and the IP headers where it is IP and can be read."""
    at, ethertype = 14, _number(frame, 12, 2)
    vlans: list[int] = []
    for _ in range(MAX_VLANS):
        if ethertype not in _VLANS:
            break
        if at + 4 > len(frame):
            ethertype = 0
            break
        vlans.append(_number(frame, at, 2) & 0xFFF)
        ethertype, at = _number(frame, at + 2, 2), at + 4
    if ethertype == 0x0800:
        return tuple(vlans), ethertype, _ipv4(frame, at)
    return tuple(vlans), ethertype, _ipv6(frame, at) if ethertype == 0x86DD else None


def flow_of(frame: bytes) -> Flow:
    """Read a frame of any length. Fragments are not looked up: the caller keeps that table."""
    if len(frame) < 14:
        return Flow(0, 0)
    _, ethertype, ip = read(frame)
    if ip is None:
        stations = finish(fold(_number(frame, 0, 6)) + fold(_number(frame, 6, 6)))
        return Flow(stations, stations)
    a, b = _fold_address(ip.source), _fold_address(ip.destination)
    by_address = finish(a + b)
    datagram = None
    if ip.fragment:
        kind = ip.protocol if ethertype == 0x0800 else _FRAGMENT
        datagram = (ip.source, ip.destination, ip.id, kind)
    if ip.fragment == 2:
        return Flow(by_address, by_address, 0, 2, datagram)
    by_ports = finish(fold(a ^ ip.ports[0]) + fold(b ^ ip.ports[1]) + ip.protocol)
    return Flow(by_ports, by_address, ip.tcp_flags, ip.fragment, datagram)
