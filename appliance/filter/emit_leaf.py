# SPDX-License-Identifier: GPL-2.0-only
"""A leaf of a merged set as eBPF: classes of values, bit vectors, and the rules that are tested one by one.

Code generation only; `leaves` has made all decisions. BEST (the register of A) holds the best rank known. Branches
that depend on the traffic are kept few: a mispredicted one costs more than the look-ups.
"""

from __future__ import annotations

import struct
from array import array
from collections import Counter

from appliance.filter.asm import (
    ADD,
    AND,
    ARSH,
    JEQ,
    JGE,
    JGT,
    JLE,
    JLT,
    JNE,
    LSH,
    MUL,
    NEG,
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R10,
    RSH,
    SUB,
)
from appliance.filter.frame_reader import A, Access, X
from appliance.filter.graph import ACCEPT, REJECT, FieldKind, Graph
from appliance.filter.leaves import Cube, Plan
from appliance.filter.linkage import TABLES
from appliance.filter.lowered import DE_BRUIJN, Prepared
from appliance.filter.merge import BudgetError
from appliance.filter.tables import Classes, power_of_two

BEST = A
NONE = 0xFFFF  # rank of "no rule", in tables and in BEST
SUMMARY_WORDS = 4  # bit vectors of more words begin with a word that says which are not zero
MAX_WORDS = 64
LEAST_GROUP = 3  # cubes with fields of their own
WORD = 64
# stack, below what `frame_reader` uses
_ROWS = -136  # spilled row pointers, downward, MAX_TABLE_FIELDS of them
_CLASS_AT = -268  # classes of fields, 4 bytes each, downward, as many
BEST_AT = -344
OPAQUE_AT = -352  # words of the mask, downward, 4 of them


class LeafEmitter:
    """Appends leaves to a program: goes to `match` or `miss` where that is known, else to `out` with BEST, or to `tail`
    with BEST and the mask of rules to be run as a whole."""

    def __init__(self, access: Access, prepared: Prepared, *, match: int, miss: int) -> None:
        self.access, self.asm, self.prepared = access, access.asm, prepared
        self.graph: Graph = prepared.merged.graph
        self.match, self.miss = match, miss
        self.tail, self.out = self.asm.label(), self.asm.label()
        self.opaque_bits = {rank: bit for bit, rank in enumerate(prepared.opaque)}

    def load(self, number: int) -> None:
        """r0 = the field's value; its bounds hold."""
        asm, what = self.asm, self.graph.fields[number]
        if what.kind is FieldKind.LENGTH_VALUE:
            self.access.length(R0)
            return
        if what.kind is FieldKind.BEHIND_HEADER:
            # With the tag beside, what follows an untagged header is never asked for: its EtherType was.
            asm.load(what.size, R0, X, what.offset - self.access.shift)
            asm.big_endian(R0, what.size)
        else:
            self.access.near(R0, what.offset, what.size, self.miss)
        if what.mask != (1 << 8 * what.size) - 1:
            asm.alu_imm(AND, R0, what.mask)

    def leaf(self, leaf: Plan) -> None:
        asm = self.asm
        if leaf.singles or leaf.cubes:
            self._tables(leaf)
        else:
            asm.mov_imm(BEST, NONE if leaf.default is None else leaf.default)
        if not leaf.singles and not leaf.cubes and not leaf.straight and not leaf.opaque:
            asm.jump(self.match if leaf.default is not None else self.miss)
            return
        if leaf.straight:
            self._straight(leaf)
        if leaf.opaque:
            words = (len(self.opaque_bits) + WORD - 1) // WORD
            for word in range(words):
                mask = sum(
                    1 << self.opaque_bits[r] - word * WORD for r in leaf.opaque if self.opaque_bits[r] // WORD == word
                )
                asm.load_imm64(R0, mask)
                asm.store(8, R10, OPAQUE_AT - 8 * word, R0)
            asm.jump(self.tail)
        else:
            asm.jump(self.out)

    def _straight(self, leaf: Plan) -> None:
        """Rules in order, while no better one is known."""
        asm = self.asm
        done = asm.label()
        guarded = bool(leaf.singles or leaf.cubes)
        for rank, node in leaf.straight:
            if guarded:
                asm.jump_imm(JLT, BEST, rank, done)
            yes, no = asm.label(), asm.label()
            self._node(node, yes, no)
            asm.place(yes)
            asm.mov_imm(BEST, rank)
            asm.jump(done)
            asm.place(no)
        asm.place(done)

    def _node(self, root: int, yes: int, no: int) -> None:
        """The tests of one rule."""
        asm, graph = self.asm, self.graph
        order: list[int] = []
        seen: set[int] = set()
        stack = [root]
        while stack:
            node = stack.pop()
            if node in (ACCEPT, REJECT) or node in seen:
                continue
            seen.add(node)
            order.append(node)
            stack += [graph.no[node], graph.yes[node]]
        order.sort(reverse=True)  # parents have larger numbers than their children
        labels = {node: asm.label() for node in order} | {ACCEPT: yes, REJECT: no}
        if order and order[0] != root:
            asm.jump(labels[root])
        for at, node in enumerate(order):
            asm.place(labels[node])
            self.load(graph.field[node])
            self._interval(
                graph.low[node],
                graph.high[node],
                graph.fields[graph.field[node]].largest,
                yes=labels[graph.yes[node]],
                no=labels[graph.no[node]],
                following=labels[order[at + 1]] if at + 1 < len(order) else yes,
            )

    def _interval(self, low: int, high: int, largest: int, *, yes: int, no: int, following: int) -> None:
        """r0 in low..high? Goes to yes or no; `following` is the label of the next instruction."""
        asm = self.asm
        if low == high:
            test, inverse, value = JEQ, JNE, low
        elif low == 0:
            test, inverse, value = JLE, JGT, high
        elif high >= largest:
            test, inverse, value = JGE, JLT, low
        else:
            asm.alu_imm(SUB, R0, low)
            test, inverse, value = JLE, JGT, high - low
        if following == yes:
            asm.jump_imm(inverse, R0, value, no)
        else:
            asm.jump_imm(test, R0, value, yes)
            if following != no:
                asm.jump(no)

    def _load_bytes(self, number: int) -> bool:
        """r5 and r0 = upper and lower byte of the field's value, so that nothing has to be swapped and masked."""
        what = self.graph.fields[number]
        if (what.kind, what.size, what.mask) != (FieldKind.BEHIND_HEADER, 2, 0xFFFF):
            return False
        for register, at in ((R5, 0), (R0, 1)):
            self.asm.load(1, register, X, what.offset - self.access.shift + at)
        return True

    def _directly(self, leaf: Plan, number: int, default: int, *, first: bool) -> bool:
        """BEST as by `_class` and `_best_of`, by one look-up, where there is one; False if not."""
        if self.graph.fields[number].kind is FieldKind.LENGTH_VALUE:
            return False
        lookup = self.prepared.tables.lookups[number]
        ranks = _ranks(leaf, number, lookup.classes, default)
        how = lookup.direct(self.prepared.tables.image, ranks)
        if how is None or (how.by_bytes and not self._load_bytes(number)):
            return False
        if not how.by_bytes:
            self.load(number)
        how.emit(self.asm)
        if first:
            self.asm.mov(BEST, R0)
        else:
            self._better()
        return True

    def _class(self, leaf: Plan, number: int) -> None:
        """r0 = class of the field's value, as far as the leaf tells them apart."""
        asm, lookup, what = self.asm, self.prepared.tables.lookups[number], self.graph.fields[number]
        if lookup.by_bytes and self._load_bytes(number):
            lookup.emit_bytes(asm)
            return
        self.load(number)
        if what.kind is FieldKind.LENGTH_VALUE:
            fits = asm.label()
            asm.jump_imm(JLE, R0, 0xFFFF, fits)
            asm.mov_imm(R0, 0xFFFF)
            asm.place(fits)
        asked = [intervals for intervals, _ in leaf.singles.get(number, ())]
        asked += [intervals for _, cube in leaf.cubes for field, intervals in cube if field == number]
        lookup.emit(asm, [lookup.classes.members[intervals] for intervals in dict.fromkeys(asked)])

    def _tables(self, leaf: Plan) -> None:
        asm = self.asm
        groups = _groups(leaf.cubes)
        used = Counter(number for fields, _ in groups for number in fields)
        # asked for in several places: classes first; asked for in one group only: there, if it comes to that
        early = [n for n in {**leaf.singles, **used} if n in leaf.singles or used[n] > 1]
        slots = {number: _CLASS_AT - 4 * at for at, number in enumerate(used)}
        default = NONE if leaf.default is None else leaf.default
        if not leaf.singles:
            asm.mov_imm(BEST, default)
        first = True
        for number in early:
            if number not in used and self._directly(leaf, number, default, first=first):
                first = False
                continue
            self._class(leaf, number)
            if number in used:
                asm.store(4, R10, slots[number], R0)
            if number in leaf.singles:
                self._best_of(leaf, number, default, first=first)
                first = False
        for fields, cubes in groups:
            self._group(leaf, fields, cubes, slots, set(early))

    def _group(
        self,
        leaf: Plan,
        fields: tuple[int, ...],
        cubes: list[tuple[int, Cube]],
        slots: dict[int, int],
        early: set[int],
    ) -> None:
        """Bit vectors of cubes over (mostly) the same fields: BEST = the better of itself and the first that holds."""
        asm, image, prepared = self.asm, self.prepared.tables.image, self.prepared
        words = (len(cubes) + WORD - 1) // WORD
        if words > MAX_WORDS:
            raise BudgetError(f"bit vectors of more than {MAX_WORDS} words")
        summary = words > SUMMARY_WORDS
        stride = power_of_two((words + summary) * 8)
        skip = asm.label()
        rows: list[tuple[int, int, bool]] = []  # field, table, whether class 0 rules every cube out
        for number in fields:
            classes = prepared.classes(number)
            data, useless = _rows(cubes, number, classes, words, summary=summary, stride=stride)
            rows.append((number, image.add(data, classes.span * stride), useless))
        # known classes first, then the fields that tell most apart
        rows.sort(key=lambda row: (row[0] not in early, -prepared.classes(row[0]).count))
        for at, (number, _, useless) in enumerate(rows):
            if number in early:
                if at == 0 and useless and (words > 1 or len(early.intersection(fields)) < len(fields)):
                    asm.load(4, R0, R10, slots[number])
                    asm.jump_imm(JEQ, R0, 0, skip)
                continue
            self._class(leaf, number)
            if useless:
                asm.jump_imm(JEQ, R0, 0, skip)
            asm.store(4, R10, slots[number], R0)
        for at, (number, table, _) in enumerate(rows):
            asm.load(4, R0, R10, slots[number])
            asm.alu_imm(AND, R0, prepared.classes(number).span - 1)
            asm.alu_imm(LSH, R0, stride.bit_length() - 1)
            row = (R2, R3)[at] if at < 2 else R1
            asm.map_value(row, TABLES, table)
            asm.add(row, R0)
            if at >= 2:
                asm.store(8, R10, _ROWS - 8 * at, row)
        found = asm.label()
        if summary:
            self._and(len(rows), 0)
            asm.jump_imm64(JEQ, R0, 0, skip)
            asm.mov(R5, R0)
        for word in range(words):
            last = word + 1 == words
            following = skip if last else asm.label()
            if summary:
                asm.mov(R0, R5)
                asm.alu_imm(RSH, R0, word, wide=True)
                asm.alu_imm(AND, R0, 1)
                asm.jump_imm(JEQ, R0, 0, following)
            self._and(len(rows), (word + summary) * 8)
            asm.jump_imm64(JEQ, R0, 0, following)
            asm.mov_imm(R4, word * WORD * 2)
            if not last:
                asm.jump(found)
                asm.place(following)
        asm.place(found)
        self._first_bit(cubes, words)
        asm.place(skip)

    def _and(self, fields: int, offset: int) -> None:
        """r0 = AND of one word of all rows."""
        asm = self.asm
        asm.load(8, R0, R2, offset)
        for at in range(1, fields):
            if at == 1:
                asm.load(8, R1, R3, offset)
            else:
                asm.load(8, R1, R10, _ROWS - 8 * at)
                asm.load(8, R1, R1, offset)
            asm.alu(AND, R0, R1, wide=True)

    def _first_bit(self, cubes: list[tuple[int, Cube]], words: int) -> None:
        """BEST = the better of itself and the rank of the lowest bit in r0; r4 = the word's offset in the ranks."""
        asm, tables = self.asm, self.prepared.tables
        ranks = array("H", [rank for rank, _ in cubes])
        ranks.extend(array("H", (NONE,)) * (words * WORD - len(ranks)))
        asm.mov(R1, R0)
        asm.alu_imm(NEG, R1, 0, wide=True)
        asm.alu(AND, R0, R1, wide=True)
        asm.load_imm64(R1, DE_BRUIJN)
        asm.alu(MUL, R0, R1, wide=True)
        asm.alu_imm(RSH, R0, 58, wide=True)
        asm.map_value(R1, TABLES, tables.position_of_bit())
        asm.add(R1, R0)
        asm.load(1, R0, R1, 0)
        asm.alu_imm(AND, R0, WORD - 1)
        asm.alu_imm(LSH, R0, 1)
        asm.alu(ADD, R0, R4)
        asm.map_value(R1, TABLES, tables.image.add(ranks.tobytes(), len(ranks) * 2))
        asm.add(R1, R0)
        asm.load(2, R0, R1, 0)
        self._better()

    def _better(self) -> None:
        """BEST = min(BEST, r0), without a branch."""
        asm = self.asm
        asm.alu(SUB, R0, BEST, wide=True)
        asm.mov(R1, R0)
        asm.alu_imm(ARSH, R1, 63, wide=True)
        asm.alu(AND, R0, R1, wide=True)
        asm.alu(ADD, BEST, R0, wide=True)

    def _best_of(self, leaf: Plan, number: int, default: int, *, first: bool) -> None:
        """r0 = class of a field: BEST = the better of itself (`first`: of the default) and what the class says."""
        asm, classes = self.asm, self.prepared.classes(number)
        ranks = _ranks(leaf, number, classes, default)
        asm.alu_imm(LSH, R0, 1)
        asm.map_value(R1, TABLES, self.prepared.tables.image.add(ranks.tobytes(), classes.span * 2))
        asm.add(R1, R0)
        asm.load(2, BEST if first else R0, R1, 0)
        if not first:
            self._better()


def _ranks(leaf: Plan, number: int, classes: Classes, default: int) -> array[int]:
    """By class of a field, the rank of the first rule that asks for that field alone."""
    ranks = array("H", (default,)) * classes.count
    for intervals, rank in leaf.singles[number]:
        for member in classes.members[intervals]:
            ranks[member] = min(ranks[member], rank)
    return ranks


def _groups(cubes: list[tuple[int, Cube]]) -> list[tuple[tuple[int, ...], list[tuple[int, Cube]]]]:
    """Cubes by the fields they ask for; what is left of small groups is one group of all their fields."""
    groups: dict[tuple[int, ...], list[tuple[int, Cube]]] = {}
    for rank, cube in cubes:
        groups.setdefault(tuple(number for number, _ in cube), []).append((rank, cube))
    large = {fields: found for fields, found in groups.items() if len(found) >= LEAST_GROUP or len(groups) == 1}
    rest = [entry for fields, found in groups.items() if fields not in large for entry in found]
    result = list(large.items())
    if rest:
        fields = tuple(sorted({number for _, cube in rest for number, _ in cube}))
        result.append((fields, sorted(rest, key=lambda entry: entry[0])))
    return result


def _rows(
    cubes: list[tuple[int, Cube]], number: int, classes: Classes, words: int, *, summary: bool, stride: int
) -> tuple[bytes, bool]:
    """Bit vectors of a field's classes, and whether class 0 is in none of the cubes."""
    base = 0
    rows = [0] * classes.count
    for bit, (_, cube) in enumerate(cubes):
        for field_number, intervals in cube:
            if field_number == number:
                for member in classes.members[intervals]:
                    rows[member] |= 1 << bit
                break
        else:
            base |= 1 << bit
    packed = []
    for row in rows:
        data = (row | base).to_bytes(words * 8, "little")
        if summary:
            parts = struct.unpack(f"<{words}Q", data)
            data = sum(1 << at for at, part in enumerate(parts) if part).to_bytes(8, "little") + data
        packed.append(data.ljust(stride, b"\0"))
    return b"".join(packed), base == 0 and rows[0] == 0
