# SPDX-License-Identifier: GPL-2.0-only
"""Which flows were present when a guest failed, and which of them were present at several failures. Pure.

A flow is what the datapath treats as one (frames/flow.py), both directions together; its pcap filter makes it bypass
the guest. A fragmented flow is identified by its addresses, because later fragments carry no ports.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from appliance.config.schema import model
from appliance.frames import headers
from appliance.units import Duration

_PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6", 132: "sctp"}
_WITH_PORTS = {6: "tcp", 17: "udp", 132: "sctp"}


class Flow(NamedTuple):
    """`text` is for display, `match` is a pcap filter; both are the same for either direction."""

    text: str
    match: str


def flow_of(frame: bytes) -> Flow | None:
    """The flow of a recorded frame; None if it is too short for one."""
    if len(frame) < 14:
        return None
    vlans, ethertype, ip = headers.read(frame)
    found = _of_ip(ip, ethertype == 0x86DD) if ip is not None else _of_stations(frame, ethertype)
    for vlan in reversed(vlans):
        found = Flow(f"vlan {vlan} {found.text}", f"vlan {vlan} and ({found.match})")
    return found


def _of_stations(frame: bytes, ethertype: int) -> Flow:
    one, other = sorted((frame[0:6].hex(":"), frame[6:12].hex(":")))
    kind = f" and ether proto {ethertype:#06x}" if ethertype >= 0x600 else ""
    return Flow(f"ethertype {ethertype:#06x} {one} <> {other}", f"ether host {one} and ether host {other}{kind}")


def _of_ip(ip: headers.Ip, v6: bool) -> Flow:
    kind = ipaddress.IPv6Address if v6 else ipaddress.IPv4Address
    one, other = sorted(((ip.source, ip.ports[0]), (ip.destination, ip.ports[1])))
    a, b = kind(one[0]), kind(other[0])
    word = "ip6" if v6 else "ip"
    name = _PROTOCOLS.get(ip.protocol, f"protocol {ip.protocol}")
    if ip.protocol in _WITH_PORTS and not ip.fragment:
        proto = _WITH_PORTS[ip.protocol]

        def way(x: object, x_port: int, y: object, y_port: int) -> str:
            hosts = f"{word} src host {x} and {word} dst host {y}"
            return f"({hosts} and {proto} src port {x_port} and {proto} dst port {y_port})"

        joined = " or ".join(dict.fromkeys((way(a, one[1], b, other[1]), way(b, other[1], a, one[1]))))
        ends = [f"[{x}]:{port}" if v6 else f"{x}:{port}" for x, port in ((a, one[1]), (b, other[1]))]
        return Flow(f"{name} {ends[0]} <> {ends[1]}", joined)
    hosts = f"{word} host {a} and {word} host {b}"
    # libpcap does not find the protocol behind extension headers; the addresses are enough.
    proto = "" if v6 else f" and ip proto {ip.protocol}"
    fragments = " (fragments)" if ip.fragment else ""
    return Flow(f"{name} {a} <> {b}{fragments}", hosts + proto)


def flows_of(frames: Iterable[bytes]) -> list[Flow]:
    """The flows of many frames, the one with the newest frame first."""
    found = [one for one in map(flow_of, frames) if one is not None]
    return list(dict.fromkeys(reversed(found)))


class Death(Protocol):
    """The part of an incident that is needed here."""

    @property
    def number(self) -> int: ...

    @property
    def at(self) -> float:
        """Seconds since 1970."""

    @property
    def flows(self) -> Sequence[Flow]: ...


class Judgement(NamedTuple):
    """`blamed` are quarantined; `why` is the finding for the operator, empty when there is none."""

    blamed: tuple[Flow, ...] = ()
    incidents: tuple[int, ...] = ()
    why: str = ""


def judge(deaths: Sequence[Death], policy: model.Quarantine) -> Judgement:
    """Which flows to blame. `deaths` are those of one guest, or of those that take over its flows, newest last.

    A failure before which no frame was recorded says nothing about flows and is skipped.
    """
    row: list[Death] = []
    for death in reversed(deaths):
        if not death.flows:
            continue
        if row and row[-1].at - death.at > policy.within.seconds:
            break
        row.append(death)
        if len(row) == policy.deaths:
            break
    if len(row) < policy.deaths:
        return Judgement()
    row.reverse()
    numbers = tuple(death.number for death in row)
    which = f"incidents {', '.join(map(str, numbers))}"
    common = [one for one in row[-1].flows if all(one in death.flows for death in row)]
    if not common:
        return Judgement((), numbers, f"no flow was present at every one of {which}")
    if len(common) > policy.flows:
        return Judgement(
            (), numbers, f"{len(common)} flows were present at every one of {which}: too many to blame one"
        )
    until = Duration(int(policy.time))
    return Judgement(tuple(common), numbers, f"was present at {which}: bypasses the guest for {until}")
