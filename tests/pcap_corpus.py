# SPDX-License-Identifier: GPL-2.0-only
"""Filters, sets of rules and frames that the filter tests and measurements share. Pure, and the same for the same seed."""

from __future__ import annotations

import ipaddress
import random
import re
import struct
from collections.abc import Callable

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
        return f"{rng.choice([10, 172, 192, 198, 203])}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 255)}"

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
        return self.rng.choice(
            [
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
        )()

    def odd(self) -> str:
        """Arithmetic, flags, labels, tags in tags."""
        rng = self.rng
        return rng.choice(
            [
                lambda: f"ip[2:2] - ((ip[0] & 0xf) << 2) > {rng.randrange(1000, 1400)}",
                lambda: f"tcp[tcpflags] & (tcp-syn|tcp-fin) = {rng.choice(['tcp-syn', 'tcp-fin'])} and dst host {self.address()}",
                lambda: f"mpls {rng.randrange(16, 1 << 20)}",
                lambda: f"vlan {self.tag()} and vlan {self.tag()}",
                lambda: f"ip[8] < {rng.randrange(1, 64)} and host {self.address()}",
                lambda: f"icmp[icmptype] = {rng.randrange(20, 40)} and src host {self.address()}",
            ]
        )()


def rule_set(name: str, count: int, seed: int = 7) -> list[str]:
    """Filters of one of ALL_SETS."""
    words = _Words(random.Random(seed))
    make: dict[str, Callable[[], str]] = {
        "udp and port N": lambda: f"udp and port {words.port()}",
        "ip and udp dst port N": lambda: f"ip and udp dst port {words.port()}",
        "mixed": words.mixed,
        "net X/24": lambda: f"net {words.net()}",
        "src net and dst net and port": lambda: f"src net {words.net()} and dst net {words.net()} and port {words.port()}",
        "mixed, 12 % odd": lambda: words.odd() if words.rng.random() < 0.12 else words.mixed(),
    }
    return [make[name]() for _ in range(count)]


def frames_for(
    texts: list[str], rng: random.Random, count: int, *, whole: bool = False, hit: bool | None = None
) -> list[bytes]:
    """Frames made of the constants that the filters name, or next to them.

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
        return (rng.choice(self.ports) + rng.choice([0, 0, 0, 1, -1])) & 0xFFFF if rng.random() < 0.6 else rng.getrandbits(16)

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
            return head + rng.choice([b"\x08\x06", b"\x80\x35"]) + arp + rng.randbytes(6) + struct.pack("!I", self.address())
        if kind < 0.92:
            return head + b"\x88\x47" + struct.pack("!I", rng.randrange(1 << 20) << 12 | 0x140) + rng.randbytes(30)
        return head + rng.randbytes(rng.randrange(2, 80))


def _frame_for(text: str, rng: random.Random) -> bytes:
    """A frame that the filter (of the kinds in `_Words`) takes."""
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
        return head + b"\x86\xdd" + struct.pack("!IHBB", 0x60000000, 20, 59, 64) + address + rng.randbytes(16) + bytes(20)
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
