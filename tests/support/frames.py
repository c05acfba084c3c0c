# SPDX-License-Identifier: GPL-2.0-only
"""Frames for the tests, made with scapy: one of each kind that the datapath reads differently."""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

LAN, WAN = "02:00:00:00:00:01", "02:00:00:00:00:02"


def ether(back: bool = False) -> Packet:
    """From LAN to WAN, or back."""
    return Ether(src=WAN, dst=LAN) if back else Ether(src=LAN, dst=WAN)


def tcp(sport: int = 1234, dport: int = 80, flags: str = "A", back: bool = False, host: int = 1) -> bytes:
    """A TCP frame of the flow 10.0.0.host:sport -> 10.0.1.1:dport, or its answer."""
    inside, outside = f"10.0.{host >> 8}.{host & 255}", "10.1.0.1"
    if back:
        return bytes(ether(back) / IP(src=outside, dst=inside) / TCP(sport=dport, dport=sport, flags=flags))
    return bytes(ether() / IP(src=inside, dst=outside) / TCP(sport=sport, dport=dport, flags=flags))


def udp(sport: int = 1234, dport: int = 53, back: bool = False) -> bytes:
    """A UDP frame, or its answer."""
    if back:
        return bytes(ether(back) / IP(src="10.1.0.1", dst="10.0.0.1") / UDP(sport=dport, dport=sport))
    return bytes(ether() / IP(src="10.0.0.1", dst="10.1.0.1") / UDP(sport=sport, dport=dport))


V4 = IP(src="10.0.0.1", dst="10.1.0.1")
V6 = IPv6(src="fd00::1", dst="fd01::1")

KINDS: dict[str, bytes] = {
    "tcp": tcp(),
    "tcp back": tcp(back=True),
    "udp": udp(),
    "icmp": bytes(ether() / V4 / ICMP()),
    "sctp": bytes(ether() / V4 / SCTP(sport=5, dport=6)),
    "ip options": bytes(ether() / IP(src="10.0.0.1", dst="10.1.0.1", options=b"\x01" * 8) / UDP(sport=7, dport=8)),
    "ip header too short": bytes(ether() / IP(src="10.0.0.1", dst="10.1.0.1", ihl=3) / UDP(sport=7, dport=8)),
    "ip header beyond the end": bytes(ether() / IP(src="10.0.0.1", dst="10.1.0.1", ihl=15) / b"1234"),
    "ip of version 5": bytes(ether() / IP(version=5, src="10.0.0.1", dst="10.1.0.1") / UDP(sport=7, dport=8)),
    "first fragment": bytes(
        ether() / IP(src="10.0.0.1", dst="10.1.0.1", id=77, flags="MF") / UDP(sport=7, dport=8) / (b"x" * 16)
    ),
    "later fragment": bytes(ether() / IP(src="10.0.0.1", dst="10.1.0.1", id=77, frag=3) / (b"y" * 16)),
    "lone later fragment": bytes(ether() / IP(src="10.0.0.1", dst="10.1.0.1", id=78, frag=3, proto=17) / (b"y" * 16)),
    "its first fragment after it": bytes(
        ether() / IP(src="10.0.0.1", dst="10.1.0.1", id=78, flags="MF") / UDP(sport=9, dport=8) / (b"x" * 16)
    ),
    "ip6 tcp": bytes(ether() / V6 / TCP(sport=1, dport=80)),
    "ip6 udp": bytes(ether() / V6 / UDP(sport=1, dport=53)),
    "ip6 icmp": bytes(ether() / V6 / ICMPv6EchoRequest()),
    "ip6 hop-by-hop": bytes(ether() / V6 / IPv6ExtHdrHopByHop() / UDP(sport=1, dport=53)),
    "ip6 routing, destination": bytes(
        ether() / V6 / IPv6ExtHdrRouting() / IPv6ExtHdrDestOpt() / TCP(sport=1, dport=80)
    ),
    "ip6 many extensions": bytes(
        ether()
        / V6
        / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrDestOpt()
        / IPv6ExtHdrDestOpt()
        / UDP(sport=1, dport=53)
    ),
    "ip6 ah": bytes(ether() / V6 / AH(spi=1, seq=1, icv=b"0" * 12) / UDP(sport=3, dport=4)),
    "ip6 esp": bytes(ether() / V6 / ESP(spi=1, seq=1, data=b"secret")),
    "ip6 first fragment": bytes(ether() / V6 / IPv6ExtHdrFragment(id=9, m=1) / UDP(sport=1, dport=53) / (b"x" * 16)),
    "ip6 later fragment": bytes(ether() / V6 / IPv6ExtHdrFragment(id=9, offset=3, nh=17) / (b"y" * 16)),
    "ip6 atomic fragment": bytes(ether() / V6 / IPv6ExtHdrFragment(id=10) / UDP(sport=1, dport=53)),
    "ip6 no next header": bytes(ether() / IPv6(src="fd00::1", dst="fd01::1", nh=59) / b"zzzz"),
    "ip6 extension beyond the end": bytes(ether() / IPv6(src="fd00::1", dst="fd01::1", nh=0) / b"\x11\xff\0\0\0\0\0\0"),
    "vlan": bytes(ether() / Dot1Q(vlan=30) / V4 / UDP(sport=1, dport=53)),
    "vlan priority only": bytes(ether() / Dot1Q(vlan=0, prio=5) / V6 / UDP(sport=1, dport=53)),
    "qinq": bytes(ether() / Dot1AD(vlan=5) / Dot1Q(vlan=30) / V4 / TCP(sport=1, dport=80)),
    "four tags": bytes(
        ether() / Dot1AD(vlan=5) / Dot1Q(vlan=3) / Dot1Q(vlan=2) / Dot1Q(vlan=1) / V4 / TCP(sport=1, dport=80)
    ),
    "five tags": bytes(
        ether()
        / Dot1Q(vlan=5)
        / Dot1Q(vlan=4)
        / Dot1Q(vlan=3)
        / Dot1Q(vlan=2)
        / Dot1Q(vlan=1)
        / V4
        / TCP(sport=1, dport=80)
    ),
    "vlan without inside": bytes(ether())[:12] + b"\x81\x00",
    "arp": bytes(Ether(src=LAN, dst="ff:ff:ff:ff:ff:ff") / ARP(psrc="10.0.0.1", pdst="10.1.0.1")),
    "lldp": bytes(Ether(src=LAN, dst="01:80:c2:00:00:0e", type=0x88CC) / Raw(b"\x02\x07\x04" + b"0" * 40)),
    "802.3 length": bytes(ether())[:12] + b"\x00\x26" + b"\x42\x42\x03" + bytes(35),
    "a customer's 0x88b5": bytes(Ether(src=LAN, dst=WAN, type=0x88B5) / Raw(b"TWHB" * 12)),
    "from our address block": bytes(Ether(src="02:54:57:01:00:01", dst="02:54:57:01:00:02", type=0x88B5)) + bytes(46),
    "header only": bytes(ether())[:12] + b"\x08\x00",
    "lying ip length": bytes(ether() / IP(src="10.0.0.1", dst="10.1.0.1", len=9000) / UDP(sport=1, dport=53)),
    "full size": bytes(ether() / V4 / UDP(sport=1, dport=53) / (b"z" * 1472)),
    "jumbo": bytes(ether() / V4 / UDP(sport=1, dport=53) / (b"z" * 8900)),
    "all zero": bytes(60),
    "all ones": b"\xff" * 60,
}
