# SPDX-License-Identifier: GPL-2.0-only
"""The flow cache: when it is used, that it always agrees with the filters, and that a new policy invalidates it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.config.schema.model import Config, Rule, Segment
from appliance.filter import classifier
from appliance.steering.explain.model import Where
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Role, Side
from tests.support.frames import KINDS, tcp, udp
from tests.support.twin import Twin

pytestmark = pytest.mark.root
SEGMENTS = (Segment(name="main", lan="lan0", wan="wan0"), Segment(name="other", lan="lan1", wan="wan1"))
PORT = Where(Role.PORT, 0, Side.LAN)
KEYED = (
    Rule(name="web", match="tcp port 80"),
    Rule(name="dns", match="udp port 53"),
    Rule(name="six", match="ip6 and udp"),
    Rule(name="other", match="ip", segment="other"),
    Rule(name="host", match="src host 10.0.0.7"),
    Rule(name="icmp", match="icmp[0] = 8"),
    Rule(name="fragments", match="ip proto 17"),
)


def config(*rules: Rule) -> Config:
    return Config(segment=SEGMENTS, rule=rules)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if filters took so long that the cache pays; on one processor, as each has a cache of its own."""
    processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(processors)})
    monkeypatch.setattr(classifier, "RULE_NS", 1000)
    monkeypatch.setattr(classifier, "GRAPH_NS", 1000)
    classifier.prepare.cache_clear()
    yield
    classifier.prepare.cache_clear()
    os.sched_setaffinity(0, processors)


@pytest.fixture
def twin(bpf_object: Path, always: None) -> Iterator[Twin]:
    made = Twin(bpf_object, config(*KEYED))
    made.attach()
    yield made
    made.close()


def tally(twin: Twin) -> tuple[int, int]:
    """Hits and misses."""
    values = twin.maps["cache_counters"].per_cpu(0)
    return sum(value.hits for value in values), sum(value.misses for value in values)


def cached(twin: Twin) -> set[bool]:
    return {row.flow_cache for row in twin.datapath.compiled()}


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_a_flow_is_found_again(twin: Twin, kind: str) -> None:
    """The first frame of a flow asks the filters, the following do not; the answer and the rule's count stay right."""
    assert cached(twin) == {True}
    for _ in range(5):
        assert twin.kernel(PORT, tcp(), kind).rule == 0
    assert tally(twin) == (4, 1)
    assert twin.datapath.counters().rules["web"].frames == 5
    # Its answers, another host or protocol: other flows, asked for themselves. No match is an answer too.
    for _ in range(2):
        for frame in (tcp(back=True), tcp(host=7, dport=99), udp(dport=80)):
            assert twin.kernel(PORT, frame, kind) == replace(twin.decide(PORT, frame), frame=frame)
    assert tally(twin) == (4 + 3, 1 + 3)


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_every_kind_of_frame_twice(twin: Twin, kind: str) -> None:
    """Tagged, fragmented, truncated, with wrong headers: in the cache or not, the model agrees each time."""
    for _ in range(2):
        for frame in KINDS.values():
            for cut in (len(frame), 60, 57, 41, 37, 33, 18, 14):
                for segment in (0, 1):
                    twin.both(Where(Role.PORT, segment, Side.LAN), frame[:cut], kind)
    hits, misses = tally(twin)
    assert hits >= misses > 10


def test_segments_are_told_apart(twin: Twin) -> None:
    """The same flow in two segments, whose rules differ."""
    frame = tcp(dport=9)
    found = [twin.both(Where(Role.PORT, segment, Side.LAN), frame).rule for segment in (0, 1, 0, 1)]
    assert found == [None, 3, None, 3]


def test_a_new_policy_finds_nothing_of_the_old(twin: Twin) -> None:
    """Generation after generation: the flow's rule is that of the policy in force, also when a number recurs."""
    for number in range(6):
        twin.configure(config(Rule(name="first", match="tcp port 9"), *KEYED[number % 2 :]))
        expected = 1 if number % 2 == 0 else None
        assert [twin.both(PORT, tcp()).rule for _ in range(3)] == [expected] * 3


def test_explain_leaves_the_cache_alone(twin: Twin) -> None:
    """A dry run neither asks nor fills it."""
    for _ in range(3):
        twin.kernel(PORT, tcp(), flags=layout.DEVICE_DRY)
    assert tally(twin) == (0, 0)
    assert not any(value.tag for place in range(layout.CACHE_ENTRIES) for value in twin.maps["cache"].per_cpu(place))


def test_only_where_it_is_right_and_pays(bpf_object: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that looks at more than the key keeps the whole set out of the cache; so does a set that is fast."""
    fast = Twin(bpf_object, config(*KEYED))
    assert cached(fast) == {False}
    assert "a look into the cache 15 ns" in fast.datapath.compiled()[0].why_flow_cache
    fast.close()
    monkeypatch.setattr(classifier, "RULE_NS", 1000)
    monkeypatch.setattr(classifier, "GRAPH_NS", 1000)
    for match in ("tcp[13] & 2 != 0", "len > 100", "ip[8] < 5", "ether host 02:00:00:00:00:01", "ip[0] & 15 != 5"):
        classifier.prepare.cache_clear()
        twin = Twin(bpf_object, config(*KEYED, Rule(name="odd", match=match)))
        row = next(row for row in twin.datapath.compiled() if "main" in row.segments)
        assert not row.flow_cache, match
        assert row.why_flow_cache.endswith("(rule odd)")
        twin.close()
    classifier.prepare.cache_clear()
