# SPDX-License-Identifier: GPL-2.0-only
"""The parts of merging that need no kernel: decision graphs, cubes, classes of values, what a flow key decides."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.filter import hashing, merge, symbolic
from appliance.filter.asm import Assembler
from appliance.filter.classic import ClassicFilter
from appliance.filter.compiler import (
    build_classifier,
    compile_filter,
    first_match,
    first_match_libpcap,
    uses_only_flow_key,
)
from appliance.filter.graph import ACCEPT, OPAQUE_FIELD, REJECT, Field, FieldKind, Graph
from appliance.filter.leaves import Cubes, Plan, plan
from appliance.filter.merge import BoundSplit, Leaf, Merged, ValueSplit
from appliance.filter.tables import Image, Lookup, classify
from tests.support.pcap_corpus import ALL_SETS, EXPRESSIONS, crafted_frames, frames_for, rule_set


def value(field: Field, frame: bytes) -> int | None:
    """A field's value, None when the frame does not hold it."""
    if field.kind in (FieldKind.LENGTH, FieldKind.LENGTH_VALUE):
        return len(frame)
    start = field.offset
    if field.kind in (FieldKind.HEADER_LENGTH, FieldKind.BEHIND_HEADER):
        if field.header >= len(frame):
            return None
        header = (frame[field.header] & 15) * 4
        if field.kind is FieldKind.HEADER_LENGTH:
            return max(len(frame) - header, 0)
        start += header
    if start + field.size > len(frame):
        return None
    return int.from_bytes(frame[start : start + field.size], "big") & field.mask


def follow(graph: Graph, node: int, frame: bytes) -> bool | None:
    """Walk the graph for a frame; None at an opaque end. A load outside the frame is a bug in the graph."""
    while node not in (ACCEPT, REJECT):
        if graph.field[node] == OPAQUE_FIELD:
            return None
        found = value(graph.fields[graph.field[node]], frame)
        assert found is not None, "a load before its bound"
        node = graph.yes[node] if graph.low[node] <= found <= graph.high[node] else graph.no[node]
    return node == ACCEPT


def decide(merged: Merged, plans: dict[int, Plan], filters: list[ClassicFilter], frame: bytes) -> int | None:
    """What the generated program does, in Python."""
    graph, number = merged.graph, 0
    while True:
        state = merged.states[number]
        if isinstance(state, BoundSplit):
            header = 0 if state.header is None else (frame[state.header] & 15) * 4
            number = state.yes if len(frame) >= header + state.need else state.no
        elif isinstance(state, ValueSplit):
            found = value(graph.fields[state.field], frame)
            assert found is not None
            number = next(t for s, t in reversed(list(zip(state.starts, state.targets, strict=True))) if s <= found)
        else:
            break
    leaf = plans[number]
    ranks = [] if leaf.default is None else [leaf.default]
    for field, entries in leaf.singles.items():
        found = value(graph.fields[field], frame)
        assert found is not None
        ranks += [rank for intervals, rank in entries if any(low <= found <= high for low, high in intervals)]
    for rank, cube in leaf.cubes:
        values = [(value(graph.fields[field], frame), intervals) for field, intervals in cube]
        if all(v is not None and any(low <= v <= high for low, high in intervals) for v, intervals in values):
            ranks.append(rank)
    ranks += [rank for rank, node in leaf.straight if follow(graph, node, frame)]
    ranks += [rank for rank in leaf.opaque if filters[rank].matches(frame)]
    return min(ranks, default=None)


@pytest.fixture(scope="module")
def frames() -> list[bytes]:
    rng = random.Random(1)
    whole = crafted_frames()
    return [b"", b"\0", *whole, *[frame[: rng.randrange(len(frame))] for frame in whole for _ in range(3)]]


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_graph_of_a_filter_equals_the_filter(text: str, frames: list[bytes]) -> None:
    """And never loads what it has not seen to be there; an opaque end defers to the filter."""
    graph, filt = Graph(), compile_filter(text)
    root, why = symbolic.graph_of(graph, filt, 0)
    ended = 0
    for frame in frames:
        answer = follow(graph, root, frame)
        ended += answer is None
        assert answer is None or answer == filt.matches(frame), frame.hex()
    assert not ended or why


@pytest.mark.parametrize("name", [*ALL_SETS, "expressions"])
def test_merged_decision_equals_first_match(name: str, frames: list[bytes]) -> None:
    """States, leaves, cubes and ranks, without code generation; short and empty frames too."""
    texts = list(EXPRESSIONS) if name == "expressions" else rule_set(name, 80)
    rng = random.Random(2)
    if name == "expressions":
        rng.shuffle(texts)
    else:
        made = frames_for(texts, rng, 120) + frames_for(texts, rng, 80, hit=True)
        frames = frames[::6] + made + [frame[: rng.randrange(len(frame))] for frame in made[::2]]
    filters = [compile_filter(text) for text in texts]
    with merge.lock:
        merged = merge.merge(list(enumerate(filters)))
        cubes = Cubes(merged.graph)
        plans = {n: plan(cubes, state) for n, state in enumerate(merged.states) if isinstance(state, Leaf)}
        for frame in frames:
            want = first_match(filters, frame)
            assert decide(merged, plans, filters, frame) == want == first_match_libpcap(filters, frame), frame.hex()


def test_shared_tests_are_asked_once() -> None:
    """256 rules `udp and port N` ask for EtherType, protocol and fragment once, and for the ports in tables."""
    filters = [compile_filter(f"udp and port {port}") for port in range(1000, 1256)]
    made = build_classifier(filters, kind="xdp")
    straight = build_classifier(filters, kind="xdp", merge=False)
    assert made.report.method == "merged"
    assert made.report.instructions * 20 < straight.report.instructions
    assert not made.report.straight
    assert (made.report.method, made.report.rules) == ("merged", 256)


def test_port_n_does_not_say_what_need_not_be_said() -> None:
    """`port N` is two single-field entries, not "not source N, and destination N"."""
    filters = [compile_filter(f"udp and port {port}") for port in range(1000, 1010)]
    with merge.lock:
        merged = merge.merge(list(enumerate(filters)))
        cubes = Cubes(merged.graph)
        plans = [plan(cubes, state) for state in merged.states if isinstance(state, Leaf) and state.rules]
    assert plans
    assert all(not leaf.cubes and not leaf.straight and leaf.singles for leaf in plans)


def test_a_range_of_ports_is_said_once_for_each_end() -> None:
    """ "portrange" asks "from on?", then "up to?", then the other port: both ends are conditions of one field alone."""
    filters = [compile_filter(f"udp portrange {30000 + 16 * n}-{30007 + 16 * n}") for n in range(8)]
    with merge.lock:
        merged = merge.merge(list(enumerate(filters)))
        cubes = Cubes(merged.graph)
        plans = [plan(cubes, state) for state in merged.states if isinstance(state, Leaf)]
    largest = max(plans, key=lambda one: len(one.singles))
    assert not any(one.cubes for one in plans)
    assert [len(values) for values in largest.singles.values()] == [8, 8]


def test_a_table_that_makes_no_difference_is_not_asked() -> None:
    """Networks and single hosts in one field: where only the networks matter, the hosts' table is left out."""
    sets = (((0x0A000000, 0x0A0000FF),), ((0x0B000000, 0x0B0000FF),), ((0x0A000001, 0x0A000001),))
    classes = classify(sets, 0xFFFFFFFF)
    lookup = Lookup(Image(), classes, 0xFFFFFFFF)

    def length(*asked: int) -> int:
        asm = Assembler()
        lookup.emit(asm, [classes.members[sets[number]] for number in asked])
        return len(asm.code)

    nothing, networks, hosts, both = length(), length(0, 1), length(2), length(0, 1, 2)
    assert nothing <= 2 < min(networks, hosts)
    assert max(networks, hosts) < both - 15


def test_budgets_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    filters = list(enumerate(compile_filter(text) for text in rule_set("mixed", 60)))
    for name, limit, words in (
        ("MAX_EDGES", 10, "10 edges"),
        ("MAX_STATES", 5, "5 states"),
        ("MAX_SECONDS", -1, "-1 s"),
    ):
        with monkeypatch.context() as patch, merge.lock:
            patch.setattr(merge, name, limit)
            with pytest.raises(merge.BudgetError, match=words):
                merge.merge(filters)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=3), max_size=12),
    st.lists(st.integers(0, 300), min_size=1, max_size=20),
)
def test_classes_tell_values_apart_exactly_when_a_rule_does(
    sets: list[list[tuple[int, int]]], values: list[int]
) -> None:
    def disjoint(pairs: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
        held = sorted({v for low, high in pairs for v in range(min(low, high), max(low, high) + 1)})
        cuts = [i for i, v in enumerate(held) if i == 0 or held[i - 1] != v - 1] + [len(held)]
        return tuple((held[a], held[b - 1]) for a, b in pairwise(cuts))

    made = [disjoint(pairs) for pairs in sets]
    classes = classify(made, 300)
    assert classes.runs[0][0] == 0
    assert classes.runs[-1][1] == 300

    def class_of(v: int) -> int:
        return next(number for first, last, number in classes.runs if first <= v <= last)

    for v in values:
        for intervals in made:
            inside = any(low <= v <= high for low, high in intervals)
            assert (class_of(v) in classes.members[intervals]) == inside
        if not any(low <= v <= high for intervals in made for low, high in intervals):
            assert class_of(v) == 0


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**16), st.sampled_from([0, 1, 3, 255, 256, 700]), st.integers(1, 5)), max_size=20
    )
)
def test_blocks_and_points_are_the_runs(spec: list[tuple[int, int, int]]) -> None:
    """Cutting addresses into blocks and exceptions loses nothing."""
    runs: list[tuple[int, int, int]] = []
    at = 0
    for gap, length, number in spec:
        runs.append((at + gap, at + gap + length, number))
        at += gap + length + 1
    cut = hashing.cut(runs)
    assert cut is not None
    for first, last, number in runs:
        for v in (first, last, (first + last) // 2):
            block = cut.blocks.get(v >> cut.bits, 0) if cut.bits else 0
            assert cut.points.get(v, block) == number
    rng = random.Random(len(spec))
    for _ in range(50):
        v = rng.randrange(at + 300)
        want = next((number for first, last, number in runs if first <= v <= last), 0)
        assert cut.points.get(v, cut.blocks.get(v >> cut.bits, 0) if cut.bits else 0) == want


def test_perfect_hash_finds_what_it_holds_and_nothing_else() -> None:
    rng = random.Random(3)
    for count in (1, 2, 3, 50, 700):
        entries = {rng.getrandbits(32): n % 500 for n in range(count)}
        table = hashing.build(entries)
        assert table is not None
        assert all(hashing.find(table, key) == number for key, number in entries.items())
        absent = [v for v in (rng.getrandbits(32) for _ in range(100)) if v not in entries]
        assert all(hashing.find(table, v) is None for v in absent)


@pytest.mark.parametrize(
    ("text", "only"),
    [
        ("tcp port 80", True),
        ("host 10.0.0.1 and udp", True),
        ("ip6 host 2001:db8::1 and tcp dst port 443", True),
        ("net 10.0.0.0/8 or net 2001:db8::/32", True),
        ("tcp portrange 1000-2000", True),
        ("ip", True),
        ("", True),
        ("arp", True),  # no frame of a flow is one
        ("vlan 30 and udp", True),  # nor has it a tag
        ("tcp[tcpflags] & tcp-syn != 0", False),
        ("len > 100", False),
        ("ip[8] < 5", False),
        ("ip[0] & 0xf != 5", False),
        ("ether host 02:00:00:00:00:01", False),
        ("ether multicast", False),
        ("ip[2:2] > ip[4:2]", False),
        ("ip6[7] < 2", False),
        ("udp[8:4] = 0", False),
        ("ip[6:2] & 0x4000 != 0", False),
    ],
)
def test_what_a_flow_key_decides(text: str, only: bool) -> None:
    assert uses_only_flow_key(compile_filter(text)) is only
