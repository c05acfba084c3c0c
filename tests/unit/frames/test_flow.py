# SPDX-License-Identifier: GPL-2.0-only
"""Flows: both directions, every tag and every fragment of a flow have one hash; different flows spread."""

from __future__ import annotations

from collections import Counter

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from appliance.frames import headers
from appliance.frames.flow import finish, flow_of, fold
from tests.support.frames import INNER, INNER6, NESTED, typed

A, B = "02:00:00:00:00:01", "02:00:00:00:00:02"


def there(inside: Packet) -> bytes:
    return bytes(Ether(src=A, dst=B) / inside)


def back(inside: Packet) -> bytes:
    return bytes(Ether(src=B, dst=A) / inside)


V4, V6 = IP(src="1.1.1.1", dst="2.2.2.2"), IPv6(src="::1", dst="::2")
BACK4, BACK6 = IP(src="2.2.2.2", dst="1.1.1.1"), IPv6(src="::2", dst="::1")
PORTS = UDP(sport=5, dport=6)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (there(V4 / TCP(sport=5, dport=80)), back(BACK4 / TCP(sport=80, dport=5))),
        (there(V6 / PORTS), back(BACK6 / UDP(sport=6, dport=5))),
        (there(V4 / ICMP()), back(BACK4 / ICMP(type=0))),
        (there(ARP(op=2)), back(ARP(op=2))),
        (there(V4 / PORTS), there(Dot1Q(vlan=3) / V4 / PORTS)),
        (there(Dot1AD(vlan=9) / Dot1Q(vlan=3) / V4 / PORTS), there(Dot1Q(vlan=4) / V4 / PORTS)),
        (there(V6 / IPv6ExtHdrHopByHop() / PORTS), there(V6 / PORTS)),
    ],
)
def test_same_flow(one: bytes, other: bytes) -> None:
    """Direction, tags and extension headers make no difference."""
    assert flow_of(one).hash == flow_of(other).hash


def test_other_ports_and_protocols_are_other_flows() -> None:
    """And by addresses alone they are the same."""
    frames = [there(V4 / layer) for layer in (TCP(sport=1), TCP(sport=2), UDP(sport=1, dport=80), ICMP())]
    assert len({flow_of(frame).hash for frame in frames}) == 4
    assert len({frozenset(flow_of(frame).ends) for frame in frames}) == 1


FOUR = ("tag 0x9100", "eight tags", "snap", "pppoe", "pppoe behind a tag", "mpls", "pseudowire", "gre", "gre ethernet",
        "ip in ip", "four in six", "vxlan", "vxlan behind two tags", "geneve", "geneve ip", "gtp",
        "a tunnel in a tunnel", "icmp error", "icmp error, tagged", "first fragment of a tunnel")  # fmt: skip
SIX = ("pppoe six", "three labels", "six in four", "gtp of 5G", "icmp6 error")


@pytest.mark.parametrize(("name", "inside"), [*((name, INNER) for name in FOUR), *((name, INNER6) for name in SIX)])
def test_a_flow_behind_anything_is_that_flow(name: str, inside: bytes) -> None:
    """Tags of any kind, labels, PPPoE, SNAP, tunnels, errors about it: the flow is that of the innermost header."""
    found, plain = flow_of(NESTED[name]), flow_of(typed(0x0800 if inside is INNER else 0x86DD, inside))
    assert (found.hash, set(found.ends), found.protocol) == (plain.hash, set(plain.ends), plain.protocol)


def test_what_cannot_be_read_goes_by_what_is_around_it() -> None:
    """A tunnel with no IP in it, or of a kind that is not known, is one flow; so is an error that quotes too little."""
    for name in ("vxlan arp", "no vxlan", "gre of another version", "icmp error that quotes too little"):
        ip = headers.read(NESTED[name])[2]
        assert ip is not None
        assert flow_of(NESTED[name]).ends == (fold(fold(0) ^ ip.source), fold(fold(0) ^ ip.destination))
    stations = flow_of(there(ARP(op=2))).hash
    assert flow_of(there(Raw(b"")))  # ends behind the stations and the type
    assert flow_of(bytes(Ether(src=A, dst=B, type=0x8864)) + NESTED["pppoe control"][14:]).hash == stations


def test_fragments_of_a_tunnel_are_one_datagram() -> None:
    """The outer one; the flow is that inside the first fragment, and a fragment inside a whole packet is its own."""
    first, later = flow_of(NESTED["first fragment of a tunnel"]), flow_of(NESTED["later fragment of a tunnel"])
    assert (first.fragment, later.fragment, first.datagram) == (1, 2, later.datagram)
    inside = flow_of(NESTED["a fragment in a tunnel"])
    assert (inside.fragment, inside.datagram) == (2, (0x0A000001, 0x0A010001, 80, 17))
    assert flow_of(NESTED["icmp error about a fragment"]).datagram is None
    assert flow_of(NESTED["icmp error in pieces"]).hash == flow_of(typed(0x0800, INNER)).hash


def test_an_error_opens_and_closes_nothing() -> None:
    """The flags of a quoted segment are none of the flow's own."""
    quoted = bytes(V4 / TCP(sport=5, dport=80, flags="FR"))
    error = flow_of(there(IP(src="9.9.9.9", dst="1.1.1.1") / ICMP(type=3, code=4) / Raw(quoted)))
    assert error.hash == flow_of(there(V4 / TCP(sport=5, dport=80))).hash
    assert error.tcp_flags == 0


def test_fragments_name_their_datagram() -> None:
    """First and later fragments have the same key; a later one shows no ports."""
    four = IP(id=7, flags="MF") / PORTS / bytes(16), IP(id=7, frag=3, proto=17) / bytes(16)
    six = (
        IPv6() / IPv6ExtHdrFragment(id=7, m=1) / PORTS / bytes(16),
        IPv6() / IPv6ExtHdrFragment(id=7, offset=3, nh=17) / bytes(16),
    )
    for first, later in (four, six):
        one, two = flow_of(there(first)), flow_of(there(later))
        assert (one.fragment, two.fragment) == (1, 2)
        assert one.datagram == two.datagram is not None
        assert two.hash == finish(sum(two.ends)) == finish(sum(one.ends)) != one.hash
        assert one.protocol == two.protocol == 17


def test_flows_spread_evenly() -> None:
    """10,240 flows over 1,024 buckets: no bucket far from ten (a uniform draw has four sigma at 23)."""
    frame = bytearray(there(IP(src="10.0.0.1", dst="10.1.0.1") / TCP(sport=0, dport=80)))
    buckets: Counter[int] = Counter()
    for port in range(10_240):
        frame[34:36] = port.to_bytes(2, "big")
        buckets[flow_of(bytes(frame)).hash % 1024] += 1
    assert len(buckets) > 1010
    assert max(buckets.values()) < 30
