# SPDX-License-Identifier: GPL-2.0-only
"""A remote whose tunnels carry IP: what comes back has the Ethernet header that it had (bpf/headers.h).

The tunnels are TUN devices, which carry IP like those of GRE; the far end is this test, which reads a packet from one
and may write any packet into the other.

    lan ══ lan0  box  wan0 ══ wan
                 tr1.0l ══ tp1.0l, tu1.0l    the same at the WAN side
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw
from simulator import netns

from appliance.config.schema.model import Config, Remote, Rule, Tunnel
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.layout import Side
from appliance.system import netdev
from appliance.tunnel import joint
from tests.support.wire import LAN_MAC, WAN_MAC, Wire
from tests.support.wired_datapath import FAR, MAIN

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
PATIENCE_S = 5.0
REMOTE = Remote("dpi", Tunnel(kind="gre-ip", remote="192.0.2.7", lan_key=1, wan_key=2))
CONFIG = Config(segment=(MAIN,), remote=(REMOTE,), rule=(Rule(name="all", path=("dpi",)),))
FOUR, SIX = ("198.51.100.1", "198.51.100.2"), ("2001:db8::1", "2001:db8::2")


def tun(name: str) -> int:
    """A device that carries packets of IP, and their reader and writer."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    return fd


class Site:
    """The appliance with one remote, the hosts' sockets, and the far end's two tunnels."""

    def __init__(self, wire: Wire, datapath: Datapath) -> None:
        self.wire, self.datapath = wire, datapath
        self.far: dict[Side, int] = {}
        self.hosts = {
            Side.LAN: netns.enter(wire.lan, self._socket),
            Side.WAN: netns.enter(wire.wan, self._socket),
        }

    @staticmethod
    def _socket() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        made.bind(("eth0", 0x0003))
        made.settimeout(PATIENCE_S)
        return made

    def set_up(self) -> None:
        self.datapath.attach_segment("main", "lan0", "wan0", "tc")
        for side, name in ((Side.LAN, "tr1.0l"), (Side.WAN, "tr1.0w")):
            asyncio.run(joint.make(name))
            parts = joint.joint(name)
            self.far[side] = tun(parts.tunnel)
            for device in (name, *parts[1:]):
                netdev.disable_ipv6(device)
                netdev.change_flags(device, netdev.IFF_UP)
            programs = self.datapath.ip_devices.join("dpi", side, *parts.indexes)
            asyncio.run(joint.attach(name, *programs))
            self.datapath.attach_hop(name, "dpi", "main", side)

    def close(self) -> None:
        for fd in self.far.values():
            os.close(fd)
        for opened in self.hosts.values():
            opened.close()

    def send(self, side: Side, frame: Packet) -> bytes:
        """One frame from the host at this side; returns its bytes."""
        data = bytes(frame).ljust(60, b"\0")
        self.hosts[side].send(data)
        return data

    def tunnelled(self, side: Side) -> bytes:
        """The next packet that comes out of the tunnel of this side."""
        ready, _, _ = select.select([self.far[side]], [], [], PATIENCE_S)
        assert ready, "nothing came through the tunnel"
        return os.read(self.far[side], 4096)

    def give_back(self, side: Side, packet: bytes) -> None:
        os.write(self.far[side], packet)

    def arrived(self, side: Side) -> bytes:
        """The next frame that the host at this side receives from the wire."""
        while True:
            data, about = self.hosts[side].recvfrom(4096)
            if about[2] != socket.PACKET_OUTGOING:
                return data

    def dropped(self) -> int:
        """Packets for which there was no header."""
        return self.wire.inside(
            lambda: self.datapath.ip_devices.dropped(
                index for name in ("tr1.0l", "tr1.0w") for index in joint.joint(name).present
            )
        )


@pytest.fixture(scope="module")
def site(bpf_object: Path) -> Iterator[Site]:
    with Wire() as wire:
        datapath = Datapath.open(bpf_object, wire.pins)
        made = Site(wire, datapath)
        try:
            wire.inside(made.set_up)
            datapath.set_policy(CONFIG)
            now = time.monotonic_ns()
            datapath.leases.renew_supervisor(now + FAR)
            datapath.leases.renew("dpi", now + FAR)
            yield made
        finally:
            made.close()
            datapath.unload()


def frame(side: Side, inside: Packet, lan: bytes = LAN_MAC, wan: bytes = WAN_MAC) -> Packet:
    source, target = (lan, wan) if side is Side.LAN else (wan, lan)
    return Ether(src=source.hex(":"), dst=target.hex(":")) / inside


PACKETS = {
    "udp": IP(src=FOUR[0], dst=FOUR[1]) / UDP(sport=1, dport=2) / Raw(b"x" * 60),
    "tcp": IP(src=FOUR[0], dst=FOUR[1], options=b"\x01\x01\x01\x00") / TCP(sport=1, dport=2) / Raw(b"x" * 60),
    "icmp": IP(src=FOUR[0], dst=FOUR[1]) / ICMP() / Raw(b"x" * 60),
    "later fragment": IP(src=FOUR[0], dst=FOUR[1], frag=10, proto=17) / Raw(b"x" * 60),
    "udp6": IPv6(src=SIX[0], dst=SIX[1]) / UDP(sport=1, dport=2) / Raw(b"x" * 60),
    "fragment6": IPv6(src=SIX[0], dst=SIX[1]) / IPv6ExtHdrFragment(offset=0, m=1, id=5) / UDP() / Raw(b"x" * 60),
    "long": IP(src=FOUR[0], dst=FOUR[1]) / UDP(sport=1, dport=3) / Raw(b"x" * 1472),
}


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("kind", list(PACKETS))
def test_a_frame_comes_back_as_it_was(site: Site, kind: str, side: Side) -> None:
    """Into the tunnel without its header, out of the other one, and on with the same."""
    sent = site.send(side, frame(side, PACKETS[kind]))
    packet = site.tunnelled(side)
    assert packet == sent[14 : 14 + len(packet)]
    assert len(packet) == len(bytes(PACKETS[kind]))
    other = Side.WAN if side is Side.LAN else Side.LAN
    site.give_back(other, packet)
    assert site.arrived(other)[: 14 + len(packet)] == sent[: 14 + len(packet)]


def test_each_flow_has_its_own_stations(site: Site) -> None:
    """Two routers that send between the same addresses, and come back in the other order."""
    packets = [IP(src=FOUR[0], dst=FOUR[1]) / UDP(sport=port, dport=9) / Raw(b"y" * 60) for port in (21, 22)]
    stations = [bytes.fromhex(f"02000000aa0{number}") for number in (1, 2)]
    for packet, station in zip(packets, stations, strict=True):
        site.send(Side.LAN, frame(Side.LAN, packet, lan=station))
    came = [site.tunnelled(Side.LAN) for _ in packets]
    for packet in reversed(came):
        site.give_back(Side.WAN, packet)
    assert [site.arrived(Side.WAN)[6:12] for _ in packets] == stations[::-1]


def test_a_packet_that_the_remote_changed_or_made_finds_its_stations(site: Site) -> None:
    """Other ports: the stations of the last flow between the two ends. An answer: the same, turned round."""
    site.send(Side.LAN, frame(Side.LAN, IP(src=FOUR[0], dst="198.51.100.9") / TCP(sport=5, dport=80)))
    site.tunnelled(Side.LAN)
    site.give_back(Side.WAN, bytes(IP(src=FOUR[0], dst="198.51.100.9") / TCP(sport=6, dport=8080)))
    assert site.arrived(Side.WAN)[:12] == WAN_MAC + LAN_MAC
    site.give_back(Side.LAN, bytes(IP(src="198.51.100.9", dst=FOUR[0]) / TCP(sport=80, dport=5, flags="R")))
    assert site.arrived(Side.LAN)[:12] == LAN_MAC + WAN_MAC


def test_what_nobody_knows_is_dropped_and_counted(site: Site) -> None:
    """A packet between other ends, and what is no packet; the next good one arrives."""
    before = site.dropped()
    site.give_back(Side.WAN, bytes(IP(src="203.0.113.1", dst="203.0.113.2") / UDP()))
    site.give_back(Side.WAN, b"\x45" + bytes(3))
    sent = site.send(Side.LAN, frame(Side.LAN, PACKETS["udp"]))
    site.give_back(Side.WAN, site.tunnelled(Side.LAN))
    assert site.arrived(Side.WAN)[:60] == sent[:60]
    assert site.dropped() == before + 2


@pytest.mark.parametrize(
    "inside", [ARP(psrc=FOUR[0], pdst=FOUR[1]), Dot1Q(vlan=5) / PACKETS["udp"]], ids=["arp", "tag"]
)
def test_what_a_tunnel_of_ip_cannot_carry_skips_the_remote(site: Site, inside: Packet) -> None:
    """It crosses the link straight, also where the remote has no `accept`. (The host's kernel takes the tag off.)"""
    sent = site.send(Side.LAN, frame(Side.LAN, inside))
    arrived = site.arrived(Side.WAN)
    assert arrived[:12] == sent[:12]
    assert bytes(inside)[-20:] in arrived
    assert site.datapath.counters().hops["dpi"].skipped
