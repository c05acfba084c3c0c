# SPDX-License-Identifier: GPL-2.0-only
"""Encapsulation in XDP (bpf/encap.h) puts on what the kernel's tunnels put on, byte for byte, or hands the frame over.

The same random frames go both ways: through a tunnel device of the kernel, whose packets are captured at the far end,
and through the program by BPF_PROG_TEST_RUN. Three fields are left out of the comparison, because the kernel makes
them from secrets of its own: the identification of IPv4, the UDP source port and the flow label of IPv6; what they
must be is tested apart. Checksums are compared as right or wrong, since they cover two of these. Kinds that this
kernel does not have are compared with scapy's packets instead.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import GRE, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw
from simulator import netns

from appliance.steering.kernel.encaps import GENEVE_PORTS, Headers
from appliance.steering.kernel.layout import Encapsulated
from tests.support import far_end
from tests.support.encap_world import ETH_ALL, PLACE, Programs, World
from tests.support.far_end import FAR4, FAR6, OUR4, OUR6

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

XDP_TX, XDP_REDIRECT = 3, 4
LOCAL_PORTS = (32768, 60999)
KEY = 0x0A0B0C
HEADERS = {
    "vxlan4": Headers("vxlan", OUR4, FAR4, KEY, 4789, LOCAL_PORTS),
    "geneve4": Headers("geneve", OUR4, FAR4, KEY, 6081, GENEVE_PORTS),
    "gre4": Headers("gre-ethernet", OUR4, FAR4, 0xA0B0C0D0),
    "gre6": Headers("gre-ethernet", OUR6, FAR6, 0xA0B0C0D0),
}


@pytest.fixture(scope="module")
def world(bpf_object: Path) -> Iterator[World]:
    programs = Programs(bpf_object, "encap_xdp")
    made = World(programs)
    try:
        made.make()
        yield made
    finally:
        made.close()
        programs.close()


def words_sum(data: bytes) -> int:
    """The sum of the Internet checksum, which is 0xffff over a header with a right one."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def comparable(packet: bytes) -> bytes:
    """The packet without the fields that follow from the kernel's secrets; its checksums must be right."""
    made = bytearray(packet)
    if made[12:14] == b"\x08\x00":
        assert words_sum(bytes(made[14:34])) == 0xFFFF, "the checksum of the outer header"
        made[18:20] = made[24:26] = bytes(2)
        if made[23] == socket.IPPROTO_UDP:
            made[34:36] = bytes(2)
    else:
        made[15] &= 0xF0
        made[16:18] = bytes(2)
    return bytes(made)


def encapsulated(world: World, frame: bytes) -> bytes:
    action, out, _ = world.run(frame)
    assert action == XDP_REDIRECT, (frame.hex(), world.programs.encaps.frames(PLACE))
    return out


class Oracle:
    """A tunnel device of the kernel, and what comes out of it at the far end."""

    def __init__(self, world: World, kind: str, capture: socket.socket) -> None:
        self._world, self._capture = world, capture
        headers = HEADERS[kind]
        device = [*f"ip -n {world.near} link add t0 mtu 1500 type".split()]
        ends = ["remote", headers.destination]
        udp = f"id {KEY} dstport {headers.port} ttl 64 df set noudpcsum".split()
        match kind:
            case "vxlan4":
                device += ["vxlan", *ends, *udp, "nolearning"]
            case "geneve4":
                device += ["geneve", *ends, *udp]
            case "gre4":
                device += ["gretap", *ends, "local", OUR4, "key", str(headers.key), "pmtudisc", "ttl", "64"]
            case "gre6":
                device += ["ip6gretap", "encaplimit", "none", "hoplimit", "64", *ends, "local", OUR6]
                device += ["key", str(headers.key)]
        netns.run(*device)
        netns.run("ip", "-n", world.near, "link", "set", "t0", "arp", "off", "up")
        self._enter = netns.enter(world.near, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        netns.enter(world.near, lambda: self._enter.bind(("t0", ETH_ALL)))

    def __call__(self, frame: bytes) -> bytes:
        self._enter.send(frame)
        while True:
            packet: bytes
            packet, about = self._capture.recvfrom(4096)
            if about[2] != socket.PACKET_OUTGOING and packet.endswith(frame):
                return packet

    def close(self) -> None:
        self._enter.close()
        netns.run("ip", "-n", self._world.near, "link", "delete", "t0")


STATIONS = {"src": "02:00:00:00:00:01", "dst": "02:00:00:00:00:02"}
TAGS = st.one_of(st.none(), st.integers(0, 0xFFFF).map(lambda tci: struct.pack("!HH", 0x8100, tci)),
                 st.integers(0, 0xFFFF).map(lambda tci: struct.pack("!HH", 0x88A8, tci)))  # fmt: skip
BODIES = st.one_of(
    st.builds(
        lambda tos, rest: b"\x08\x00" + bytes(IP(tos=tos, src="198.51.100.1", dst="198.51.100.2") / Raw(rest)),
        st.integers(0, 255), st.binary(max_size=1400),
    ),
    st.builds(
        lambda tos, port, rest: b"\x08\x00" + bytes(IP(tos=tos) / UDP(sport=port, dport=9) / Raw(rest)),
        st.integers(0, 255), st.integers(0, 0xFFFF), st.binary(max_size=1400),
    ),
    st.builds(
        lambda tos, port, rest: b"\x86\xdd" + bytes(IPv6(tc=tos, fl=7) / TCP(sport=port) / Raw(rest)),
        st.integers(0, 255), st.integers(0, 0xFFFF), st.binary(max_size=1400),
    ),
    st.builds(lambda rest: b"\x08\x00" + rest, st.binary(min_size=20, max_size=1480)),
    st.builds(lambda rest: b"\x86\xdd" + rest, st.binary(min_size=40, max_size=1480)),
    st.builds(lambda kind, rest: struct.pack("!H", kind) + rest, st.integers(0, 0x7FF), st.binary(max_size=1480)),
    st.just(b"\x08\x06" + bytes(ARP())),
)  # fmt: skip


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """A frame with at most one tag, which ends within no header that its type says."""
    tag = draw(TAGS) or b""
    frame: bytes = draw(st.binary(min_size=12, max_size=12)) + tag + draw(BODIES)
    frame = bytes([frame[0] & 0xFE]) + frame[1:]  # not to a group, of which the kernel might know more
    return frame[:1518] if len(frame) >= 18 else frame.ljust(18, b"\0")


EVERY = settings(
    max_examples=150, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@pytest.mark.parametrize("kind", list(HEADERS))
def test_it_makes_the_packets_of_the_kernel(world: World, kind: str) -> None:
    """Random frames by both ways."""
    if far_end.missing(kind):
        pytest.skip(far_end.missing(kind))
    world.arrange(HEADERS[kind])
    with world.captured() as capture:
        oracle = Oracle(world, kind, capture)

        @EVERY
        @given(frame=frames())
        def compare(frame: bytes) -> None:
            assert comparable(encapsulated(world, frame)) == comparable(oracle(frame))

        try:
            compare()
        finally:
            oracle.close()


def written(world: World, kind: str, frame: bytes, tos: int) -> bytes:
    """The packet, from scapy."""
    headers = HEADERS[kind]
    six = kind.endswith("6")
    outer: Packet = Ether(src=world.address(world.near, "mgmt0"), dst=world.address(world.far, "up0"))
    if six:
        outer /= IPv6(src=headers.source, dst=headers.destination, hlim=64, tc=tos, fl=0)
    else:
        outer /= IP(src=headers.source, dst=headers.destination, ttl=64, tos=tos, flags="DF", id=0)
    udp = UDP(sport=0, dport=headers.port, chksum=0)
    match headers.kind:
        case "vxlan":
            outer /= udp / VXLAN(flags=8, vni=headers.key)
        case "geneve":
            outer /= udp / GENEVE(proto=0x6558, vni=headers.key)
        case _:
            outer /= GRE(key_present=1, key=headers.key, proto=0x6558)
    return bytes(outer / Raw(frame))


ECN = {0: 0, 1: 1, 2: 2, 3: 2}
"""What the outer header says of congestion, by what the inner one says (RFC 6040, as the kernel has it)."""


@pytest.mark.parametrize("kind", list(HEADERS))
@pytest.mark.parametrize("tos", [0, 1, 2, 3, 0xB8, 0xFF])
def test_the_packet_is_as_its_standard_says(world: World, kind: str, tos: int) -> None:
    """Each field by an oracle that is not the kernel, for kernels that lack the kind."""
    world.arrange(HEADERS[kind])
    for inside in (IP(tos=tos) / UDP() / Raw(b"x" * 50), IPv6(tc=tos) / UDP(), Dot1Q(vlan=5) / IP(tos=tos) / TCP()):
        frame = bytes(Ether(**STATIONS) / inside)
        assert comparable(encapsulated(world, frame)) == comparable(written(world, kind, frame, ECN[tos & 3]))


def source_port(world: World, frame: Packet) -> int:
    return int.from_bytes(encapsulated(world, bytes(frame))[34:36], "big")


@pytest.mark.parametrize(("kind", "ports"), [("vxlan4", LOCAL_PORTS), ("geneve4", GENEVE_PORTS)])
def test_the_source_port_follows_the_flow(world: World, kind: str, ports: tuple[int, int]) -> None:
    """One for all packets of a flow, in both directions, in the kernel's range, all of which is used."""
    world.arrange(HEADERS[kind])
    there = Ether(**STATIONS) / IP(src="198.51.100.1", dst="198.51.100.2")
    back = Ether(**STATIONS) / IP(src="198.51.100.2", dst="198.51.100.1")
    found = set()
    for port in range(256):
        one = source_port(world, there / TCP(sport=port, dport=80))
        assert one == source_port(world, there / TCP(sport=port, dport=80) / Raw(b"more"))
        assert one == source_port(world, back / TCP(sport=80, dport=port))
        found.add(one)
    least, most = ports
    assert all(least <= port < most for port in found)
    assert len(found) > 240
    eighths = {(port - least) * 8 // (most - least) for port in found}
    assert eighths == set(range(8)), "the far end's queues share"


def test_fragments_of_a_datagram_have_one_source_port(world: World) -> None:
    world.arrange(HEADERS["vxlan4"])
    ends = {"src": "198.51.100.1", "dst": "198.51.100.2", "proto": 17, "id": 7}
    first = Ether(**STATIONS) / IP(**ends, flags="MF") / UDP(sport=5, dport=6) / Raw(b"x" * 16)
    later = Ether(**STATIONS) / IP(**ends, frag=3) / Raw(b"y" * 16)
    assert source_port(world, first) == source_port(world, later)


def test_the_flow_label_follows_the_flow(world: World) -> None:
    world.arrange(HEADERS["gre6"])
    labels = {
        int.from_bytes(encapsulated(world, bytes(Ether(**STATIONS) / IP() / TCP(sport=port)))[15:18], "big") & 0xFFFFF
        for port in range(64)
    }
    assert len(labels) > 60


def handed_over(world: World, frame: bytes, why: Encapsulated) -> None:
    """The frame is given to the kernel as it is, and counted with the reason."""
    world.programs.encaps.clear(PLACE)
    assert world.run(frame)[:2] == (XDP_TX, frame)
    assert world.programs.encaps.frames(PLACE) == {why: 1}


PLAIN = bytes(Ether(**STATIONS) / IP() / UDP() / Raw(b"x" * 40))


@pytest.mark.parametrize(
    "frame",
    [
        Ether(**STATIONS) / Dot1Q() / Dot1Q() / IP() / UDP(),
        Ether(**STATIONS) / Dot1AD() / Dot1Q() / IP() / UDP(),
        Ether(bytes(Ether(**STATIONS) / IP())[:33]),
        Ether(bytes(Ether(**STATIONS) / IPv6())[:53]),
        Ether(bytes(Ether(**STATIONS) / Dot1Q() / IP())[:37]),
    ],
    ids=["two tags", "two tags of a provider", "within IPv4", "within IPv6", "within IPv4 behind a tag"],
)
def test_what_the_kernel_would_read_elsewhere_is_handed_over(world: World, frame: Packet) -> None:
    world.arrange(HEADERS["vxlan4"])
    handed_over(world, bytes(frame), Encapsulated.INNER)


@pytest.mark.parametrize("kind", list(HEADERS))
def test_what_does_not_fit_is_handed_over(world: World, kind: str) -> None:
    """To the byte: the port's MTU is 1600; a smaller one that is locked to the route counts too.

    One that is not locked is none to a look-up; user space makes the devices narrower by it.
    """
    world.arrange(HEADERS[kind])
    overhead = 48 if kind == "gre6" else 28 if kind == "gre4" else 36
    longest = PLAIN.ljust(1600 - overhead, b"z")
    assert len(encapsulated(world, longest)) == 1614
    handed_over(world, longest + b"z", Encapsulated.LONG)
    far, six = HEADERS[kind].destination, ["-6"] if kind.endswith("6") else []
    narrow = [*six, "route", "replace", f"{far}/{128 if six else 32}", "dev", "mgmt0"]
    netns.run("ip", "-n", world.near, *narrow, "mtu", "lock", "1400")
    try:
        world.arrange(HEADERS[kind])
        assert len(encapsulated(world, PLAIN.ljust(1400 - overhead, b"z"))) == 1414
        handed_over(world, PLAIN.ljust(1401 - overhead, b"z"), Encapsulated.LONG)
    finally:
        netns.run("ip", "-n", world.near, *six, "route", "delete", *narrow[len(six) + 2 :])


@pytest.mark.parametrize("kind", ["vxlan4", "gre6"])
def test_without_a_neighbour_it_is_handed_over(world: World, kind: str) -> None:
    far = HEADERS[kind].destination
    netns.run(*f"ip -n {world.near} neighbour delete {far} dev mgmt0".split())
    try:
        world.arrange(HEADERS[kind])
        handed_over(world, PLAIN, Encapsulated.NEIGHBOUR)
    finally:
        world.meet()


@pytest.mark.parametrize("way", ["blackhole {far}", "{far} dev other0"])
def test_another_route_is_handed_over(world: World, way: str) -> None:
    """One that leads nowhere, or by another port than the one that packets are sent out of."""
    near = ["ip", "-n", world.near]
    netns.run(*near, *["link", "add", "other0", "type", "veth", "peer", "name", "other1"])
    netns.run(*near, *["link", "set", "other0", "up"])
    netns.run(*near, *f"neighbour replace {FAR4} lladdr 02:00:00:00:00:09 dev other0 nud permanent".split())
    netns.run(*near, "route", "add", *way.format(far=f"{FAR4}/32").split())
    try:
        world.arrange(HEADERS["vxlan4"])
        handed_over(world, PLAIN, Encapsulated.ROUTE)
    finally:
        netns.run(*near, *["link", "delete", "other0"])
        if way.startswith("blackhole"):
            netns.run(*near, "route", "delete", *way.format(far=f"{FAR4}/32").split())


def test_one_frame_a_second_goes_to_the_neighbour_by_the_kernel(world: World) -> None:
    """So that the kernel keeps checking it; the rest does not."""
    world.arrange(HEADERS["vxlan4"], confirmed=0)
    handed_over(world, PLAIN, Encapsulated.CONFIRM)
    assert world.run(PLAIN)[0] == XDP_REDIRECT


def test_a_device_that_is_not_to_be_used_hands_all_over(world: World) -> None:
    world.programs.encaps.put_nothing(1, PLACE)
    handed_over(world, PLAIN, Encapsulated.OFF)


def test_another_address_counts_at_once(world: World) -> None:
    """What is known of the way is void when the headers change, within one tick too."""
    world.arrange(HEADERS["vxlan4"])
    encapsulated(world, PLAIN)
    world.arrange(HEADERS["vxlan4"]._replace(destination="192.0.2.77"))
    handed_over(world, PLAIN, Encapsulated.NEIGHBOUR)
