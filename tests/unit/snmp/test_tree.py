# SPDX-License-Identifier: GPL-2.0-only
"""The order of names, and the answers to GET, GET_NEXT and GET_BULK."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.snmp import agentx
from appliance.snmp.agentx import Oid, Range, Type
from appliance.snmp.tree import MOST_ROWS, Tree

NAMES = st.sets(st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple), min_size=1, max_size=30)


def made(names: set[Oid]) -> Tree:
    return Tree(
        {name: agentx.integer(number) for number, name in enumerate(sorted(names))}, {name[:-1] for name in names}
    )


@settings(max_examples=100, deadline=None)
@given(NAMES)
def test_a_walk_meets_every_object_once_and_in_order(names: set[Oid]) -> None:
    tree, met, at = made(names), list[Oid](), Range((), False, ())
    while (row := tree.next(at)).value.type is not Type.END:
        met.append(row.name)
        at = Range(row.name, False, ())
    assert met == sorted(names)


@settings(max_examples=100, deadline=None)
@given(NAMES, st.lists(st.integers(0, 5), max_size=4).map(tuple), st.lists(st.integers(0, 5), max_size=4).map(tuple))
def test_the_next_one_is_the_least_in_its_range(names: set[Oid], start: Oid, end: Oid) -> None:
    for include in (False, True):
        row = made(names).next(Range(start, include, end))
        fits = [name for name in names if (name > start or (include and name == start)) and (not end or name < end)]
        if fits:
            assert (row.name, row.value.type) == (min(fits), Type.INTEGER)
        else:
            assert (row.name, row.value.type) == (start, Type.END)


def test_get_tells_a_missing_instance_from_an_unknown_object() -> None:
    tree = Tree({(1, 1, 5): agentx.integer(7)}, {(1, 1), (1, 2)})
    assert tree.get(Range((1, 1, 5), False, ())).value == agentx.integer(7)
    assert tree.get(Range((1, 1, 6), False, ())).value.type is Type.NO_SUCH_INSTANCE
    assert tree.get(Range((1, 2, 5), False, ())).value.type is Type.NO_SUCH_INSTANCE, "a column without rows"
    assert tree.get(Range((1, 3, 5), False, ())).value.type is Type.NO_SUCH_OBJECT


def test_bulk_goes_row_by_row_and_ends() -> None:
    tree = made({(1, 1), (1, 2), (2, 1), (2, 2)})
    asked = [Range((0,), False, ()), Range((1,), False, (2,)), Range((2,), False, ())]
    found = tree.bulk(1, 10, asked)
    assert [row.name for row in found] == [(1, 1), (1, 1), (2, 1), (1, 2), (2, 2), (1, 2), (2, 2)]
    assert [row.value.type for row in found[-2:]] == [Type.END, Type.END]
    assert len(made({(n,) for n in range(1000)}).bulk(0, 65535, [Range((), False, ())])) == MOST_ROWS
