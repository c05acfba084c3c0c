# SPDX-License-Identifier: GPL-2.0-only
"""Filters that can never be the first to match a frame: which are found, and that this is always true."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.filter import reach
from appliance.filter.compiler import compile_filter, first_match
from appliance.filter.reach import unreachable
from tests.support.pcap_corpus import ALL_SETS, EXPRESSIONS, crafted_frames, frames_for, rule_set

FOUND: list[tuple[list[str], dict[int, tuple[int, ...]]]] = [
    # (filters in order, place of a hidden one -> who takes its frames)
    (["tcp port 80", "tcp port 80"], {1: (0,)}),
    (["", "tcp"], {1: (0,)}),
    (["tcp", "udp", "tcp port 80"], {2: (0,)}),
    (["ip", "tcp port 80"], {}),  # IPv6 is left
    (["ip or ip6", "tcp port 80"], {1: (0,)}),
    (["net 10.0.0.0/8", "host 10.1.2.3"], {1: (0,)}),
    (["src net 10.0.0.0/8", "host 10.1.2.3"], {}),
    (["host 10.1.2.3", "net 10.0.0.0/8"], {}),
    (["src host 10.1.2.3", "dst host 10.1.2.3", "host 10.1.2.3"], {2: (0, 1)}),
    (["ip src host 10.1.2.3", "ip dst host 10.1.2.3", "host 10.1.2.3"], {}),  # ARP is left
    (["udp dst portrange 1-50", "udp dst portrange 51-100", "udp dst portrange 20-90"], {2: (0, 1)}),
    (["udp dst portrange 1-50", "udp dst portrange 52-100", "udp dst portrange 20-90"], {}),
    (["tcp portrange 35493-35819", "src host 203.0.113.7 and tcp dst port 35675"], {1: (0,)}),
    (["greater 200 and less 100"], {0: ()}),  # what libpcap sees itself (tcp and udp) it refuses
    (["tcp dst portrange 10-20 and tcp dst port 30", "tcp"], {0: ()}),
    (["ip[0:4] = ip[4:4]", "ip[0:4] = ip[4:4]"], {1: (0,)}),  # opaque, and the same
    (["ip[0:4] = ip[4:4]", "ip and ip[0:4] = ip[4:4] and tcp"], {}),  # opaque: not known
    (["ip", "ip and ip[0:4] = ip[4:4]"], {1: (0,)}),  # opaque, but what comes before it is not
    (["vlan 7", "vlan 7 and tcp"], {1: (0,)}),
    (["greater 100", "greater 200"], {1: (0,)}),
    (["greater 200", "greater 100"], {}),
]


@pytest.mark.parametrize(("texts", "hidden"), FOUND, ids=[" | ".join(texts) for texts, _ in FOUND])
def test_found(texts: list[str], hidden: dict[int, tuple[int, ...]]) -> None:
    found = unreachable([compile_filter(text) for text in texts], seconds=60)
    assert (found.hidden, found.undecided) == (hidden, ())


@pytest.mark.parametrize("name", ALL_SETS)
def test_what_is_hidden_is_never_first(name: str) -> None:
    """On made-up rules, and frames made for them."""
    texts = rule_set(name, 400)
    filters = [compile_filter(text) for text in texts]
    found = unreachable(filters, seconds=60)
    rng = random.Random(3)
    wanted = [texts[place] for place in found.hidden] or texts[:4]
    for frame in [*frames_for(wanted, rng, 300, hit=True), *frames_for(texts, rng, 100)]:
        assert first_match(filters, frame) not in found.hidden, frame.hex()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(EXPRESSIONS), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_any_chain(texts: list[str], rng: random.Random) -> None:
    filters = [compile_filter(text) for text in texts]
    found = unreachable(filters, seconds=60)
    for frame in [*FRAMES, *[frame[: rng.randrange(len(frame))] for frame in FRAMES]]:
        assert first_match(filters, frame) not in found.hidden, frame.hex()


FRAMES = crafted_frames()


def test_the_time_is_bounded_and_what_is_left_is_told() -> None:
    """A timeout never makes a filter count as hidden; easy cases are found without any search."""
    filters = [compile_filter(text) for text in ["tcp", "tcp port 80", "udp", "udp", ""]]
    found = unreachable(filters, seconds=-1)
    assert found.hidden == {3: (2,)}
    assert found.undecided == (0, 1, 2, 4)


@pytest.mark.parametrize(
    ("text", "versions"),
    [
        ("tcp port 80", {4, 6}),
        ("ip and udp portrange 50-60", {4}),
        ("host 10.0.0.1 and (port 80 or port 8080)", {4}),
        ("tcp[13] & 2 != 0", {4}),
        ("ip6 and udp", {6}),
        ("ip[8] > 10 and not host 10.0.0.1", {4}),
        ("arp", set()),
    ],
)
def test_examples_are_taken(text: str, versions: set[int]) -> None:
    """A frame that is made up for a filter is one that it takes, of the version that it says."""
    filt = compile_filter(text)
    found = reach.examples(filt)
    assert all(filt.matches(frame) for frame in found)
    assert {frame[14] >> 4 for frame in found} == versions
