# SPDX-License-Identifier: GPL-2.0-only
"""Groups: exact shares, and no flow moves unnecessarily."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.steering import groups
from appliance.steering.kernel.layout import BUCKETS

WEIGHTS = st.dictionaries(
    st.sampled_from(["a", "b", "c", "d", "ips1", "ips2", "dpi", "fw"]), st.integers(1, 100), min_size=1
)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ({"a": 50, "b": 50}, {"a": 512, "b": 512}),
        ({"a": 90, "b": 10}, {"a": 922, "b": 102}),
        ({"a": 1, "b": 1, "c": 1}, {"a": 342, "b": 341, "c": 341}),
        ({"a": 1_000_000, "b": 1}, {"a": 1024, "b": 0}),
    ],
)
def test_shares_are_the_weights(weights: dict[str, int], expected: dict[str, int]) -> None:
    """To one bucket."""
    table = groups.balance(list(weights.items()))
    first = Counter(order[0] for order in table)
    assert {name: first[name] for name in weights} == expected
    assert all(sorted(order) == sorted(weights) for order in table)


@settings(max_examples=20, deadline=None)
@given(weights=WEIGHTS)
def test_failure_moves_only_the_failed_members_flows(weights: dict[str, int]) -> None:
    """Whoever fails: other members keep every bucket, and the lost ones are shared among them by weight."""
    table = groups.balance(list(weights.items()))
    for failed in weights:
        others = {name: weight for name, weight in weights.items() if name != failed}
        if not others:
            continue
        moved: Counter[str] = Counter()
        for order in table:
            now = next(name for name in order if name != failed)
            if order[0] == failed:
                moved[now] += 1
            else:
                assert now == order[0]
        lost = sum(moved.values())
        for name, share in groups.shares(others, lost).items():
            assert abs(moved[name] - share) <= 1


@pytest.mark.parametrize("members", [2, 3, 4, 7])
def test_a_member_that_joins_or_leaves_for_good(members: int) -> None:
    """The table is computed anew: moved are the buckets that must (the member's share), and few more."""
    weights = [(f"ips{number}", 10) for number in range(members)]
    before = groups.balance(weights)
    after = groups.balance([*weights, ("fresh", 10)])
    moved = sum(old[0] != new[0] for old, new in zip(before, after, strict=True))
    least = BUCKETS // (members + 1)
    assert moved <= 1.35 * least, f"{moved} of {BUCKETS} buckets moved, the least is {least}"


def test_order_does_not_matter_and_nothing_is_random() -> None:
    """The table depends on names and weights only."""
    assert groups.balance([("a", 3), ("b", 5)]) == groups.balance([("b", 5), ("a", 3)])


def test_standby_and_packing() -> None:
    """Standby keeps the configured order; ids lie in the bytes of a word, the first lowest."""
    assert groups.standby(["b", "a"], 2) == [("b", "a"), ("b", "a")]
    assert groups.pack([3, 1, 127]) == 0x7F0103


@settings(max_examples=20, deadline=None)
@given(weights=WEIGHTS, spares=st.integers(1, 3))
def test_spares_share_what_failed(weights: dict[str, int], spares: int) -> None:
    """All others keep their buckets; every spare one gets as many of the lost ones, to a few, whoever fails."""
    names = [f"s{number}" for number in range(spares)]
    table = groups.with_spares(list(weights.items()), names)
    assert [order[0] for order in table] == [order[0] for order in groups.balance(list(weights.items()))]
    assert all(sorted(order) == sorted([*weights, *names]) for order in table)
    for failed in weights:
        lost = Counter(next(name for name in order if name != failed) for order in table if order[0] == failed)
        assert set(lost) <= set(names)
        share = sum(lost.values()) / spares
        assert all(abs(lost[name] - share) <= 8 + share / 2 for name in names)


def test_without_spares_nothing_changes() -> None:
    assert groups.with_spares([("a", 2), ("b", 1)], ()) == groups.balance([("a", 2), ("b", 1)])
