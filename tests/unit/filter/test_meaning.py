# SPDX-License-Identifier: GPL-2.0-only
"""Filters have their documented meaning: compared with an interpreter of libpcap's unoptimised code."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import FilterError
from appliance.filter import compiler, equivalence, libpcap, symbolic
from appliance.filter.classic import ClassicFilter
from appliance.filter.compiler import compile_filter
from appliance.filter.graph import Graph
from tests.support.pcap_corpus import ALL_SETS, EXPRESSIONS, crafted_frames, frames_for, rule_set
from tests.support.plain_bpf import plain, run, wrong

MISCOMPILED = (
    "ether[0:1] & 0xffffffff != 0",
    "not (ether[0:1] & 0xffffffff != 0)",
    "tcp and ether[0] & 0xffffffff = 0",
)
"""libpcap 1.10's optimiser makes "every frame" or "none" of these."""


def _frames() -> list[bytes]:
    rng = random.Random(5)
    whole = crafted_frames()
    zero = [b"\0" * 12 + frame[12:] for frame in whole[:20]]
    return [b"", *whole, *zero, *(frame[: rng.randrange(len(frame))] for frame in whole)]


FRAMES = _frames()


@pytest.mark.parametrize("text", [*EXPRESSIONS, *MISCOMPILED])
def test_a_filter_means_what_it_says(text: str) -> None:
    filt = compile_filter(text)
    assert [found for frame in FRAMES if (found := wrong(text, frame, filt.matches(frame)))] == []


def test_the_oracle_would_find_the_optimisers_faults() -> None:
    """Whole frames exist that the optimised code takes, and the plain code does not."""
    for text in MISCOMPILED[:1]:
        found = [
            run(plain(text), one).takes != run(plain(text, optimise=True), one).takes for one in FRAMES if len(one) > 60
        ]
        assert any(found), text


_FIELDS = st.sampled_from(("ether[0]", "ether[12:2]", "ip[8]", "ip[2:2]", "tcp[13]", "udp[4:2]", "ip6[6]", "len"))
_MASKS = st.sampled_from((0, 1, 0x0F, 0xFF, 0xFFFF, 0xFFFFFFFF, 0x80000000))
_VALUES = st.sampled_from((0, 1, 2, 6, 17, 64, 80, 0x800, 0xFFFF, 0xFFFFFFFF))
_TESTS = st.builds(
    lambda field, op, mask, compare, value: f"{field} {op} {mask} {compare} {value}",
    _FIELDS,
    st.sampled_from("&|+-*^"),
    _MASKS,
    st.sampled_from(("=", "!=", ">", "<", ">=", "<=")),
    _VALUES,
)
_PARTS = st.one_of(_TESTS, st.sampled_from(("ip", "tcp port 80", "host 10.0.0.1", "vlan", "not udp", "port 53")))


@settings(max_examples=200, deadline=None)
@given(st.lists(_PARTS, min_size=1, max_size=3), st.sampled_from((" and ", " or ", " and not ")))
def test_arithmetic_and_what_it_is_joined_to(parts: list[str], joiner: str) -> None:
    text = joiner.join(f"({part})" for part in parts)
    try:
        filt = compile_filter(text)
    except FilterError as error:
        assert "libpcap: expression rejects all packets" in str(error)  # noqa: PT017 -- it may or may not refuse
        return
    assert [found for frame in FRAMES[::3] if (found := wrong(text, frame, filt.matches(frame)))] == []


@pytest.mark.parametrize("name", ALL_SETS)
def test_rules_keep_the_optimised_code(name: str) -> None:
    """Whatever is compared can be shown to be equal for usual rules: none of them becomes longer."""
    texts = rule_set(name, 64)
    longer = [text for text in texts if compile_filter(text).instructions != libpcap.compile_text(text, optimise=True)]
    assert [text for text in longer if "ip[2:2] -" not in text] == []
    frames = frames_for(texts, random.Random(2), 40)
    for text in texts[::4]:
        assert [found for one in frames if (found := wrong(text, one, compile_filter(text).matches(one)))] == []


def test_a_long_list_is_compared_too() -> None:
    text = " or ".join(f"host 10.0.{number}.1" for number in range(60))
    assert compile_filter(text).instructions == libpcap.compile_text(text, optimise=True)
    assert len(compile_filter(text).instructions) < len(libpcap.compile_text(text)) / 4


def equal(first: str, second: str, steps: int = equivalence.MAX_STEPS) -> bool:
    graph = Graph()
    roots = [
        symbolic.graph_of(graph, ClassicFilter(libpcap.compile_text(text)), number, whole=True)[0]
        for number, text in enumerate((first, second))
    ]
    return equivalence.equal(graph, roots[0], roots[1], steps)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("tcp or udp", "udp or tcp", True),
        ("not not tcp", "tcp", True),
        ("portrange 80-81", "port 80 or port 81", True),
        ("net 10.0.0.0/31", "host 10.0.0.0 or host 10.0.0.1", True),
        ("tcp", "tcp or udp", False),
        ("tcp port 80", "tcp port 81", False),
        ("len % 7 = 3", "len % 7 = 3", False),  # opaque: nothing is known of it
    ],
)
def test_equal_is_certain(first: str, second: str, same: bool) -> None:
    assert equal(first, second) is same


def test_a_search_that_would_be_too_long_shows_nothing() -> None:
    assert not equal("tcp or udp", "udp or tcp", steps=1)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("host server.example.org", "server.example.org"),
        ("tcp and src mail", "mail"),
        ("net office", "office"),
        ("gateway rome and ip", "rome"),
        ("hots 10.0.0.1", "hots"),
        ("tcp.port == 80", "tcp.port"),
        ("port 80 and host web", "web"),
    ],
)
def test_names_of_hosts_are_refused_before_they_are_looked_up(
    text: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpcap, which would ask a name server, is not reached."""
    monkeypatch.setattr(libpcap, "_compile", lambda *_: pytest.fail("libpcap was asked"))
    compiler.forget()
    with pytest.raises(FilterError, match="host names are not looked up") as caught:
        compile_filter(text)
    assert caught.value.column == text.index(word)


@pytest.mark.parametrize(
    "text",
    [
        "port http or https",
        "tcp port (http or ssh) and host 10.0.0.1",
        "portrange bootps-68",
        "ip proto \\icmp",
        "ether host 08:00:2b:1:2:3 or ether host 0800.2b01.0203",
        "host 2001:db8::1017:24.25.26.27",
        "src 0xa000002",
        "tcp[tcpflags] & (tcp-syn|tcp-ack) != 0",
        "ether proto \\arp",
        "iso proto \\esis",
    ],
)
def test_what_is_no_host_name_is_left_to_libpcap(text: str) -> None:
    assert compile_filter(text).instructions
