# SPDX-License-Identifier: GPL-2.0-only
"""Heartbeats through a guest that routes: what goes in, and what a router may change; scapy is the oracle."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, IPOption
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from appliance.config.schema import model
from appliance.health.inband import MAGIC, Beat, Direction, Lane, Proof, neighbour_address
from appliance.health.inband_routed import Route
from appliance.health.inband_streams import TapPair, streams

PAIR = TapPair("tap-l", "tap-w", addresses=("02:00:00:00:00:0a", "02:00:00:00:00:0b"))
ROUTE = Route(bytes.fromhex("02000000000a"), IPv4Address("198.18.0.1"), IPv4Address("198.18.0.2"), 9)


ROUTE6 = Route(bytes.fromhex("02000000000a"), IPv6Address("2001:2::1"), IPv6Address("2001:2::2"), 9)


def lane(route: Route = ROUTE) -> Lane:
    return Lane(5, Direction.LAN_TO_WAN, 77, route=route)


def forwarded(frame: bytes, **more: object) -> bytes:
    """What a router makes of it: its own source, the next station, a hop less, checksums anew."""
    packet = Ether(frame)
    packet.src, packet.dst = "02:99:00:00:00:01", neighbour_address(5, Direction.LAN_TO_WAN).hex(":")
    packet[IP].ttl -= 1
    for key, value in more.items():
        setattr(packet[IP], key, value)
    del packet[IP].chksum, packet[IP].ihl, packet[IP].len, packet[UDP].chksum
    return bytes(packet)


def test_it_is_a_packet_for_the_guest_to_forward() -> None:
    """Right in every checksum, to the guest's port, and numbered."""
    frame = lane().send(1000)
    packet = Ether(frame)
    assert (packet.dst, packet[IP].src, packet[IP].dst, packet[UDP].dport) == (
        "02:00:00:00:00:0a", "198.18.0.1", "198.18.0.2", 9,
    )  # fmt: skip
    sums = packet[IP].chksum, packet[UDP].chksum
    del packet[IP].chksum, packet[UDP].chksum
    again = Ether(bytes(packet))
    assert sums == (again[IP].chksum, again[UDP].chksum)


def test_in_ipv6_it_has_a_checksum_always() -> None:
    """Right, and never 0, which a router drops; a hop limit that lets it through a router."""
    sums = set()
    for sequence in range(70_000):
        frame = ROUTE6.encode(Beat(5, Direction.LAN_TO_WAN, 77, sequence, 1000))
        sums.add(frame[60:62])
    assert b"\0\0" not in sums
    packet = Ether(lane(ROUTE6).send(1000))
    assert (packet.dst, packet[IPv6].src, packet[IPv6].dst, packet[UDP].dport, packet[IPv6].hlim) == (
        "02:00:00:00:00:0a", "2001:2::1", "2001:2::2", 9, 64,
    )  # fmt: skip
    given, length = packet[UDP].chksum, packet[IPv6].plen
    del packet[UDP].chksum, packet[IPv6].plen
    again = Ether(bytes(packet))
    assert (given, length) == (again[UDP].chksum, again[IPv6].plen)


def test_in_ipv6_it_is_known_when_it_comes_out() -> None:
    """By the lane of its family, and no other."""
    one = lane(ROUTE6)
    packet = Ether(one.send(1000))
    packet.src, packet.dst = "02:99:00:00:00:01", neighbour_address(5, Direction.LAN_TO_WAN).hex(":")
    packet[IPv6].hlim -= 1
    out = bytes(packet)
    assert not lane().claims(out)
    assert not one.claims(forwarded(lane().send(1000)))
    assert one.claims(out)
    assert one.receive(1500, out) == Proof(1000, 500)
    assert one.receive(1600, out) is None


@pytest.mark.parametrize(
    "more", [{}, {"src": "203.0.113.9"}, {"options": [IPOption(b"\x94\x04\0\0")]}], ids=["routed", "NAT", "options"]
)
def test_it_is_known_when_it_comes_out(more: dict[str, object]) -> None:
    """By its payload, once; as it went in it proves nothing: that is an echo and not a router's work."""
    one = lane()
    frame = one.send(1000)
    out = forwarded(frame, **more)
    assert one.claims(out)
    assert one.receive(1500, out) == Proof(1000, 500)
    assert one.receive(1600, out) is None
    one.send(2000)
    assert not one.claims(one.send(2000))


def test_another_runs_or_guests_prove_nothing() -> None:
    for other in (Lane(5, Direction.LAN_TO_WAN, 78, route=ROUTE), Lane(6, Direction.LAN_TO_WAN, 77, route=ROUTE)):
        one = lane()
        one.send(1000)
        assert one.receive(1500, forwarded(other.send(1000))) is None


@given(st.binary(max_size=80))
def test_any_bytes_are_no_trouble(data: bytes) -> None:
    for route in (ROUTE, ROUTE6):
        ours = neighbour_address(5, Direction.LAN_TO_WAN) + bytes(6) + route.ethertype.to_bytes(2, "big") + data
        for frame in (data, ours, ours + MAGIC):
            assert route.decode(frame, 5) is None


def test_both_directions_of_a_probe(tmp_path: Path) -> None:
    """Each enters by its own port of the guest, from the end at its own side."""
    probe = model.Probe(kind="inband", routed=model.Routed(lan="198.18.0.1", wan="198.18.0.2", port=4000))
    found = streams((probe,), 5, (PAIR,), 1, tmp_path)
    assert [stream.check for stream in found] == ["in-band routed lan to wan", "in-band routed wan to lan"]
    packets = [Ether(stream.lane.send(1)) for stream in found]
    assert [(packet.dst, packet[IP].src, packet[IP].dst, packet[UDP].sport) for packet in packets] == [
        ("02:00:00:00:00:0a", "198.18.0.1", "198.18.0.2", 4000),
        ("02:00:00:00:00:0b", "198.18.0.2", "198.18.0.1", 4000),
    ]
    assert {stream.lane.ethertype for stream in found} == {0x0800}


def test_both_families_beside_each_other(tmp_path: Path) -> None:
    """Each has checks of its own name, by sockets of its own EtherType."""
    ends = (model.Routed(lan="198.18.0.1", wan="198.18.0.2"), model.Routed(lan="2001:2::1", wan="2001:2::2"))
    probes = tuple(model.Probe(kind="inband", routed=routed) for routed in ends)
    found = {stream.check: stream.lane.ethertype for stream in streams(probes, 5, (PAIR,), 1, tmp_path)}
    assert found == {
        "in-band routed lan to wan": 0x0800,
        "in-band routed wan to lan": 0x0800,
        "in-band routed IPv6 lan to wan": 0x86DD,
        "in-band routed IPv6 wan to lan": 0x86DD,
    }
