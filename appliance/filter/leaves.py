# SPDX-License-Identifier: GPL-2.0-only
"""What to do at a leaf: which rules become table entries, and which are tested one by one.

Pure. A rule's rest is written as cubes (each a set of allowed intervals for some fields; the rule holds when one of its
cubes does), without redundant conditions: in `a or b` the second cube does not include "not a", or n rules of the form
`port N` would need tables of n * n entries. Cubes of one field become "value -> lowest rank", cubes of several fields
become bit vectors by (field, class of value). Rules that test a field which hardly any other rule tests are tested one
by one, and so are all rules of a small leaf.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from appliance.filter.graph import ACCEPT, REJECT, Graph
from appliance.filter.merge import Leaf

STRAIGHT_RULES = 4  # a leaf with so few rules has no tables
RARE_RULES = 3  # a field that fewer rules test gets no table
MAX_CUBES = 256  # of one rule
MAX_TABLE_FIELDS = 16
MAX_IMPLIED = 200_000  # pairs of nodes compared for one graph

Intervals = tuple[tuple[int, int], ...]
Cube = tuple[tuple[int, Intervals], ...]  # by field number


@dataclass
class Plan:
    """A leaf, decided."""

    default: int | None = None  # rank of the rule that certainly matches, if no better one does
    singles: dict[int, list[tuple[Intervals, int]]] = field(default_factory=dict)  # field -> values, rank
    cubes: list[tuple[int, Cube]] = field(default_factory=list)  # rank and cube, several fields each, by rank
    straight: list[tuple[int, int]] = field(default_factory=list)  # rank and node
    opaque: list[int] = field(default_factory=list)  # ranks of rules to run as a whole
    header: int | None = None


class Cubes:
    """Cubes of nodes, remembered for one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._known: dict[int, tuple[Cube, ...] | None] = {REJECT: (), ACCEPT: ((),)}
        self._implied: dict[tuple[int, int], bool] = {}

    def of(self, root: int) -> tuple[Cube, ...] | None:
        """The node's cubes; None when there are more than MAX_CUBES."""
        known, graph = self._known, self.graph
        stack = [root]
        while stack:
            node = stack[-1]
            if node in known:
                stack.pop()
                continue
            missing = [child for child in (graph.yes[node], graph.no[node]) if child not in known]
            if missing:
                stack += missing
                continue
            stack.pop()
            known[node] = self._make(node)
        return known[root]

    def _make(self, node: int) -> tuple[Cube, ...] | None:
        graph = self.graph
        yes, no, number = graph.yes[node], graph.no[node], graph.field[node]
        if_yes, if_no = self._known[yes], self._known[no]
        if if_yes is None or if_no is None or len(if_yes) + len(if_no) > MAX_CUBES:
            return None
        inside = ((graph.low[node], graph.high[node]),)
        outside = _complement(inside[0], graph.fields[number].largest)
        result: dict[Cube, None] = {}
        for cube in if_yes:
            joined = cube if self.implies(yes, no) else _with(cube, number, inside)
            if joined is not None:
                result[joined] = None
        for cube in if_no:
            joined = cube if self.implies(no, yes) else _with(cube, number, outside)
            if joined is not None:
                result[joined] = None
        return _without_implied(tuple(result))

    def implies(self, node: int, other: int) -> bool:
        """Whether `other` certainly accepts what `node` accepts (False when that is not obvious).

        It does when it does so for both outcomes of `node`'s test, and when both outcomes of its own test do.
        """
        if node in (REJECT, other) or other == ACCEPT:
            return True
        if other == REJECT:
            return False
        key = (node, other)
        found = self._implied.get(key)
        if found is None:
            if len(self._implied) >= MAX_IMPLIED:
                return False
            self._implied[key] = False  # not reached again: children have smaller numbers
            yes, no = self.graph.yes, self.graph.no
            found = self._implied[key] = (
                node != ACCEPT and self.implies(no[node], other) and self.implies(yes[node], other)
            ) or (self.implies(node, no[other]) and self.implies(node, yes[other]))
        return found


def _complement(interval: tuple[int, int], largest: int) -> Intervals:
    low, high = interval
    below = ((0, low - 1),) if low else ()
    return (*below, (high + 1, largest)) if high < largest else below


def _intersect(one: Intervals, other: Intervals) -> Intervals:
    result = []
    for low, high in one:
        for other_low, other_high in other:
            if max(low, other_low) <= min(high, other_high):
                result.append((max(low, other_low), min(high, other_high)))
    return tuple(result)


def _with(cube: Cube, number: int, intervals: Intervals) -> Cube | None:
    """The cube with one more condition; None when it can not hold."""
    parts = dict(cube)
    both = _intersect(parts[number], intervals) if number in parts else intervals
    if not both:
        return None
    parts[number] = both
    return tuple(sorted(parts.items()))


def _within(cube: Cube, other: Cube) -> bool:
    """Whether all that `cube` allows is allowed by `other`."""
    mine = dict(cube)
    return all(
        number in mine and all(any(a <= low and high <= b for a, b in intervals) for low, high in mine[number])
        for number, intervals in other
    )


def _without_implied(cubes: tuple[Cube, ...]) -> tuple[Cube, ...]:
    """Without cubes that lie in one of fewer fields: `a or (b and not a)` is `a or b` after all."""
    return tuple(cube for cube in cubes if not any(len(other) < len(cube) and _within(cube, other) for other in cubes))


def plan(cubes: Cubes, leaf: Leaf) -> Plan:
    """Decide for every rule of the leaf."""
    graph = cubes.graph
    result = Plan(header=leaf.header)
    table: list[tuple[int, int, tuple[Cube, ...]]] = []
    for rank, node in leaf.rules:
        if node == ACCEPT:
            result.default = rank
        elif graph.opaque[node]:
            result.opaque.append(rank)
        else:
            found = cubes.of(node)
            if found is None:
                result.straight.append((rank, node))
            else:
                table.append((rank, node, found))
    while True:
        uses = Counter(number for _, _, found in table for number in {f for cube in found for f, _ in cube})
        rare = {number for number, count in uses.items() if count < RARE_RULES}
        if len(uses) - len(rare) > MAX_TABLE_FIELDS:
            rare |= {number for number, _ in uses.most_common()[MAX_TABLE_FIELDS:]}
        kept = [row for row in table if not any(f in rare for cube in row[2] for f, _ in cube)]
        if len(kept) == len(table):
            break
        table = kept
    if len(table) + len(result.straight) <= STRAIGHT_RULES:
        table = []
    tabled = {rank for rank, _, _ in table}
    skipped = {rank for rank, _ in result.straight} | set(result.opaque) | tabled
    result.straight += [(rank, node) for rank, node in leaf.rules if node != ACCEPT and rank not in skipped]
    result.straight.sort()
    for rank, _, found in table:
        for cube in found:
            if len(cube) == 1:
                number, intervals = cube[0]
                result.singles.setdefault(number, []).append((intervals, rank))
            else:
                result.cubes.append((rank, cube))
    return result
