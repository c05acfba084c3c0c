# SPDX-License-Identifier: GPL-2.0-only
"""Decision graphs: what filters test, hash-consed so that equal parts share a node.

A node asks whether a field's value lies in an interval and goes on to one of two nodes; node 0 rejects, node 1 accepts.
Children are made before parents, so their numbers are smaller. A `Graph` grows while filters are added; it is owned by
`merge`, which discards it when it gets too big. Not thread-safe: the owner holds a lock.

Fields of the kinds LENGTH and HEADER_LENGTH are the bounds that loads state ("the frame has at least n bytes", "n bytes
follow a header of variable length"); the others are bytes of the frame under a mask, or the length used as a number.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

REJECT, ACCEPT = 0, 1
INFINITY = 1 << 32
OPAQUE_FIELD = -1


class FieldKind(enum.Enum):
    """The kinds of fields; see the module."""

    LENGTH = "length bound"
    HEADER_LENGTH = "length bound behind a header"
    FIXED = "bytes"
    BEHIND_HEADER = "bytes behind a header"
    LENGTH_VALUE = "len"


@dataclass(frozen=True)
class Field:
    """Something a filter tests. `header`: offset of the byte whose low half is the header's length in words."""

    kind: FieldKind
    offset: int = 0
    size: int = 0
    mask: int = 0
    header: int = 0

    @property
    def largest(self) -> int:
        """The largest value it may have."""
        return self.mask if self.kind in (FieldKind.FIXED, FieldKind.BEHIND_HEADER) else INFINITY - 1

    def __str__(self) -> str:
        if self.kind is FieldKind.LENGTH_VALUE:
            return "len"
        where = f"x({self.header})+{self.offset}" if self.kind is FieldKind.BEHIND_HEADER else str(self.offset)
        mask = "" if self.mask == (1 << 8 * self.size) - 1 else f"&{self.mask:#x}"
        return f"[{where}:{self.size}]{mask}"


LENGTH = 0  # number of the field LENGTH


class Graph:
    """Nodes and fields by number, as parallel lists (this is the inner loop of generation)."""

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self._field_numbers: dict[Field, int] = {}
        self.field: list[int] = [OPAQUE_FIELD, OPAQUE_FIELD]
        self.low: list[int] = [0, 0]
        self.high: list[int] = [0, 0]
        self.yes: list[int] = [0, 1]
        self.no: list[int] = [0, 1]
        self.mask: list[int] = [0, 0]  # fields tested at or below the node, as bits
        self.opaque: list[bool] = [False, False]  # an opaque end can be reached
        self._numbers: dict[tuple[int, int, int, int, int], int] = {}
        self._cuts: dict[int, dict[int, frozenset[int]]] = {}
        self._restricted: dict[tuple[int, int, int], dict[int, int]] = {}
        self._profiles: dict[int, dict[int, tuple[tuple[int, ...], tuple[int, ...]]]] = {}
        assert self.number(Field(FieldKind.LENGTH)) == LENGTH

    def __len__(self) -> int:
        return len(self.field)

    def number(self, field: Field) -> int:
        """The number of a field."""
        found = self._field_numbers.get(field)
        if found is None:
            found = self._field_numbers[field] = len(self.fields)
            self.fields.append(field)
        return found

    def find(self, field: Field) -> int | None:
        """The number of a field, if any filter tests it."""
        return self._field_numbers.get(field)

    def node(self, field: int, low: int, high: int, yes: int, no: int) -> int:
        """The node that asks whether low <= field <= high."""
        if yes == no:
            return yes
        largest = self.fields[field].largest
        high = min(high, largest)
        if low > high:
            return no
        if low == 0:
            if high == largest:
                return yes
            if high > 0:
                low, high, yes, no = high + 1, largest, no, yes
        if low == 1 and high == largest:
            low, high, yes, no = 0, 0, no, yes
        key = (field, low, high, yes, no)
        found = self._numbers.get(key)
        if found is None:
            found = self._append(key)
            self.mask.append(1 << field | self.mask[yes] | self.mask[no])
            self.opaque.append(self.opaque[yes] or self.opaque[no])
        return found

    def opaque_end(self, identity: int) -> int:
        """An end that means: run this filter as a whole."""
        key = (OPAQUE_FIELD, identity, identity, 0, 0)
        found = self._numbers.get(key)
        if found is None:
            found = self._append(key)
            self.mask.append(0)
            self.opaque.append(True)
        return found

    def _append(self, key: tuple[int, int, int, int, int]) -> int:
        found = self._numbers[key] = len(self.field)
        self.field.append(key[0])
        self.low.append(key[1])
        self.high.append(key[2])
        self.yes.append(key[3])
        self.no.append(key[4])
        return found

    def cuts(self, root: int, field: int) -> frozenset[int]:
        """Values of the field where some test at or below the node changes its answer (0 left out)."""
        memo = self._cuts.setdefault(field, {})
        found = memo.get(root)
        if found is not None:
            return found
        stack = [root]
        while stack:
            node = stack[-1]
            if node in memo:
                stack.pop()
                continue
            if not self.mask[node] >> field & 1:
                memo[node] = frozenset()
                stack.pop()
                continue
            yes, no = self.yes[node], self.no[node]
            missing = [child for child in (yes, no) if child not in memo]
            if missing:
                stack += missing
                continue
            stack.pop()
            result = memo[yes] | memo[no]
            if self.field[node] == field:
                result |= {self.low[node], self.high[node] + 1} - {0, self.fields[field].largest + 1}
            memo[node] = result
        return memo[root]

    def restrict(self, root: int, field: int, low: int, high: int) -> int:
        """The graph under the assumption low <= field <= high."""
        memo = self._restricted.setdefault((field, low, high), {})
        found = memo.get(root)
        if found is not None:
            return found
        masks, fields, lows, highs, yeses, noes = self.mask, self.field, self.low, self.high, self.yes, self.no
        stack = [root]
        while stack:
            node = stack[-1]
            if node in memo:
                stack.pop()
                continue
            if not masks[node] >> field & 1:
                memo[node] = node
                stack.pop()
                continue
            yes, no = yeses[node], noes[node]
            if fields[node] == field:
                if lows[node] <= low and high <= highs[node]:
                    no = yes
                elif high < lows[node] or low > highs[node]:
                    yes = no
            new_yes, new_no = memo.get(yes), memo.get(no)
            if new_yes is None or new_no is None:
                if new_yes is None:
                    stack.append(yes)
                if new_no is None:
                    stack.append(no)
                continue
            stack.pop()
            if new_yes == new_no:
                memo[node] = new_yes
            else:
                memo[node] = self.node(fields[node], lows[node], highs[node], new_yes, new_no)
        return memo[root]

    def profile(self, root: int, field: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Where the field's classes begin for this node, and what the node becomes in each of them."""
        memo = self._profiles.setdefault(field, {})
        found = memo.get(root)
        if found is None:
            starts = (0, *sorted(self.cuts(root, field)))
            ends = (*[s - 1 for s in starts[1:]], self.fields[field].largest)
            found = memo[root] = (
                starts,
                tuple([self.restrict(root, field, low, high) for low, high in zip(starts, ends, strict=True)]),
            )
        return found
