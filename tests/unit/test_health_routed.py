# SPDX-License-Identifier: GPL-2.0-only
"""Heartbeats through a guest that routes: what goes in, and what a router may make of it; scapy is the oracle."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, IPOption
from scapy.layers.l2 import Ether

from appliance.config import model
from appliance.health.inband import MAGIC, Direction, Lane, Proof
from appliance.health.routed import Route, next_hop
from appliance.health.streams import TapPair, streams

PAIR = TapPair("tap-l", "tap-w", addresses=("02:00:00:00:00:0a", "02:00:00:00:00:0b"))
ROUTE = Route(bytes.fromhex("02000000000a"), IPv4Address("198.18.0.1"), IPv4Address("198.18.0.2"), 9)


def lane() -> Lane:
    return Lane(5, Direction.LAN_TO_WAN, 77, route=ROUTE)


def forwarded(frame: bytes, **more: object) -> bytes:
    """What a router makes of it: its own source, the next station, a hop less, checksums anew."""
    packet = Ether(frame)
    packet.src, packet.dst = "02:99:00:00:00:01", next_hop(5, Direction.LAN_TO_WAN).hex(":")
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
    ours = next_hop(5, Direction.LAN_TO_WAN) + bytes(6) + b"\x08\x00" + data
    for frame in (data, ours, ours + MAGIC):
        assert Route.decode(frame, 5) is None


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
