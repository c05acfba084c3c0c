# SPDX-License-Identifier: GPL-2.0-only
"""Frames for the tests, made with scapy: one of each kind that the datapath parses differently."""

from __future__ import annotations

import struct

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH, ESP
from scapy.layers.l2 import ARP, GRE, Dot1AD, Dot1Q, Ether
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


def typed(ethertype: int, payload: bytes, back: bool = False) -> bytes:
    """A frame of any EtherType."""
    return bytes(ether(back))[:12] + ethertype.to_bytes(2, "big") + payload


def labels(*numbers: int) -> bytes:
    """A stack of MPLS labels, the last with the bottom-of-stack bit."""
    return b"".join(
        (number << 12 | (at + 1 == len(numbers)) << 8 | 64).to_bytes(4, "big") for at, number in enumerate(numbers)
    )


def pppoe(inside: bytes, protocol: int = 0x21, session: int = 1) -> bytes:
    """A PPPoE session's payload."""
    return struct.pack(">BBHHH", 0x11, 0, session, len(inside) + 2, protocol) + inside


def vxlan(inside: bytes, sport: int = 40_000) -> Packet:
    """A frame in VXLAN, from the UDP header on."""
    return UDP(sport=sport, dport=4789) / Raw(struct.pack(">II", 0x08000000, 77 << 8) + inside)


def gtp(inside: bytes, *, extension: bool = False) -> Packet:
    """A packet in GTP-U, from the UDP header on; `extension`: with a PDU session container, as in 5G."""
    more = b"\0\0\0\x85" + b"\x01\x00\x01\x00" if extension else b""
    head = struct.pack(">BBHI", 0x34 if extension else 0x30, 255, len(inside) + len(more), 9)
    return UDP(sport=2152, dport=2152) / Raw(head + more + inside)


def geneve(inside: bytes, protocol: int = 0x6558, options: bytes = b"") -> Packet:
    """A frame or packet in Geneve, from the UDP header on."""
    head = struct.pack(">BBHI", len(options) // 4, 0, protocol, 77 << 8)
    return UDP(sport=40_001, dport=6081) / Raw(head + options + inside)


ROUTER = IP(src="192.0.2.1", dst="10.0.0.1")  # sends ICMP errors about packets of 10.0.0.1
INNER = bytes(V4 / TCP(sport=1234, dport=80))
INNER6 = bytes(V6 / TCP(sport=1234, dport=80))
OUTER = IP(src="198.51.100.1", dst="198.51.100.2")
OUTER6 = IPv6(src="2001:db8::1", dst="2001:db8::2")

NESTED: dict[str, bytes] = {
    "tag 0x9100": typed(0x9100, b"\0\x05\x81\0\0\x0a\x08\0" + INNER),
    "eight tags": typed(0x88A8, b"\0\x05\x81\0" * 7 + b"\0\x0a\x08\0" + INNER),
    "snap": typed(len(INNER) + 8, bytes.fromhex("aaaa030000000800") + INNER),
    "pppoe": typed(0x8864, pppoe(INNER)),
    "pppoe six": typed(0x8864, pppoe(INNER6, 0x57)),
    "pppoe control": typed(0x8864, pppoe(b"\x01\x01\0\x04", 0xC021)),
    "pppoe behind a tag": typed(0x8100, b"\0\x07\x88\x64" + pppoe(INNER)),
    "mpls": typed(0x8847, labels(100) + INNER),
    "three labels": typed(0x8847, labels(100, 200, 300) + INNER6),
    "pseudowire": typed(0x8847, labels(100, 200) + bytes(4) + tcp()),
    "gre": bytes(ether() / OUTER / GRE() / V4 / TCP(sport=1234, dport=80)),
    "gre key and sequence": bytes(ether() / OUTER6 / GRE(key_present=1, seqnum_present=1) / V6 / UDP(sport=1, dport=2)),
    "gre ethernet": bytes(ether() / OUTER / GRE(proto=0x6558) / Raw(tcp())),
    "gre of another version": bytes(ether() / OUTER / GRE(version=1, proto=0x880B) / Raw(INNER)),
    "ip in ip": bytes(ether() / OUTER / V4 / TCP(sport=1234, dport=80)),
    "six in four": bytes(ether() / OUTER / V6 / TCP(sport=1234, dport=80)),
    "four in six": bytes(ether() / OUTER6 / V4 / TCP(sport=1234, dport=80)),
    "vxlan": bytes(ether() / OUTER / vxlan(tcp())),
    "vxlan arp": bytes(ether() / OUTER / vxlan(bytes(Ether(src=LAN, dst=WAN) / ARP()))),
    "vxlan behind two tags": bytes(ether() / Dot1AD(vlan=5) / Dot1Q(vlan=30) / OUTER / vxlan(tcp())),
    "no vxlan": bytes(ether() / OUTER / UDP(sport=53, dport=4789) / Raw(bytes(40))),
    "geneve": bytes(ether() / OUTER / geneve(tcp(), options=bytes(8))),
    "geneve ip": bytes(ether() / OUTER6 / geneve(INNER, 0x0800)),
    "gtp": bytes(ether() / OUTER / gtp(INNER)),
    "gtp of 5G": bytes(ether() / OUTER / gtp(INNER6, extension=True)),
    "a tunnel in a tunnel": bytes(ether() / OUTER / GRE() / OUTER / vxlan(typed(0x8847, labels(7) + INNER))),
    "ten times ip in ip": bytes(ether())[:12]
    + b"\x08\0"
    + bytes(OUTER / V4 / V4 / V4 / V4 / V4 / V4 / V4 / V4 / UDP()),
    "icmp error": bytes(ether() / ROUTER / ICMP(type=3, code=4) / Raw(INNER[:28])),
    "icmp error, tagged": bytes(ether() / Dot1Q(vlan=30) / ROUTER / ICMP(type=11) / Raw(INNER[:28])),
    "icmp error about a fragment": bytes(
        ether() / ROUTER / ICMP(type=11, code=1) / Raw(bytes(IP(src="10.0.0.1", dst="10.1.0.1", frag=3, proto=6)))
    ),
    "icmp error that quotes too little": bytes(ether() / ROUTER / ICMP(type=3) / Raw(INNER[:19])),
    "icmp error in pieces": bytes(
        ether() / IP(src="192.0.2.1", dst="10.0.0.1", id=81, flags="MF") / ICMP(type=3) / Raw(INNER[:36])
    ),
    "icmp6 error": bytes(ether() / IPv6(src="2001:db8::9", dst="fd00::1") / ICMPv6PacketTooBig() / Raw(INNER6[:48])),
    "first fragment of a tunnel": bytes(
        ether() / IP(src="198.51.100.1", dst="198.51.100.2", id=79, flags="MF", proto=47) / Raw(b"\0\0\x08\0" + INNER)
    ),
    "later fragment of a tunnel": bytes(
        ether() / IP(src="198.51.100.1", dst="198.51.100.2", id=79, frag=9, proto=47) / Raw(bytes(40))
    ),
    "a fragment in a tunnel": bytes(
        ether() / OUTER / GRE() / IP(src="10.0.0.1", dst="10.1.0.1", id=80, frag=3, proto=17)
    ),
    "a first fragment behind labels": typed(
        0x8847,
        labels(9) + bytes(IP(src="10.0.0.1", dst="10.1.0.1", id=82, flags="MF") / UDP(sport=7, dport=53) / bytes(16)),
    ),
    "a later fragment behind labels": typed(
        0x8847, labels(9) + bytes(IP(src="10.0.0.1", dst="10.1.0.1", id=82, frag=3, proto=17) / bytes(16))
    ),
    "a first fragment behind a tag": bytes(
        ether() / Dot1Q(vlan=30) / IP(src="10.0.0.1", dst="10.1.0.1", id=83, flags="MF") / UDP(dport=53) / bytes(16)
    ),
    "a later fragment behind a tag": bytes(
        ether() / Dot1Q(vlan=30) / IP(src="10.0.0.1", dst="10.1.0.1", id=83, frag=3, proto=17) / bytes(16)
    ),
}

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
    **NESTED,
}
