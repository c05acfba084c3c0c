# SPDX-License-Identifier: GPL-2.0-only
"""Flows: both directions, every tag and every fragment of a flow have one hash; different flows spread."""

from __future__ import annotations

from collections import Counter

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.packet import Packet

from appliance.frames.flow import flow_of

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
    assert len({flow_of(frame).hash_l3 for frame in frames}) == 1


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
        assert two.hash == two.hash_l3 == one.hash_l3 != one.hash


def test_flows_spread_evenly() -> None:
    """10,240 flows over 1,024 buckets: no bucket far from ten (a uniform draw has four sigma at 23)."""
    frame = bytearray(there(IP(src="10.0.0.1", dst="10.1.0.1") / TCP(sport=0, dport=80)))
    buckets: Counter[int] = Counter()
    for port in range(10_240):
        frame[34:36] = port.to_bytes(2, "big")
        buckets[flow_of(bytes(frame)).hash % 1024] += 1
    assert len(buckets) > 1010
    assert max(buckets.values()) < 30
