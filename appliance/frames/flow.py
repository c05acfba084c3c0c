# SPDX-License-Identifier: GPL-2.0-only
"""The flow that a frame belongs to, as the datapath sees it (appliance/bpf/flows.h). Pure functions of the bytes.

The hash is the same for both directions: each end is hashed by itself, and the results are added. The innermost IP
header counts, or in an ICMP error that of the packet it quotes; tags, labels and session numbers do not, as they may
differ between directions. A frame that is malformed or not IP is hashed by its MAC addresses.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.frames import headers, nested
from appliance.frames.headers import number

_MASK = (1 << 64) - 1


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
    ends: tuple[int, int]  # source and destination, each as a number
    protocol: int = 0  # 0 of a flow between stations
    tcp_flags: int = 0
    fragment: int = 0  # 0 whole, 1 first fragment, 2 later fragment
    datagram: tuple[int, int, int, int] | None = None  # which datagram a fragment belongs to
    quoted: bool = False  # it is an ICMP error about the flow
    tcp: tuple[int, int] | None = None  # where IP and TCP header begin, if the latter follows at once and is whole


def _fold_address(address: int) -> int:
    return fold(fold(address >> 64) ^ (address & _MASK))


def flow_of(frame: bytes) -> Flow:
    """Read a frame of any length. Fragments are not looked up: the caller keeps that table."""
    if len(frame) < 14:
        return Flow(0, (0, 0))
    vlans, ethertype, ip = headers.read(frame)
    inside = nested.read(frame) if nested.deeper(ip) else None
    quoted = inside is not None and inside.quoted
    if inside is not None:
        ip, later, fragment, datagram = inside.ip, inside.later, inside.fragment, inside.datagram
    elif ip is not None:
        kind = ip.protocol if ethertype == headers.IPV4 else headers.FRAGMENT
        later, fragment = ip.fragment == 2, ip.fragment
        datagram = (ip.source, ip.destination, ip.id, kind) if fragment else None
    else:
        stations = fold(number(frame, 6, 6)), fold(number(frame, 0, 6))
        return Flow(finish(sum(stations)), stations)
    ends = a, b = _fold_address(ip.source), _fold_address(ip.destination)
    if later:
        return Flow(finish(a + b), ends, ip.protocol, 0, fragment, datagram, quoted)
    by_ports = finish(fold(a ^ ip.ports[0]) + fold(b ^ ip.ports[1]) + ip.protocol)
    tcp = None if inside is not None or fragment else _tcp(frame, 14 + 4 * len(vlans), ethertype, ip)
    return Flow(by_ports, ends, ip.protocol, ip.tcp_flags, fragment, datagram, quoted, tcp)


def _tcp(frame: bytes, ip_at: int, ethertype: int, ip: headers.Ip) -> tuple[int, int] | None:
    """Where the headers begin, if the one of IP has no options or extensions and that of TCP is whole."""
    at = ip_at + (20 if ethertype == headers.IPV4 else 40)
    plain = frame[ip_at] == 0x45 if ethertype == headers.IPV4 else frame[ip_at + 6] == headers.TCP
    return (ip_at, at) if ip.protocol == headers.TCP and plain and at + 20 <= len(frame) else None
