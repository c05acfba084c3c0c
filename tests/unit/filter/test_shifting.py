# SPDX-License-Identifier: GPL-2.0-only
"""Keywords that shift the offsets of what follows: warnings about a filter, compared with libpcap's code for it."""

from __future__ import annotations

import pytest

from appliance.filter.compiler import compile_filter
from appliance.filter.reach import examples
from appliance.filter.shifting import Shift, shifted

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
    plain = examples(compile_filter("tcp port 80"))[0]
    assert not compile_filter(text).matches(plain)


def test_before_the_word_it_is_not_moved() -> None:
    plain = examples(compile_filter("tcp port 80"))[0]
    both = compile_filter("tcp port 80 or (vlan and tcp port 80)")
    assert both.matches(plain)
    assert both.matches(plain[:12] + b"\x81\0\0\x01" + plain[12:])
