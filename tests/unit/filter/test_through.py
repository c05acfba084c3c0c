# SPDX-License-Identifier: GPL-2.0-only
"""`through`: a filter also matches an encapsulated frame if it matches the inner one, and no less than before."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.ipsec import AH
from scapy.packet import Packet, Raw

from appliance.errors import FilterError
from appliance.filter import classic
from appliance.filter.compiler import compile_filter
from tests.support.frames import KINDS, ether, labels, pppoe, tcp, typed, udp

FILTERS = (
    "tcp port 80",
    "udp port 53 or tcp port 443",
    "udp portrange 50-60 and net 10.0.0.0/8",
    "ip6 and udp",
    "host 10.0.0.1 and (port 80 or port 53 or port 8080)",
    "tcp[tcpflags] & tcp-syn != 0",
    "ip[8] > 10 and udp[4:2] > 8",
    "not tcp port 80",
    "icmp or arp",
    "ether src 02:00:00:00:00:01 and ip6 host fd00::1 and dst port 53",
    "ip[2:2] - ((ip[0] & 0xf) << 2) > 20 and tcp src port 1234",
    "len > 60 and port 80",
    "vlan 30 and udp port 53",
)
EVERYTHING = ("vlan", "qinq", "pppoe", "mpls", "snap", "ip6ext", "fragments")
PLAIN = [frame for frame in KINDS.values() if frame[12:14] in (b"\x08\0", b"\x86\xdd")]


def tag(frame: bytes, tpid: int = 0x8100) -> bytes:
    return frame[:12] + tpid.to_bytes(2, "big") + b"\xa0\x07" + frame[12:]


def is_six(frame: bytes) -> bool:
    return frame[12:14] == b"\x86\xdd"


WRAPPINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "one tag": ("vlan", tag),
    "a tag of 802.1ad": ("vlan", lambda f: tag(f, 0x88A8)),
    "a tag of type 0x9100": ("vlan", lambda f: tag(f, 0x9100)),
    "two tags": ("qinq", lambda f: tag(tag(f), 0x88A8)),
    "PPPoE": ("pppoe", lambda f: f[:12] + b"\x88\x64" + pppoe(f[14:], 0x57 if is_six(f) else 0x21)),
    "a label": ("mpls", lambda f: f[:12] + b"\x88\x47" + labels(100) + f[14:]),
    "three labels": ("mpls", lambda f: f[:12] + b"\x88\x47" + labels(1, 2, 3) + f[14:]),
    "SNAP": ("snap", lambda f: f[:12] + b"\0\x40\xaa\xaa\x03\0\0\0" + f[12:]),
}
DOUBLE = {
    "PPPoE behind a tag": (("vlan", "pppoe"), lambda f: tag(WRAPPINGS["PPPoE"][1](f))),
    "labels behind two tags": (("qinq", "mpls"), lambda f: tag(tag(WRAPPINGS["three labels"][1](f)))),
    "SNAP behind a tag": (("vlan", "snap"), lambda f: tag(WRAPPINGS["SNAP"][1](f))),
}
ALL = {**{name: ((way,), wrap) for name, (way, wrap) in WRAPPINGS.items()}, **DOUBLE}


@pytest.mark.parametrize("text", FILTERS)
@pytest.mark.parametrize("name", ALL)
def test_wrapped_frames(text: str, name: str) -> None:
    """By the one way that is asked for, and by all at once, a wrapped frame is taken as the frame itself is."""
    ways, wrap = ALL[name]
    plain = compile_filter(text)
    for frame in PLAIN:
        wrapped = wrap(frame)
        # `len` is that of the whole frame
        wanted = plain.matches(frame, len(wrapped)) or plain.matches(wrapped)
        for through in (ways, EVERYTHING[:5]):
            assert compile_filter(text, through=through).matches(wrapped) == wanted, frame.hex()


@pytest.mark.parametrize("text", FILTERS)
@pytest.mark.parametrize("name", ALL)
def test_only_what_is_asked_for(text: str, name: str) -> None:
    """Without all the ways that a frame is wrapped in, nothing changes for it."""
    ways, wrap = ALL[name]
    for missing in ways:
        through = tuple(way for way in EVERYTHING[:5] if way != missing)
        for frame in PLAIN:
            wrapped = wrap(frame)
            assert compile_filter(text, through=through).matches(wrapped) == compile_filter(text).matches(wrapped)


@settings(max_examples=300, deadline=None)
@given(
    text=st.sampled_from(FILTERS),
    through=st.lists(st.sampled_from(EVERYTHING), unique=True).map(tuple),
    frame=st.one_of(
        st.sampled_from(sorted(KINDS.values())),
        st.binary(min_size=14, max_size=100),
        st.tuples(st.sampled_from(sorted(KINDS.values())), st.integers(14, 80)).map(lambda p: p[0][: p[1]]),
    ),
)
def test_it_only_ever_takes_more(text: str, through: tuple[str, ...], frame: bytes) -> None:
    plain = compile_filter(text).matches(frame)
    assert compile_filter(text, through=through).matches(frame) or not plain


V6 = IPv6(src="fd00::1", dst="fd01::1")
EXTENDED = {
    "hop-by-hop": V6 / IPv6ExtHdrHopByHop(),
    "routing, destination": V6 / IPv6ExtHdrRouting(addresses=["::1", "::2"]) / IPv6ExtHdrDestOpt(),
    "authentication": V6 / AH(payloadlen=4, spi=1, seq=1, icv=b"0" * 12),
    "an atomic fragment": V6 / IPv6ExtHdrFragment(id=1),
    "a first fragment": V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(id=1, m=1),
}


@pytest.mark.parametrize("name", EXTENDED)
def test_extension_headers(name: str) -> None:
    """Ports, protocols and addresses behind them, behind a tag too."""
    for payload in (UDP(sport=1, dport=53), TCP(sport=1, dport=80), TCP(sport=1, dport=81)):
        plain, extensions = bytes(ether() / V6 / payload), EXTENDED[name].copy()
        if AH in extensions:
            extensions[AH].nh = plain[20]
        behind = bytes(ether() / extensions / payload)
        for text in ("tcp port 80", "udp port 53", "ip6 and udp", "dst port 53", "ip6 src host fd00::1 and tcp"):
            wanted = compile_filter(text).matches(plain)
            assert compile_filter(text, through=("ip6ext",)).matches(behind) == wanted, text
            assert compile_filter(text, through=("vlan", "ip6ext")).matches(tag(behind)) == wanted, text
            assert compile_filter(text, through=EVERYTHING).matches(tag(tag(behind))) == wanted, text


def later(inside: Packet, protocol: int, source: str = "10.0.0.1") -> bytes:
    return bytes(ether() / IP(src=source, dst="10.1.0.1", id=7, frag=3, proto=protocol) / inside)


LATER = [
    # filter, later fragment of TCP, of UDP: may the first one match?
    ("tcp port 80", True, False),
    ("udp port 53 or tcp port 443", True, True),
    ("host 10.0.0.1 and (udp port 53 or udp port 54)", False, True),
    ("(port 80 or port 81 or port 82) and host 10.0.0.9", False, False),
    ("udp port 53 and net 10.0.0.0/8 and not host 10.0.0.1", False, False),
    ("tcp[tcpflags] & tcp-syn != 0", True, False),
    ("tcp[(tcp[12] >> 4) * 4] = 1", True, False),
    ("icmp", False, False),
    ("ip6 and port 80", False, False),
]


@pytest.mark.parametrize(("text", "of_tcp", "of_udp"), LATER)
def test_later_fragments(text: str, of_tcp: bool, of_udp: bool) -> None:
    """A later fragment is taken when its first one may be: by addresses and protocol, whatever the ports."""
    for protocol, wanted in ((6, of_tcp), (17, of_udp)):
        frame = later(Raw(bytes(24)), protocol)
        assert compile_filter(text, through=("fragments",)).matches(frame) == wanted
        assert compile_filter(text, through=EVERYTHING).matches(tag(frame)) == wanted
        assert not compile_filter(text, through=EVERYTHING[:5]).matches(tag(frame))


def test_later_fragments_of_six() -> None:
    for through in (("fragments",), ("ip6ext", "fragments")):
        for text, wanted in (("udp port 53", True), ("tcp port 53", False), ("udp port 53 and host fd00::9", False)):
            frame = bytes(ether() / V6 / IPv6ExtHdrFragment(id=9, offset=3, nh=17) / Raw(bytes(24)))
            assert compile_filter(text, through=through).matches(frame) == wanted, text


def test_whole_packets_are_no_fragments() -> None:
    """`fragments` makes no difference for them, not even where the filter says no."""
    for frame in (tcp(dport=81), udp(dport=54), typed(0x0800, bytes(IP() / Raw(b"x")))):
        assert not compile_filter("port 80", through=("fragments",)).matches(frame)


def test_long_filters_have_a_limit() -> None:
    """What the datapath could not hold is an error that says how long the filter is."""
    text = " or ".join(f"host 10.0.{n >> 8}.{n & 255}" for n in range(1, 440))
    with pytest.raises(FilterError, match=r"4096 are allowed|becomes too long"):
        compile_filter(text, through=EVERYTHING)


def test_what_has_no_counterpart_is_refused() -> None:
    with pytest.raises(FilterError, match="across the EtherType"):
        compile_filter("ether[10:4] = 1", through=("vlan",))


@pytest.mark.parametrize("text", FILTERS)
def test_the_result_is_a_good_filter(text: str) -> None:
    """Every way at once is short enough, and jumps only forward."""
    widened = compile_filter(text, through=EVERYTHING)
    classic.check(widened.instructions)
    assert len(widened.instructions) < 1500
    assert compile_filter(text, through=()) == compile_filter(text)
