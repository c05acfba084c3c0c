# SPDX-License-Identifier: GPL-2.0-only
"""A merged set as eBPF: the states as compares and branches, the leaves as table look-ups.

Code generation only; what to do was decided by `merge` and `leaves`. Registers: CTX, DATA, END and X (packet pointer to
what follows the header) as in `access`; BEST (the register of A) holds the best rank known at a leaf.
"""

from __future__ import annotations

import struct
from array import array
from collections import Counter
from dataclasses import dataclass, field

from appliance.steering.pcap import translate
from appliance.steering.pcap.access import HEADER_BYTES, A, Access, X
from appliance.steering.pcap.asm import (
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
    R9,
    R10,
    RSH,
    SUB,
)
from appliance.steering.pcap.chain import needed
from appliance.steering.pcap.graph import ACCEPT, REJECT, FieldKind, Graph
from appliance.steering.pcap.leaves import Cube, Cubes, Plan, plan
from appliance.steering.pcap.linkage import TABLES
from appliance.steering.pcap.merge import BoundSplit, BudgetError, Leaf, Merged, ValueSplit
from appliance.steering.pcap.tables import Classes, Image, Lookup, classify, power_of_two

BEST = A
NONE = 0xFFFF  # rank of "no rule", in tables and in BEST
MAX_OPAQUE = 256  # rules of one graph that are run as a whole
SUMMARY_WORDS = 4  # bit vectors of more words begin with a word that says which are not zero
MAX_WORDS = 64
POPULAR = (0x800, 0x86DD, 6, 17)  # asked for first
_LINEAR_POINTS = 4
_WORD = 64
_DE_BRUIJN = 0x03F79D71B4CB0A89
LEAST_GROUP = 3  # cubes with fields of their own
# stack, below what `access` uses
_ROWS = -136  # spilled row pointers, downward, MAX_TABLE_FIELDS of them
_CLASS_AT = -268  # classes of fields, 4 bytes each, downward, as many
_BEST_AT = -344
_OPAQUE_AT = -352  # words of the mask, downward, 4 of them


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
                table[((_DE_BRUIJN << bit) & ((1 << 64) - 1)) >> 58] = bit
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


class Emitter:
    """Appends one merged set to a program: goes to `match` with the rank in BEST, or to `miss`."""

    def __init__(
        self, access: Access, prepared: Prepared, *, match: int, miss: int, pieces: int, either: int | None = None
    ) -> None:
        """`either`: where to go with a rank or NONE in BEST, when match and miss need not be told apart."""
        self.access, self.asm, self.prepared = access, access.asm, prepared
        self.graph: Graph = prepared.merged.graph
        self.match, self.miss, self.pieces, self.either = match, miss, pieces, either
        self.labels = [self.asm.label() for _ in prepared.merged.states]
        self.pending: list[int] = []
        self.queued: set[int] = set()
        self.opaque_bits = {rank: bit for bit, rank in enumerate(prepared.opaque)}
        self.tail = self.asm.label()
        self.out = self.asm.label()
        self.shorts: list[tuple[int, int]] = []  # XDP: (label, where a frame that is all in its first piece goes on)

    def emit(self) -> None:
        """All of it."""
        self._goto(0)
        while self.pending:
            number = self.pending.pop()
            state = self.prepared.merged.states[number]
            self.asm.place(self.labels[number])
            if isinstance(state, BoundSplit):
                self._bound(state)
            elif isinstance(state, ValueSplit):
                self._value(state)
            else:
                self._leaf(self.prepared.plans[number])
        if self.asm.wanted(self.tail):
            self._opaque_tail()
        if self.asm.wanted(self.out):
            self.asm.place(self.out)
            if self.either is not None:
                self.asm.jump(self.either)
            else:
                self.asm.jump_imm(JEQ, BEST, NONE, self.miss)
                self.asm.jump(self.match)
        self._emit_shorts()

    def _target(self, number: int) -> int:
        """Label of a state, queued for emission; states without rules are the common miss."""
        state = self.prepared.merged.states[number]
        if isinstance(state, Leaf) and not state.rules:
            return self.miss
        if number not in self.queued:
            self.queued.add(number)
            self.pending.append(number)
        return self.labels[number]

    def _goto(self, number: int) -> None:
        """Continue with the state: by falling into it where it comes next."""
        label = self._target(number)
        if self.pending and self.pending[-1] == number and not self.asm.placed(label):
            return
        if number in self.pending:
            self.pending.remove(number)
            self.pending.append(number)
            return
        self.asm.jump(label)

    # states

    def _bound(self, state: BoundSplit) -> None:
        asm = self.asm
        short = asm.label()
        need = state.need - self.access.shift
        if state.header is None:
            asm.mov(R1, R9)
            need = max(need, HEADER_BYTES) if self.access.shift else need
        else:
            self.access.header_length(R0, state.header, self.miss, near=True)
            asm.mov(X, R9)
            asm.add(X, R0)
            asm.mov(R1, X)
        asm.add_imm(R1, need)
        no = self._target(state.no)
        asm.jump_reg(JGT, R1, R5, no if self.access.kind == "tc" else short, wide=True)
        if self.access.kind == "xdp":
            self.shorts.append((short, no))
        self._goto(state.yes)

    def _emit_shorts(self) -> None:
        """The checks whether a short first piece is the whole frame; XDP only, out of the way."""
        asm = self.asm
        for short, no in self.shorts:
            asm.place(short)
            self.access.one_piece_or(self.pieces)
            asm.jump(no)

    def _load(self, number: int) -> None:
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

    def _value(self, state: ValueSplit) -> None:
        self._load(state.field)
        largest = self.graph.fields[state.field].largest
        runs: list[tuple[int, int, int]] = []
        for at, start in enumerate(state.starts):
            end = state.starts[at + 1] - 1 if at + 1 < len(state.starts) else largest
            if runs and runs[-1][2] == state.targets[at]:
                runs[-1] = (runs[-1][0], end, runs[-1][2])
            else:
                runs.append((start, end, state.targets[at]))
        self._branch(runs)

    def _branch(self, runs: list[tuple[int, int, int]]) -> None:
        """Go to the state of the run that r0 lies in: points one by one when few, else by halving."""
        asm = self.asm
        if len(runs) == 1:
            self._goto(runs[0][2])
            return
        spans: dict[int, int] = {}
        for low, high, target in runs:
            spans[target] = spans.get(target, 0) + high - low + 1
        other = max(spans, key=lambda target: spans[target])
        points = [run for run in runs if run[2] != other]
        if len(points) <= _LINEAR_POINTS and all(low == high for low, high, _ in points):
            points.sort(key=lambda run: POPULAR.index(run[0]) if run[0] in POPULAR else len(POPULAR))
            for low, _, target in points:
                asm.jump_imm(JEQ, R0, low, self._target(target))
            self._goto(other)
            return
        popular = [run for run in points if run[0] == run[1] and run[0] in POPULAR]
        if popular and len(runs) > 3:
            low, _, target = min(popular, key=lambda run: POPULAR.index(run[0]))
            asm.jump_imm(JEQ, R0, low, self._target(target))
            self._branch(_without(runs, low))
            return
        middle = len(runs) // 2
        upper = asm.label()
        asm.jump_imm(JGE, R0, runs[middle][0], upper)
        self._branch_closed(runs[:middle])
        asm.place(upper)
        self._branch(runs[middle:])

    def _branch_closed(self, runs: list[tuple[int, int, int]]) -> None:
        """Like `_branch`, with a jump at every end (more code follows)."""
        asm = self.asm
        if len(runs) == 1:
            asm.jump(self._target(runs[0][2]))
            return
        middle = len(runs) // 2
        upper = asm.label()
        asm.jump_imm(JGE, R0, runs[middle][0], upper)
        self._branch_closed(runs[:middle])
        asm.place(upper)
        self._branch_closed(runs[middle:])

    # leaves

    def _leaf(self, leaf: Plan) -> None:
        asm = self.asm
        asm.mov_imm(BEST, NONE if leaf.default is None else leaf.default)
        if not leaf.singles and not leaf.cubes and not leaf.straight and not leaf.opaque:
            asm.jump(self.match if leaf.default is not None else self.miss)
            return
        if leaf.singles or leaf.cubes:
            self._tables(leaf)
        if leaf.straight:
            self._straight(leaf)
        if leaf.opaque:
            words = (len(self.opaque_bits) + _WORD - 1) // _WORD
            for word in range(words):
                mask = sum(
                    1 << self.opaque_bits[r] - word * _WORD for r in leaf.opaque if self.opaque_bits[r] // _WORD == word
                )
                asm.load_imm64(R0, mask)
                asm.store(8, R10, _OPAQUE_AT - 8 * word, R0)
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
            self._load(graph.field[node])
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

    def _class(self, number: int) -> None:
        """r0 = class of the field's value."""
        asm, lookup = self.asm, self.prepared.tables.lookups[number]
        self._load(number)
        if self.graph.fields[number].kind is FieldKind.LENGTH_VALUE:
            fits = asm.label()
            asm.jump_imm(JLE, R0, 0xFFFF, fits)
            asm.mov_imm(R0, 0xFFFF)
            asm.place(fits)
        lookup.emit(asm)

    def _tables(self, leaf: Plan) -> None:
        asm = self.asm
        groups = _groups(leaf.cubes)
        used = Counter(number for fields, _ in groups for number in fields)
        # asked for in several places: classes first; asked for in one group only: there, if it comes to that
        early = [n for n in {**leaf.singles, **used} if n in leaf.singles or used[n] > 1]
        slots = {number: _CLASS_AT - 4 * at for at, number in enumerate(used)}
        for number in early:
            self._class(number)
            if number in used:
                asm.store(4, R10, slots[number], R0)
            if number in leaf.singles:
                self._best_of(leaf, number)
        for fields, cubes in groups:
            self._group(fields, cubes, slots, set(early))

    def _group(
        self, fields: tuple[int, ...], cubes: list[tuple[int, Cube]], slots: dict[int, int], early: set[int]
    ) -> None:
        """Bit vectors of cubes over (mostly) the same fields: BEST = the better of itself and the first that holds."""
        asm, image, prepared = self.asm, self.prepared.tables.image, self.prepared
        words = (len(cubes) + _WORD - 1) // _WORD
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
            self._class(number)
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
            asm.mov_imm(R4, word * _WORD * 2)
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
        ranks.extend(array("H", (NONE,)) * (words * _WORD - len(ranks)))
        asm.mov(R1, R0)
        asm.alu_imm(NEG, R1, 0, wide=True)
        asm.alu(AND, R0, R1, wide=True)
        asm.load_imm64(R1, _DE_BRUIJN)
        asm.alu(MUL, R0, R1, wide=True)
        asm.alu_imm(RSH, R0, 58, wide=True)
        asm.map_value(R1, TABLES, tables.position_of_bit())
        asm.add(R1, R0)
        asm.load(1, R0, R1, 0)
        asm.alu_imm(AND, R0, _WORD - 1)
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

    def _best_of(self, leaf: Plan, number: int) -> None:
        """r0 = class of a field: BEST = the better of itself and what the class alone says."""
        asm, classes = self.asm, self.prepared.classes(number)
        ranks = array("H", (NONE,)) * classes.count
        for intervals, rank in leaf.singles[number]:
            for member in classes.members[intervals]:
                ranks[member] = min(ranks[member], rank)
        asm.alu_imm(LSH, R0, 1)
        asm.map_value(R1, TABLES, self.prepared.tables.image.add(ranks.tobytes(), classes.span * 2))
        asm.add(R1, R0)
        asm.load(2, R0, R1, 0)
        self._better()

    def _opaque_tail(self) -> None:
        """Rules to be run as a whole, those of the leaf's mask, while no better one is known."""
        asm, access, filters = self.asm, self.access, self.prepared.merged.filters
        asm.place(self.tail)
        asm.store(8, R10, _BEST_AT, BEST)
        access.reload_end()
        if access.kind == "xdp":
            access.whole_or(needed([(rank, filters[rank]) for rank in self.prepared.opaque]), self.pieces)
        done = asm.label()
        for rank, bit in self.opaque_bits.items():
            accept, following = asm.label(), asm.label()
            asm.load(4, R0, R10, _BEST_AT)
            asm.jump_imm(JLT, R0, rank, done)
            word, rest = divmod(bit, _WORD)
            asm.load(4, R0, R10, _OPAQUE_AT - 8 * word + rest // 32 * 4)
            asm.alu_imm(AND, R0, 1 << rest % 32)
            asm.jump_imm(JEQ, R0, 0, following)
            translate.emit(access, filters[rank], accept, following)
            asm.place(accept)
            asm.mov_imm(BEST, rank)
            asm.jump(self.match)
            asm.place(following)
        asm.place(done)
        asm.load(4, BEST, R10, _BEST_AT)
        asm.jump(self.out)


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


def _without(runs: list[tuple[int, int, int]], point: int) -> list[tuple[int, int, int]]:
    """The runs when the value is known not to be `point`, a run of its own."""
    result: list[tuple[int, int, int]] = []
    start = runs[0][0]
    for low, high, target in runs:
        if low == high == point:
            continue
        if result and result[-1][2] == target:
            result[-1] = (result[-1][0], high, target)
        else:
            result.append((result[-1][1] + 1 if result else start, high, target))
    return result
