# SPDX-License-Identifier: GPL-2.0-only
"""Filters, sets of rules and frames that filter tests and measurements share. Pure; the same for the same seed."""

from __future__ import annotations

import ipaddress
import random
import re
import struct
from collections.abc import Callable

# One of each kind that the manual of pcap-filter names, and what people write; every one compiles for Ethernet.
EXPRESSIONS = tuple(
    """
ip
ip6
arp
rarp
tcp
udp
sctp
icmp
icmp6
igmp
pim
ah
esp
vrrp
stp
atalk
ipx
decnet
ether proto 0x88cc
ether proto 0x88b5
ether host 02:00:00:00:00:01
ether src 02:00:00:00:00:01
ether dst 02:00:00:00:00:02
ether broadcast
ether multicast
ip multicast
ip6 multicast
broadcast
multicast
host 10.0.0.1
src host 10.0.0.1
dst host 10.0.0.2
ip host 10.0.0.1
arp host 10.0.0.1
rarp host 10.0.0.1
src or dst host 10.0.0.2
src and dst host 10.0.0.1
net 10.0.0.0/8
src net 10.0.0.0/24
dst net 10.1
net 192.168.0.0 mask 255.255.0.0
net 0.0.0.0/0
net 10.0.0.0/31
ip6 host 2001:db8::1
ip6 src host 2001:db8::1
ip6 dst host 2001:db8::2
ip6 net 2001:db8::/32
ip6 src net 2001:db8:0:0::/64
ip6 net fe80::/10
ip6 net ::/0
port 80
src port 1024
dst port 53
tcp port 80
udp port 53
sctp port 5000
tcp src port 1024
udp dst port 53
portrange 1000-2000
src portrange 0-1024
tcp dst portrange 79-81
udp portrange 53-53
port 80 or port 443
tcp port 80 or tcp port 443 or tcp port 8080
not port 22
not (tcp port 80 or udp port 53)
ip proto 47
ip proto \\tcp
ip6 proto 17
ip6 proto 58
proto 6
ether proto \\ip
ip[0] & 0xf != 5
ip[0] >> 4 = 4
ip[2:2] > 576
ip[2:2] <= 60
ip[6:2] & 0x1fff != 0
ip[6] & 0x20 != 0
ip[6:2] & 0x3fff != 0
ip[8] < 5
ip[8] = 64
ip[1] & 0xfc = 0x28
ip[12:4] = 0x0a000001
ip[16:4] & 0xff000000 = 0x0a000000
ip6[6] = 6
ip6[6] = 44
ip6[7] < 2
ip6[0] & 0xf0 = 0x60
ip6[8:4] = 0x20010db8
tcp[13] & 2 != 0
tcp[tcpflags] & tcp-syn != 0
tcp[tcpflags] & (tcp-syn|tcp-ack) = (tcp-syn|tcp-ack)
tcp[tcpflags] = tcp-rst
tcp[13] = 18
tcp[0:2] = 80
tcp[2:2] > 1023
tcp[0:2] > tcp[2:2]
tcp[14:2] = 0
tcp[12] >> 4 > 5
tcp[((tcp[12] & 0xf0) >> 2):4] = 0x47455420
udp[4:2] > 8
udp[8:4] = 0
udp[0:2] & 1 = 1
icmp[icmptype] = icmp-echo
icmp[icmptype] != icmp-echo and icmp[icmptype] != icmp-echoreply
icmp[0] = 3 and icmp[1] = 4
icmp6[icmp6type] = icmp6-echo
icmp6[0] = 135
ether[0] & 1 = 1
ether[0] & 1 = 0
ether[6:4] = 0x02000000
ether[12:2] > 1500
ether[12:2] <= 1500
ether[100] = 7
ether[300:4] = 0
ether[383] = 0
ether[384] = 0
ether[700:2] = 0x0303
ether[1:2] = 0
ether[10:4] = 0x00028100
ether[11:4] != 0
ether[13:2] & 0xff = 0
ether[14:2] & 0xfff = 30
ether[15] = 30
arp[6:2] = 1
arp[7] = 2
arp[14:4] = 0x0a000001
len > 100
len < 60
len = 64
len >= 64 and len <= 128
len != 60
len & 3 = 1
len % 7 = 3
len / 10 = 6
len > 70000
greater 128
less 64
vlan
vlan 30
vlan 100
vlan and ip
vlan 30 and udp
vlan 30 and tcp port 80
vlan and vlan
vlan 100 and vlan 30
vlan 100 and vlan 30 and ip
vlan or ip
vlan and ip6 and udp port 53
vlan and arp
not vlan
mpls
mpls 1000
mpls 1000 and ip
mpls and mpls
mpls and host 10.0.0.1
pppoed
pppoes
pppoes 1
pppoes and ip
pppoes and tcp port 80
geneve
geneve 5
ip or not ip
ether[0] = 2 and ether[0:2] = 0x200
ip or ip6 or arp
ip and (tcp or udp) and not net 10.0.0.0/8
src host 10.0.0.1 and dst port 80
host 10.0.0.1 and not port 22
(host 10.0.0.1 or host 10.0.0.2) and (port 80 or port 53)
tcp and host 10.0.0.1 and host 10.0.0.2
ip and ip[2:2] - ((ip[0] & 0xf) << 2) > 100
ip[2:2] + 14 = len
ip[2:2] * 2 > 200
ip[9] | 1 = 7
ip[9] ^ 6 = 0
ip[9] - 7 > 100
ip[4:2] % 3 = 1
ip[4:2] / ip[8] > 10
ip[4:2] % ip[8] = 1
ip[8] << 2 = 4
ip[4:2] >> 4 = 5
ip[ip[0] & 0xf] = 1
ip[ip[1]:2] > ip[2:2]
ether[ether[14]] = 0
ether[ether[14]:2] & 3 = 1
ether[len - 1] = 0 or len < 0
-(ip[8]) = 0xffffffc0
ether proto 0x0800 and ether[14] & 0xf0 = 0x40
llc
isis
iso
clnp
aarp
""".strip().splitlines()
)

ALL_SETS = (
    "udp and port N",
    "ip and udp dst port N",
    "mixed",
    "net X/24",
    "src net and dst net and port",
    "mixed, 12 % odd",
)


class _Words:
    """Random parts of filters."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def port(self) -> int:
        return self.rng.randrange(1, 65536)

    def address(self) -> str:
        rng = self.rng
        return (
            f"{rng.choice([10, 172, 192, 198, 203])}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"
        )

    def net(self) -> str:
        return self.address().rsplit(".", 1)[0] + ".0/24"

    def address6(self) -> str:
        return f"2001:db8:{self.rng.randrange(65536):x}::{self.rng.randrange(1, 65536):x}"

    def tag(self) -> int:
        return self.rng.randrange(1, 4095)

    def mixed(self) -> str:
        """Hosts, nets, ports, ranges, tags, IPv6, protocols."""
        low = self.rng.randrange(1, 65000)
        protocol = self.rng.choice([1, 2, 47, 50, 51, 89, 103, 112, 132])
        kinds: list[Callable[[], str]] = [
            lambda: f"host {self.address()}",
            lambda: f"net {self.net()}",
            lambda: f"tcp port {self.port()}",
            lambda: f"udp dst port {self.port()}",
            lambda: f"src host {self.address()} and tcp dst port {self.port()}",
            lambda: f"tcp portrange {low}-{low + self.rng.randrange(1, 500)}",
            lambda: f"vlan {self.tag()}",
            lambda: f"vlan {self.tag()} and ip and udp port {self.port()}",
            lambda: f"ip6 host {self.address6()}",
            lambda: f"src net {self.net()} and dst net {self.net()}",
            lambda: f"ip proto {protocol} and host {self.address()}",
            lambda: f"udp and src net {self.net()} and dst port {self.port()}",
        ]
        return self.rng.choice(kinds)()

    def odd(self) -> str:
        """Arithmetic, flags, labels, tags in tags."""
        rng = self.rng
        kinds: list[Callable[[], str]] = [
            lambda: f"ip[2:2] - ((ip[0] & 0xf) << 2) > {rng.randrange(1000, 1400)}",
            lambda: (
                f"tcp[tcpflags] & (tcp-syn|tcp-fin) = tcp-{rng.choice(['syn', 'fin'])} and dst host {self.address()}"
            ),
            lambda: f"mpls {rng.randrange(16, 1 << 20)}",
            lambda: f"vlan {self.tag()} and vlan {self.tag()}",
            lambda: f"ip[8] < {rng.randrange(1, 64)} and host {self.address()}",
            lambda: f"icmp[icmptype] = {rng.randrange(20, 40)} and src host {self.address()}",
        ]
        return rng.choice(kinds)()


def crafted_frames() -> list[bytes]:
    """Frames of every protocol in EXPRESSIONS, well-formed and malformed, 14 bytes or more."""
    # imported here: only tests need scapy, measurements do not
    from scapy.contrib.geneve import GENEVE
    from scapy.contrib.mpls import MPLS
    from scapy.layers.inet import ICMP, IP, TCP, UDP
    from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
    from scapy.layers.l2 import ARP, GRE, LLC, SNAP, Dot1AD, Dot1Q, Dot3, Ether
    from scapy.layers.ppp import PPPoE, PPPoED
    from scapy.layers.sctp import SCTP

    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    ip = IP(src="10.0.0.1", dst="10.0.0.2")
    ip6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
    inners = [
        TCP(sport=1024, dport=80, flags="S"),
        TCP(sport=80, dport=1024, flags="SA", options=[("MSS", 1460)]) / b"x",
        TCP(dport=80, flags="PA") / b"GET / HTTP/1.1\r\n\r\n",
        TCP(sport=443, dport=22, flags="R"),
        UDP(sport=53, dport=53) / b"query",
        UDP(sport=1024, dport=5000) / bytes(400),
        UDP(sport=999, dport=6081) / GENEVE(vni=5) / ether / ip / TCP(),
        SCTP(sport=5000, dport=80),
    ]
    outers = [
        ether,
        Ether(src="02:00:00:00:00:01", dst="ff:ff:ff:ff:ff:ff"),
        ether / Dot1Q(vlan=30),
        ether / Dot1Q(vlan=100, prio=5) / Dot1Q(vlan=30),
        ether / Dot1AD(vlan=100) / Dot1Q(vlan=30),
        ether / MPLS(label=1000, s=1),
        ether / MPLS(label=7, s=0) / MPLS(label=1000, s=1),
    ]
    packets = [outer / ip / inner for outer in outers for inner in inners]
    packets += [outer / ip6 / inner for outer in outers[:4] for inner in inners]
    packets += [
        ether / IP(src="192.168.7.9", dst="224.0.0.5", ttl=1, tos=0xB8, proto=89) / bytes(20),
        ether / IP(src="10.1.0.1", dst="10.0.0.1", options=b"\x01" * 8) / TCP(dport=80),
        ether / IP(src="10.1.0.1", dst="10.0.0.1", flags="MF") / UDP(dport=53),
        ether / IP(src="10.1.0.1", dst="10.0.0.1", frag=100) / bytes(30),
        ether / ip / ICMP(type=8),
        ether / ip / ICMP(type=3, code=4) / bytes(28),
        ether / ip / GRE() / ip / TCP(dport=80),
        *[ether / IP(src="10.0.0.1", dst="1.2.3.4", proto=proto) / bytes(12) for proto in (2, 47, 50, 51, 103, 112)],
        ether / ip6 / ICMPv6EchoRequest(),
        ether / IPv6(dst="ff02::1", nh=58) / bytes([135, 0, 0, 0]),
        ether / ip6 / IPv6ExtHdrFragment(nh=6) / TCP(dport=80),
        ether / ip6 / IPv6ExtHdrHopByHop() / UDP(dport=53),
        ether / ARP(psrc="10.0.0.1", pdst="10.0.0.2"),
        ether / ARP(op=2, psrc="10.0.0.2", pdst="10.0.0.1"),
        ether / Dot1Q(vlan=30) / ARP(psrc="10.0.0.1"),
        Ether(type=0x8035) / bytes(ARP(op=3, psrc="10.0.0.1")),
        ether / PPPoED(),
        ether / PPPoE(sessionid=1) / b"\x00\x21" / ip / TCP(dport=80),
        Dot3(dst="01:80:c2:00:00:00") / LLC(dsap=0x42, ssap=0x42, ctrl=3) / bytes(35),
        Dot3() / LLC(dsap=0xAA, ssap=0xAA, ctrl=3) / SNAP(OUI=0x080007, code=0x809B) / bytes(20),
        Dot3() / LLC(dsap=0xFE, ssap=0xFE, ctrl=3) / b"\x83" / bytes(20),
        Dot3() / LLC(dsap=0xE0, ssap=0xE0, ctrl=3) / bytes(20),
        Ether(type=0x88CC) / bytes(46),
        Ether(type=0x88B5) / (b"\x07" * 86),
        Ether(type=0x6003) / bytes(50),
        ether / ip / UDP(dport=9) / bytes(1450),
        ether / ip / UDP(dport=9) / (b"\x03" * 1450),
    ]
    return [frame for frame in (bytes(packet) for packet in packets) if len(frame) >= 14]


def rule_set(name: str, count: int, seed: int = 7) -> list[str]:
    """Filters of one of ALL_SETS."""
    words = _Words(random.Random(seed))
    make: dict[str, Callable[[], str]] = {
        "udp and port N": lambda: f"udp and port {words.port()}",
        "ip and udp dst port N": lambda: f"ip and udp dst port {words.port()}",
        "mixed": words.mixed,
        "net X/24": lambda: f"net {words.net()}",
        "src net and dst net and port": lambda: (
            f"src net {words.net()} and dst net {words.net()} and port {words.port()}"
        ),
        "mixed, 12 % odd": lambda: words.odd() if words.rng.random() < 0.12 else words.mixed(),
    }
    return [make[name]() for _ in range(count)]


def frames_for(
    texts: list[str], rng: random.Random, count: int, *, whole: bool = False, hit: bool | None = None
) -> list[bytes]:
    """Frames made of the constants in the filters, or close to them.

    `whole`: nothing truncated or malformed. `hit`: True = built to match one of the filters, False = as before.
    """
    if hit:
        return [_frame_for(rng.choice(texts), rng) for _ in range(count)]
    text = " ".join(texts)
    addresses = [int(ipaddress.IPv4Address(a)) for a in sorted(set(re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text)))]
    addresses6 = [ipaddress.IPv6Address(a).packed for a in sorted(set(re.findall(r"\b2001:[0-9a-f:]+\b", text)))]
    ports = [int(p) for p in sorted(set(re.findall(r"port(?:range)? (\d+)", text)))]
    tags = [int(t) for t in sorted(set(re.findall(r"vlan (\d+)", text)))]
    frames: list[bytes] = []
    make = _Frames(rng, addresses or [0x0A000001], addresses6 or [bytes(16)], ports or [80], tags or [5])
    while len(frames) < count:
        frame = make.frame(whole=whole)
        frames.append(frame)
        if not whole and len(frame) > 15 and len(frames) < count:
            frames.append(frame[: rng.randrange(14, len(frame))])
    return frames


class _Frames:
    def __init__(
        self, rng: random.Random, addresses: list[int], addresses6: list[bytes], ports: list[int], tags: list[int]
    ) -> None:
        self.rng, self.addresses, self.addresses6, self.ports, self.tags = rng, addresses, addresses6, ports, tags

    def port(self) -> int:
        rng = self.rng
        return (
            (rng.choice(self.ports) + rng.choice([0, 0, 0, 1, -1])) & 0xFFFF
            if rng.random() < 0.6
            else rng.getrandbits(16)
        )

    def address(self) -> int:
        rng = self.rng
        if rng.random() < 0.2:
            return rng.getrandbits(32)
        return (rng.choice(self.addresses) + rng.choice([0, 0, 0, 1, -1, rng.randrange(256)])) & 0xFFFFFFFF

    def frame(self, *, whole: bool) -> bytes:
        rng = self.rng
        head = rng.randbytes(12)
        for _ in range(rng.choice([0, 0, 0, 0, 0, 0, 1, 1, 2])):
            tag = rng.choice(self.tags) if rng.random() < 0.7 else rng.getrandbits(16)
            head += struct.pack("!HH", rng.choice([0x8100, 0x8100, 0x88A8, 0x9100]), tag)
        inner = struct.pack("!HH", self.port(), self.port()) + rng.randbytes(rng.choice([4, 16, 30]))
        kind = rng.random()
        if kind < 0.65:
            words = 5 if whole or rng.random() < 0.9 else rng.randrange(16)
            protocol = rng.choice([6, 6, 17, 17, 17, 1, 2, 47, 50, 89, 132, rng.randrange(256)])
            flags = 0x4000 if whole else rng.choice([0, 0, 0, 0x4000, 0x2000, 1, rng.getrandbits(16)])
            header = struct.pack(
                "!BBHHHBBHII",
                0x40 | words,
                0,
                rng.choice([60, rng.getrandbits(16)]),
                rng.getrandbits(16),
                flags,
                rng.choice([1, 64, rng.randrange(256)]),
                protocol,
                0,
                self.address(),
                self.address(),
            )
            return head + b"\x08\x00" + header + rng.randbytes(max(0, words * 4 - 20)) + inner
        if kind < 0.8:
            following = rng.choice([6, 17, 58, 44, 132, rng.randrange(256)])
            ends = [rng.choice(self.addresses6) if rng.random() < 0.8 else rng.randbytes(16) for _ in range(2)]
            header = struct.pack("!IHBB", 0x60000000, len(inner), following, 64)
            return head + b"\x86\xdd" + header + ends[0] + ends[1] + inner
        if kind < 0.88:
            arp = struct.pack("!HHBBH", 1, 0x800, 6, 4, 1) + rng.randbytes(6) + struct.pack("!I", self.address())
            return (
                head
                + rng.choice([b"\x08\x06", b"\x80\x35"])
                + arp
                + rng.randbytes(6)
                + struct.pack("!I", self.address())
            )
        if kind < 0.92:
            return head + b"\x88\x47" + struct.pack("!I", rng.randrange(1 << 20) << 12 | 0x140) + rng.randbytes(30)
        return head + rng.randbytes(rng.randrange(2, 80))


def _frame_for(text: str, rng: random.Random) -> bytes:
    """A frame that matches the filter (of the kinds in `_Words`)."""
    addresses = [int(ipaddress.IPv4Address(a)) for a in re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text)]
    found6 = re.search(r"\b2001:[0-9a-f:]+\b", text)
    tags = [int(t) for t in re.findall(r"vlan (\d+)", text)]
    port = re.search(r"port(?:range)? (\d+)", text)
    number = int(port[1]) if port else rng.getrandbits(16)
    host = rng.randrange(1, 255) if "net" in text else 0
    source = addresses[0] + host if addresses else rng.getrandbits(32)
    target = addresses[1] + host if len(addresses) > 1 else rng.getrandbits(32)
    if text.startswith("tcp[tcpflags]") or ("dst host" in text and "src" not in text):
        source, target = target, source
    ends = (rng.getrandbits(16), number) if "dst" in text or rng.random() < 0.5 else (number, rng.getrandbits(16))
    head = rng.randbytes(12) + b"".join(struct.pack("!HH", 0x8100, tag) for tag in tags)
    if found6:
        address = ipaddress.IPv6Address(found6[0]).packed
        return (
            head + b"\x86\xdd" + struct.pack("!IHBB", 0x60000000, 20, 59, 64) + address + rng.randbytes(16) + bytes(20)
        )
    if label := re.search(r"mpls (\d+)", text):
        return head + b"\x88\x47" + struct.pack("!I", int(label[1]) << 12 | 0x140) + rng.randbytes(30)
    named = re.search(r"ip proto (\d+)", text)
    protocol = int(named[1]) if named else 6 if "tcp" in text else 1 if "icmp" in text else 17
    long = 1500 if text.startswith("ip[2:2]") else 60
    life = 0 if text.startswith("ip[8]") else 64
    header = struct.pack("!BBHHHBBHII", 0x45, 0, long, 0, 0x4000, life, protocol, 0, source, target)
    if kind := re.search(r"icmptype\] = (\d+)", text):
        return head + b"\x08\x00" + header + bytes([int(kind[1])]) + rng.randbytes(27)
    flags = b"\x02" if "= tcp-syn" in text else b"\x01"
    return head + b"\x08\x00" + header + struct.pack("!HH", *ends) + bytes(9) + flags + bytes(14)
