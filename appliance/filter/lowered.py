# SPDX-License-Identifier: GPL-2.0-only
"""A merged set with all leaves decided and all tables built: the input of code generation.

Pure. Code for XDP and for tc, with the VLAN tag in the frame or beside it, comes from the same prepared set.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from appliance.filter.graph import FieldKind
from appliance.filter.leaves import Cubes, Plan, plan
from appliance.filter.merge import BudgetError, Leaf, Merged
from appliance.filter.tables import Classes, Image, Lookup, classify

MAX_OPAQUE = 256  # rules of one graph that are run as a whole
DE_BRUIJN = 0x03F79D71B4CB0A89  # times a power of two: its upper 6 bits say which power


@dataclass
class Tables:
    """Everything in the map, for one merged set."""

    image: Image
    lookups: dict[int, Lookup] = field(default_factory=dict)
    bits: int | None = None

    def position_of_bit(self) -> int:
        """Offset of the de Bruijn table: index of the only bit set."""
        if self.bits is None:
            table = bytearray(64)
            for bit in range(64):
                table[((DE_BRUIJN << bit) & ((1 << 64) - 1)) >> 58] = bit
            self.bits = self.image.add(bytes(table), 64)
        return self.bits


class Prepared:
    """A merged set with its leaves decided and its tables made; code for XDP and for tc comes from the same one."""

    def __init__(self, merged: Merged, image: Image) -> None:
        self.merged = merged
        self.tables = Tables(image)
        cubes = Cubes(merged.graph)
        self.plans: dict[int, Plan] = {
            number: plan(cubes, state) for number, state in enumerate(merged.states) if isinstance(state, Leaf)
        }
        self.opaque = sorted({rank for leaf in self.plans.values() for rank in leaf.opaque})
        if len(self.opaque) > MAX_OPAQUE:
            raise BudgetError(f"{len(self.opaque)} rules to run as a whole, more than {MAX_OPAQUE}")
        self._make_lookups()

    def _make_lookups(self) -> None:
        sets: dict[int, list[tuple[tuple[int, int], ...]]] = {}
        for leaf in self.plans.values():
            for number, entries in leaf.singles.items():
                sets.setdefault(number, []).extend(intervals for intervals, _ in entries)
            for _, cube in leaf.cubes:
                for number, intervals in cube:
                    sets.setdefault(number, []).append(intervals)
        for number, found in sets.items():
            what = self.merged.graph.fields[number]
            # `symbolic` sees to it that no rule tells lengths beyond apart
            largest = 0xFFFF if what.kind is FieldKind.LENGTH_VALUE else what.largest
            clipped = {s: tuple((low, min(high, largest)) for low, high in s) for s in dict.fromkeys(found)}
            classes = classify(clipped.values(), largest)
            classes.members = {s: classes.members[c] for s, c in clipped.items()}
            self.tables.lookups[number] = Lookup(self.tables.image, classes, largest)

    def classes(self, number: int) -> Classes:
        """The classes of a field."""
        return self.tables.lookups[number].classes
