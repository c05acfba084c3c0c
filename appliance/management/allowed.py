# SPDX-License-Identifier: GPL-2.0-only
"""Which networks may reach the services of the management port (SSH, metrics, SNMP): others are dropped before that.

A classic BPF program that tc runs on what the port receives; libpcap makes it from an expression. Services in other
namespaces, replies to our own questions and the guests' own traffic are not its business. Pure: networks go in,
commands for tc come out.

An IPv6 packet with extension headers hides its port from such a program, so others may not send any: what the port
itself sends to them needs none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from appliance.filter import libpcap

Words = list[str]
_PASS, _DROP = 0xFFFFFFFF, 2  # TC_ACT_UNSPEC: the next program decides; TC_ACT_SHOT
_RETURN = 0x06
_HIDDEN = "ip6 and not (ip6[6] = 6 or ip6[6] = 17 or ip6[6] = 58)"


def expression(networks: Sequence[str], ports: Sequence[int], udp: Sequence[int] = ()) -> str:
    """The frames that are dropped, for pcap-filter(7)."""
    named = [ipaddress.ip_network(network, strict=False) for network in networks]
    allowed = " or ".join(
        f"src net {network}" if network.version == 4 else f"ip6 src net {network}" for network in named
    )
    named_ports = [*(f"tcp dst port {port}" for port in ports), *(f"udp dst port {port}" for port in udp)]
    services = " or ".join(named_ports)
    return f"({services} or ({_HIDDEN})) and not ({allowed})"


def bytecode(text: str) -> str:
    """The program as tc reads it. FilterError: libpcap refuses it."""
    rows = [
        (code, jt, jf, (_DROP if k else _PASS) if code == _RETURN else k)
        for code, jt, jf, k in libpcap.compile_text(text)
    ]
    return ",".join([str(len(rows)), *(" ".join(map(str, row)) for row in rows)])


def commands(
    networks: Sequence[str], ports: Sequence[int], port: str, space: str, udp: Sequence[int] = ()
) -> list[Words]:
    """The commands that let these networks in and no others. Idempotent."""
    tc = ["tc", "-n", space]
    program = ["handle", "1", "bpf", "direct-action", "bytecode", bytecode(expression(networks, ports, udp))]
    return [
        [*tc, "qdisc", "replace", "dev", port, "clsact"],
        [*tc, "filter", "replace", "dev", port, "ingress", "protocol", "all", "pref", "2", *program],
    ]


def removal(port: str, space: str) -> Words:
    """The command that lets everybody in; it fails where nothing was refused."""
    return ["tc", "-n", space, "filter", "delete", "dev", port, "ingress", "pref", "2"]
