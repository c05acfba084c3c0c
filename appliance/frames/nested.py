# SPDX-License-Identifier: GPL-2.0-only
"""What lies deeper in a frame: behind labels, PPPoE, SNAP and tags of any kind, in tunnels, quoted by ICMP errors.

The same steps as in appliance/bpf/nested.h, which explains them. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from appliance.frames.headers import AH, EXTENSIONS, FRAGMENT, IPV4, IPV6, WITH_PORTS, Ip, number

BYTES = 256  # of the frame are looked at
STEPS = 24
REACH = 64
VXLAN, GENEVE, GTPU = 4789, 6081, 2152
_TAGS = (0x8100, 0x88A8, 0x9100, 0x9200, 0x9300)
_ERRORS, _ERRORS6 = (3, 4, 5, 11, 12), (1, 2, 3, 4)
_ICMP, _IPIP, _TCP, _UDP, _IPV6, _GRE, _ICMPV6 = 1, 4, 6, 17, 41, 47, 58


class Layer(Enum):
    """What comes next."""

    ETHERNET = auto()
    TYPE = auto()
    LABEL = auto()
    GUESS = auto()
    IPV4 = auto()
    IPV6 = auto()
    TRANSPORT = auto()
    GTP = auto()


@dataclass
class Nested:
    """The innermost IP header; `later`: it is that of a later fragment.

    `fragment` (0 none, 1 first, 2 later) and `datagram` are those of the outermost datagram that is in fragments.
    """

    ip: Ip
    later: bool
    fragment: int
    datagram: tuple[int, int, int, int] | None
    quoted: bool  # by an ICMP error


@dataclass
class _Reader:
    bytes: bytes
    at: int = 0
    layer: Layer = Layer.ETHERNET
    value: int = 0
    six: bool = False
    quoted: bool = False
    later: bool = False
    fragment: int = 0
    datagram: tuple[int, int, int, int] | None = None
    ip: Ip | None = None
    left: int = field(default=0, init=False)

    def go(self, layer: Layer, value: int = 0, bytes_: int = 0) -> bool:
        self.layer, self.value, self.at = layer, value, self.at + bytes_
        return True

    def number(self, at: int, size: int) -> int:
        return number(self.bytes, self.at + at, size)

    def step(self) -> bool:
        """Read one header; False at the end."""
        self.left = len(self.bytes) - self.at
        if self.left <= 0:
            return False
        return _STEPS[self.layer](self)

    def ethernet(self) -> bool:
        return self.left >= 14 and self.go(Layer.TYPE, self.number(12, 2), 14)

    def type(self) -> bool:
        kind = self.value
        if kind in _TAGS:
            return self.left >= 4 and self.go(Layer.TYPE, self.number(2, 2), 4)
        if kind in (0x8847, 0x8848):
            return self.go(Layer.LABEL)
        if kind == 0x8864:
            inside = {0x0021: Layer.IPV4, 0x0057: Layer.IPV6}.get(self.number(6, 2)) if self.left >= 8 else None
            return inside is not None and self.number(0, 2) == 0x1100 and self.go(inside, 0, 8)
        if kind in (IPV4, IPV6):
            return self.go(Layer.IPV4 if kind == IPV4 else Layer.IPV6)
        if kind == 0x6558:
            return self.go(Layer.ETHERNET)
        snap = kind <= 1500 and self.left >= 8 and self.number(0, 6) == 0xAAAA03000000
        return snap and self.go(Layer.TYPE, self.number(6, 2), 8)

    def label(self) -> bool:
        bottom = self.left >= 4 and self.number(2, 1) & 1
        return self.left >= 4 and self.go(Layer.GUESS if bottom else Layer.LABEL, 1, 4)

    def guess(self) -> bool:
        version = self.number(0, 1) >> 4
        if version in (4, 6):
            return self.go(Layer.IPV4 if version == 4 else Layer.IPV6)
        return version == 0 and self.value != 0 and self.go(Layer.ETHERNET, 0, 4)

    def ipv4(self) -> bool:
        first = self.number(0, 1)
        if self.left < 20 or first >> 4 != 4 or first & 15 < 5:
            return False
        self.six = False
        self.ip = Ip(self.number(12, 4), self.number(16, 4), self.number(9, 1))
        offset = self.number(6, 2)
        if offset & 0x3FFF:
            self._note_fragment(bool(offset & 0x1FFF), self.number(4, 2), self.ip.protocol)
        if offset & 0x1FFF:
            self.later = True
            return False
        return self.go(Layer.TRANSPORT, self.ip.protocol, (first & 15) * 4)

    def ipv6(self) -> bool:
        if self.left < 40 or self.number(0, 1) >> 4 != 6:
            return False
        self.six = True
        self.ip = Ip(self.number(8, 16), self.number(24, 16), self.number(6, 1))
        return self.go(Layer.TRANSPORT, self.ip.protocol, 40)

    def _note_fragment(self, later: bool, identity: int, protocol: int) -> None:
        if self.ip is not None and not self.quoted and not self.fragment:
            self.fragment = 2 if later else 1
            self.datagram = (self.ip.source, self.ip.destination, identity, protocol)

    def _extension(self, ip: Ip) -> bool:
        if not self.six or self.left < 8:
            return False
        length = (self.number(1, 1) + 1) * 8
        if self.value == AH:
            length = (self.number(1, 1) + 2) * 4
        elif self.value == FRAGMENT:
            length, offset = 8, self.number(2, 2)
            if offset & 0xFFF9:  # else "atomic": whole after all
                self._note_fragment(bool(offset & 0xFFF8), self.number(4, 4), FRAGMENT)
            self.later = bool(offset & 0xFFF8)
        ip.protocol = self.number(0, 1)
        return not self.later and self.go(Layer.TRANSPORT, ip.protocol, length)

    def transport(self) -> bool:
        ip, protocol = self.ip, self.value
        if ip is None:
            return False
        if protocol in EXTENSIONS:
            return self._extension(ip)
        if protocol in (_IPIP, _IPV6):
            return self.go(Layer.IPV4 if protocol == _IPIP else Layer.IPV6)
        if protocol == _GRE:
            flags = self.number(0, 2)
            if self.left < 4 or flags & 0x4007:  # routed, or another version
                return False
            optional = sum(flags >> bit & 1 for bit in (15, 13, 12))
            return self.go(Layer.TYPE, self.number(2, 2), 4 + optional * 4)
        if protocol == (_ICMPV6 if self.six else _ICMP):
            if self.left < 8 or self.number(0, 1) not in (_ERRORS6 if self.six else _ERRORS):
                return False
            self.quoted = True
            return self.go(Layer.IPV6 if self.six else Layer.IPV4, 0, 8)
        if protocol in WITH_PORTS and self.left >= 4:
            ip.ports = self.number(0, 2), self.number(2, 2)
            if protocol == _TCP and self.left >= 14 and not self.quoted:  # what is quoted opens and closes nothing
                ip.tcp_flags = self.number(13, 1)
            return protocol == _UDP and self.left >= 16 and self._tunnel(ip.ports[1])
        return False

    def _tunnel(self, port: int) -> bool:
        """Behind UDP, by its port."""
        first = self.number(8, 1)
        if port == VXLAN:
            return self.number(8, 4) == 0x08000000 and self.go(Layer.ETHERNET, 0, 16)
        if port == GENEVE:
            return first >> 6 == 0 and self.go(Layer.TYPE, self.number(10, 2), 16 + (first & 63) * 4)
        if port != GTPU or first >> 4 != 3 or self.number(9, 1) != 255:
            return False
        if not first & 7:
            return self.go(Layer.GUESS, 0, 16)
        return self.left >= 20 and self.go(Layer.GTP, self.number(19, 1) if first & 4 else 0, 20)

    def gtp(self) -> bool:
        if not self.value:
            return self.go(Layer.GUESS)
        length = self.number(0, 1) * 4
        if not 0 < length <= min(REACH // 2, self.left):
            return False
        return self.go(Layer.GTP, self.number(length - 1, 1), length)


_STEPS = {
    Layer.ETHERNET: _Reader.ethernet,
    Layer.TYPE: _Reader.type,
    Layer.LABEL: _Reader.label,
    Layer.GUESS: _Reader.guess,
    Layer.IPV4: _Reader.ipv4,
    Layer.IPV6: _Reader.ipv6,
    Layer.TRANSPORT: _Reader.transport,
    Layer.GTP: _Reader.gtp,
}


def deeper(ip: Ip | None) -> bool:
    """Whether there may be more to find than the ordinary headers show."""
    if ip is None:
        return True
    if ip.fragment == 2:
        return False
    tunnel = ip.protocol == _UDP and ip.ports[1] in (VXLAN, GENEVE, GTPU)
    return tunnel or ip.protocol in (_ICMP, _ICMPV6, _GRE, _IPIP, _IPV6)


def read(frame: bytes) -> Nested | None:
    """The innermost IP header of the frame; None when there is none to be read."""
    reader = _Reader(frame[:BYTES])
    for _ in range(STEPS):
        if not reader.step():
            break
    if reader.ip is None:
        return None
    return Nested(reader.ip, reader.later, reader.fragment, reader.datagram, reader.quoted)
