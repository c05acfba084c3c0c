# SPDX-License-Identifier: GPL-2.0-only
"""Everything that is offered at one moment, and the answers to questions about it (RFC 2741, 7.2.3). Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from appliance.snmp.agentx import Oid, Range, Row, Type, Value

MOST_ROWS: Final = 256
"""In one answer to GET_BULK; whoever wants more asks again."""


class Tree:
    """Objects by name, in the order of SNMP: number by number, the shorter name first.

    `kinds`: the names of the kinds of objects (of scalars and columns), without the instance behind them.
    """

    def __init__(self, objects: Mapping[Oid, Value], kinds: Iterable[Oid]) -> None:
        self._objects, self._kinds = dict(objects), frozenset(kinds)
        self._names = sorted(self._objects)

    def __len__(self) -> int:
        return len(self._names)

    def get(self, wanted: Range) -> Row:
        """GET: the object of this name."""
        name = wanted.start
        if name in self._objects:
            return Row(name, self._objects[name])
        there = any(name[:length] in self._kinds for length in range(1, len(name)))
        return Row(name, Value(Type.NO_SUCH_INSTANCE if there else Type.NO_SUCH_OBJECT))

    def next(self, wanted: Range) -> Row:
        """GET_NEXT: the first object of the range."""
        find = bisect_left if wanted.include else bisect_right
        at = find(self._names, wanted.start)
        if at < len(self._names) and (not wanted.end or self._names[at] < wanted.end):
            return Row(self._names[at], self._objects[self._names[at]])
        return Row(wanted.start, Value(Type.END))

    def bulk(self, once: int, repeated: int, wanted: Sequence[Range]) -> list[Row]:
        """GET_BULK: the first `once` ranges one step, the others up to `repeated` steps, row by row of a table."""
        found = [self.next(each) for each in wanted[:once]]
        others = list(wanted[once:])
        for _ in range(repeated):
            if not others or len(found) + len(others) > MOST_ROWS:
                break
            step = [self.next(each) for each in others]
            found += step
            if all(row.value.type is Type.END for row in step):
                break
            others = [Range(row.name, False, each.end) for row, each in zip(step, others, strict=True)]
        return found
