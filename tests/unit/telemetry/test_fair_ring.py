# SPDX-License-Identifier: GPL-2.0-only
"""Lists in which everybody has a share: the bound holds, order is kept, and who has little keeps all of it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.telemetry.fair_ring import FairRing, fair, share

Item = tuple[str, int, int]  # source, number, weight
ITEMS = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 5))).map(
    lambda pairs: [(source, number, weight) for number, (source, weight) in enumerate(pairs)]
)


def source(item: Item) -> str:
    return item[0]


def weight(item: Item) -> int:
    return item[2]


@pytest.mark.parametrize(
    ("weights", "room", "most"), [([5, 5], 10, 10), ([100, 2], 10, 8), ([9, 9, 9], 9, 3), ([], 7, 7), ([100], 7, 7)]
)
def test_share(weights: list[int], room: int, most: float) -> None:
    assert share(weights, room) == most


@given(ITEMS, st.integers(5, 40))
def test_a_long_list_is_cut_fairly(items: list[Item], room: int) -> None:
    kept = fair(items, room, source, weight)
    assert sum(map(weight, kept)) <= room
    assert kept == [item for item in items if item in kept], "in order, each once"
    for name in "abcd":
        mine = [item for item in items if source(item) == name]
        left = [item for item in kept if source(item) == name]
        assert left == mine[len(mine) - len(left) :], "the newest"
        if sum(map(weight, mine)) <= room / 4:
            assert left == mine


@given(ITEMS, st.integers(5, 40))
def test_so_is_a_ring(items: list[Item], room: int) -> None:
    ring = FairRing(room, source, weight, items)
    kept = ring.items()
    assert sum(map(weight, kept)) <= room
    assert (len(ring), kept) == (len(kept), [item for item in items if item in kept])
    totals = Counter[str]()
    for item in items:
        totals[source(item)] += weight(item)
    for name, total in totals.items():
        if total <= room / 4 - 5:
            assert [item for item in kept if source(item) == name] == [item for item in items if source(item) == name]
    assert ring.take() == kept
    assert (len(ring), ring.items()) == (0, [])
