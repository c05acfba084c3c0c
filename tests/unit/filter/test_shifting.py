# SPDX-License-Identifier: GPL-2.0-only
"""Words that move what follows them: what is said of a text, held against what libpcap makes of it."""

from __future__ import annotations

import pytest

from appliance.filter.compiler import compile_filter
from appliance.filter.sample import Sampler, disguises
from appliance.filter.shifting import Shift, shifted

sample = Sampler().sample

MOVED = [
    ("(vlan and tcp port 80) or tcp port 80", Shift("vlan", "tcp port 80", False)),
    ("vlan and tcp port 80 or udp port 53 and ip", Shift("vlan", "udp port 53", False)),
    ("vlan 100 or vlan 200", Shift("vlan", "vlan 200", False)),
    ("vlan 100 || (host 10.0.0.1 and tcp port 80)", Shift("vlan", "(host 10.0.0.1 and tcp port 80)", False)),
    ("((vlan) or tcp port 80) and ip", Shift("vlan", "tcp port 80", False)),
    ("not vlan and tcp port 80", Shift("vlan", "tcp port 80", True)),
    ("! vlan && tcp port 80", Shift("vlan", "tcp port 80", True)),
    ("not (vlan or mpls) and ip", Shift("vlan", "mpls", False)),
    ("not (ip and vlan) and tcp", Shift("vlan", "tcp", True)),
    ("tcp port 80 or vlan and tcp port 80", Shift("vlan", "tcp port 80", False)),
    ("(ip or vlan) and tcp port 80", Shift("vlan", "tcp port 80", False)),
    ("vlan and (mpls or ip) and udp", Shift("mpls", "ip", False)),
    ("mpls 100 or tcp port 80", Shift("mpls", "tcp port 80", False)),
    ("pppoes and tcp port 80 or tcp port 80", Shift("pppoes", "tcp port 80", False)),
    ("geneve or ip", Shift("geneve", "ip", False)),
]
GOOD = [
    "",
    "tcp port 80",
    "vlan",
    "vlan and tcp port 80",
    "vlan 100 and (tcp port 80 or udp port 53)",
    "tcp port 80 or (vlan and tcp port 80)",
    "(tcp port 80 or ip) and vlan and udp",
    "vlan and vlan 5 and (vlan 6) and tcp",
    "tcp port 80 and not vlan",
    "not tcp and vlan",
    "tcp[0] != 5 and vlan and ip",
    "vlan and ip[6:2] & 0x1fff != 0",
    "ether proto 0x8100 or ip",
]


@pytest.mark.parametrize(("text", "found"), MOVED)
def test_what_is_moved(text: str, found: Shift) -> None:
    assert list(shifted(text)) == [found]


@pytest.mark.parametrize("text", GOOD)
def test_what_is_meant_so(text: str) -> None:
    assert list(shifted(text)) == []


@pytest.mark.parametrize("text", [text for text, found in MOVED if found.moved == "tcp port 80"])
def test_libpcap_does_move_it(text: str) -> None:
    """A plain frame that the moved part takes by itself is not taken behind the word."""
    plain = sample(compile_filter("tcp port 80"))
    assert plain is not None
    assert not compile_filter(text).matches(plain)


def test_before_the_word_it_is_not_moved() -> None:
    plain = sample(compile_filter("tcp port 80"))
    assert plain is not None
    both = compile_filter("tcp port 80 or (vlan and tcp port 80)")
    assert both.matches(plain)
    assert both.matches(disguises(plain)["tagged"])


SAMPLED = [
    "tcp port 80",
    "udp port 53",
    "ip6 and tcp port 80",
    "host 10.0.0.1",
    "net 2001:db8::/32 and port 9",
    "icmp",
    "tcp[tcpflags] & tcp-syn != 0",
    "ip[8] < 5",
    "portrange 1-100",
    "not tcp",
    "ether host 02:00:00:00:00:05 and tcp",
]


@pytest.mark.parametrize("text", SAMPLED)
def test_a_sample_is_taken(text: str) -> None:
    found = sample(compile_filter(text))
    assert found is not None
    assert compile_filter(text).matches(found)


@pytest.mark.parametrize("text", ["arp", "vlan 100", "ether proto 0x88cc"])
def test_no_sample_where_no_plain_ip_packet_fits(text: str) -> None:
    assert sample(compile_filter(text)) is None


def test_disguises_are_what_they_are_called() -> None:
    """libpcap knows each by its own words, and the packet in it."""
    plain = sample(compile_filter("tcp port 80"))
    assert plain is not None
    for kind, text in (
        ("tagged", "vlan 100 and tcp port 80"),
        ("PPPoE", "pppoes 1 and tcp port 80"),
        ("MPLS", "mpls 100 and tcp port 80"),
        ("SNAP", "ether[12:2] < 1500 and ether[14:4] = 0xaaaa0300 and ether[20:2] = 0x0800"),
        ("later fragments", "ip proto 6 and ip[6:2] & 0x1fff != 0 and not tcp port 80"),
    ):
        assert compile_filter(text).matches(disguises(plain)[kind]), kind
    plain6 = sample(compile_filter("ip6 and tcp port 80"))
    assert plain6 is not None
    for kind, text in (
        ("IPv6 extension headers", "ip6[6] = 60 and ip6[40] = 6 and ip6[50:2] = 80"),
        ("later fragments", "ip6[6] = 44 and ip6[40] = 6 and ip6[42:2] > 7"),
    ):
        assert compile_filter(text).matches(disguises(plain6)[kind]), kind


def test_who_may_take_a_frame_is_never_left_out() -> None:
    """The quick look says no only where the filter does."""
    sampler = Sampler()
    texts = [
        *SAMPLED,
        "vlan",
        "mpls",
        "arp",
        "",
        "ether[12:2] < 1500",
        "ip[ip[0] & 15] = 3",
        "tcp port 80 or vlan and ip",
    ]
    filters = [compile_filter(text) for text in texts]
    frames = [made for filt in filters if (made := sampler.sample(filt)) is not None]
    said_no = 0
    for frame in [each for plain in frames for each in (plain, *disguises(plain).values())]:
        for filt in filters:
            if not sampler.may_take(filt, sampler.traits(frame)):
                said_no += 1
                assert not filt.matches(frame), filt.text
    assert said_no > len(frames) * len(filters)
