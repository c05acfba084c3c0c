# SPDX-License-Identifier: GPL-2.0-only
"""Drops new SSH connections from a network after failed logins; sessions that are open go on.

Administrators share addresses (a jump host, NAT), and whoever is in must not be cut off because somebody else there
mistypes a password. So what is dropped are segments that open a connection to the SSH server. Fragments of TCP and
IPv6 extension headers are dropped from that network too: they could hide such a segment, and no TCP of our clients
needs them. Connections that were open before their login are bounded by the server: five from an address, three tries
each.

The filter is a classic BPF program for each network, which tc runs where frames come in by the management port. Pure:
arguments for tc come out.
"""

from __future__ import annotations

from appliance.filter import libpcap
from appliance.filter.classic import Instruction

Words = list[str]

_RETURN, _DROP, _NEXT = 0x06, 2, 0xFFFFFFFF  # BPF_RET | BPF_K; TC_ACT_SHOT; TC_ACT_UNSPEC: the next program decides
_OPENS = 0x12, 0x02  # of SYN and ACK only SYN
_EXTENSIONS = (0, 43, 44, 60)  # IPv6: hop-by-hop, routing, fragment, destination options


def program(network: str, ssh_port: int) -> list[Instruction]:
    """The program: it returns what tc does with the frame."""
    mask, opens = _OPENS
    if ":" in network:
        hidden = " or ".join(f"ip6[6] = {header}" for header in _EXTENSIONS)
        what = f"({hidden} or (ip6[6] = 6 and ip6[42:2] = {ssh_port} and ip6[53] & {mask} = {opens}))"
    else:
        what = f"tcp and (ip[6:2] & 0x3fff != 0 or (tcp dst port {ssh_port} and tcp[13] & {mask} = {opens}))"
    found = libpcap.compile_text(f"src net {network} and {what}")
    return [each._replace(k=_DROP if each.k else _NEXT) if each.code == _RETURN else each for each in found]


def begin(port: str, space: str) -> list[Words]:
    """The commands that make a port ready for blocks, and remove earlier ones. The second fails if there are none.

    The filter of `management.allow` (allowed.py) has the next preference on the same port and stays.
    """
    tc = ["tc", "-n", space]
    return [
        [*tc, "qdisc", "replace", "dev", port, "clsact"],
        [*tc, "filter", "delete", "dev", port, "ingress", "pref", "1"],
    ]


def block(network: str, number: int, port: str, ssh_port: int, space: str) -> Words:
    """The command that blocks a network, with a number (from 1) of its own. Idempotent."""
    made = program(network, ssh_port)
    code = ",".join([str(len(made)), *(f"{each.code} {each.jt} {each.jf} {each.k}" for each in made)])
    return [*_filter("replace", number, port, space), "direct-action", "bytecode", code]


def unblock(number: int, port: str, space: str) -> Words:
    """Undo `block`."""
    return _filter("del", number, port, space)


def _filter(verb: str, number: int, port: str, space: str) -> Words:
    where = ["dev", port, "ingress", "protocol", "all", "pref", "1", "handle", str(number)]
    return ["tc", "-n", space, "filter", verb, *where, "bpf"]
