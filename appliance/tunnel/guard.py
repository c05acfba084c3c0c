# SPDX-License-Identifier: GPL-2.0-only
"""Drops outer packets that no tunnel of ours may send: from another address, or with another key. And counts them.

The kernel finds a VXLAN device by port and network alone, so anybody could put frames on the link; and what it refuses
itself (another key) it does not count. A classic BPF program looks at what the management port receives, before the
kernel's tunnels do; libpcap makes it from an expression. Pure: tunnels go in, commands for tc come out, and back comes
a count.

Only the addresses and keys are checked: whoever can send with both can still forge. IPv6 packets with extension headers
before the tunnel's are left to the kernel.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from appliance.config.schema import encapsulations
from appliance.filter import libpcap
from appliance.tunnel.plan import Plan

Words = list[str]
PREFERENCE = "3"
"""Behind the filters of logins (1) and of `management.allow` (2), at the same port."""
_UDP = 8
_UDP_KEY = _UDP + 4  # of the network's number in VXLAN and Geneve, behind the IP header: UDP, then a word
_GRE_KEY, _GRE_CHECKSUM = 4, 4
_IPV4, _IPV6 = 4, 41  # protocols of IP
_RETURN, _DROP, _NEXT = 0x06, 2, 0xFFFFFFFF  # BPF_RET | BPF_K; TC_ACT_SHOT; TC_ACT_UNSPEC: the next program decides
_HAS_CHECKSUM, _HAS_KEY, _HAS_SEQUENCE = 0x8000, 0x2000, 0x1000


def good(plan: Plan) -> str:
    """What the far end of this tunnel sends, for pcap-filter(7)."""
    six = plan.version == 6
    word, header = ("ip6", 40) if six else ("ip", 20)
    plain = "ip6[6]" if six else "ip[0] & 0xf = 5 and ip[9]"  # the protocol, without options before it
    sender = f"{word} src host {plan.remote}"
    tunnel, gre = plan.tunnel, header
    if not encapsulations.KINDS[tunnel.kind].keyed:
        inside = f"({' or '.join(f'{plain} = {number}' for number in _inside(plan))})"
        return f"({sender} and {inside})"
    if not encapsulations.KINDS[tunnel.kind].gre:
        network = f"{word}[{header + _UDP_KEY}:4] & 0xffffff00 = {plan.key << 8}"
        return f"({sender} and {plain} = 17 and {word}[{header + 2}:2] = {plan.port} and {network})"
    protocol = "47"
    if plan.port:
        gre += _UDP
        protocol = f"17 and {word}[{header + 2}:2] = {plan.port}"
    flags = _HAS_KEY | _HAS_CHECKSUM * tunnel.checksum | _HAS_SEQUENCE * tunnel.sequence
    key = f"{word}[{gre + _GRE_KEY + _GRE_CHECKSUM * tunnel.checksum}:4] = {plan.key}"
    return f"({sender} and {plain} = {protocol} and {word}[{gre}:2] & 0xb000 = {flags} and {key})"


def _inside(plan: Plan) -> tuple[int, ...]:
    """The protocols of IP that say that a packet of IP follows: IPv4, and IPv6 where the tunnel carries it."""
    return (_IPV4,) if encapsulations.only_ipv4(plan.tunnel) else (_IPV4, _IPV6)


def expression(plans: Sequence[Plan]) -> str:
    """The packets that are dropped; "" where there is no tunnel."""
    # The kernel also takes GRE that is in no UDP for a tunnel that has it in UDP.
    gre = ["proto 47"] if any(encapsulations.KINDS[plan.tunnel.kind].gre for plan in plans) else []
    bare = [
        f"{'ip6' if plan.version == 6 else 'ip'} proto {number}"
        for plan in plans
        if not encapsulations.KINDS[plan.tunnel.kind].keyed
        for number in _inside(plan)
    ]
    ports = dict.fromkeys([f"udp dst port {plan.port}" for plan in plans if plan.port] + gre + bare)
    if not ports:
        return ""
    wanted = " or ".join(dict.fromkeys(good(plan) for plan in plans))
    return f"({' or '.join(ports)}) and not ({wanted})"


def commands(plans: Sequence[Plan], port: str) -> list[Words]:
    """The commands that drop such packets where they arrive. Idempotent. FilterError: libpcap refuses."""
    made = [
        each._replace(k=_DROP if each.k else _NEXT) if each.code == _RETURN else each
        for each in libpcap.compile_text(expression(plans))
    ]
    code = ",".join([str(len(made)), *(f"{each.code} {each.jt} {each.jf} {each.k}" for each in made)])
    where = ["dev", port, "ingress", "protocol", "all", "pref", PREFERENCE, "handle", "1"]
    return [
        ["tc", "qdisc", "replace", "dev", port, "clsact"],
        ["tc", "filter", "replace", *where, "bpf", "direct-action", "bytecode", code],
    ]


def removal(port: str) -> Words:
    """The command that ends it; it fails where nothing was dropped."""
    return ["tc", "filter", "delete", "dev", port, "ingress", "pref", PREFERENCE]


def question(port: str) -> Words:
    """The command that prints how many packets the port's filters have dropped."""
    return ["tc", "-s", "-j", "qdisc", "show", "dev", port, "clsact"]


def dropped(text: str) -> int | None:
    """How many packets the port's filters dropped, from the answer to `question`; None: the port has no filters.

    Those of refused logins and networks are among them: the kernel counts for all filters of a port together.
    """
    try:
        rows = json.loads(text or "[]")
    except ValueError:
        return None
    found = [row.get("drops", 0) for row in rows if isinstance(row, dict) and row.get("kind") == "clsact"]
    return found[0] if found and isinstance(found[0], int) else None
