# SPDX-License-Identifier: GPL-2.0-only
"""Tables of a merged program: from a field's value to its class, with the code of the look-up.

Owns the contents of one read-only array map while it is built. All leaves share a field's classes: two values are in
the same class when no rule distinguishes them; class 0 holds the values that no rule names. 8 and 12 bits: one flat
table; 16 bits: flat, or 8 + 8 bits where pages repeat; 32 bits: perfect hashes of points and blocks, or a trie of
16 + 8 + 8 bits. No look-up branches on the value: a branch that the traffic makes unpredictable costs more than all the
loads.

The verifier requires every index to be bounded: class numbers are masked to the next power of two, and the contents end
with enough padding for the largest masked index of every table.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from appliance.filter import hashing
from appliance.filter.asm import ADD, AND, LSH, MUL, R0, R1, R2, R3, R4, R5, RSH, XOR, Assembler
from appliance.filter.hashing import Blocks, PerfectHash
from appliance.filter.leaves import Intervals
from appliance.filter.linkage import TABLES

MAX_BYTES = 8 << 20
FLAT_VALUES = 4096
FLAT_PAGES = 96  # of 256: with more different pages than these, one flat table is as small
MAX_NODES = 0xFFFF  # of one trie
DIRECT_VALUES = (
    4096  # entries of two bytes in a table of ranks: what is used of it stays in the processor's first cache
)
_NODE_BYTES = 512
_KINDS = {1: "B", 2: "H"}  # of arrays, by width


class TableError(Exception):
    """The tables would be too big; the text says in what way."""


def power_of_two(count: int) -> int:
    """The smallest power of two that is at least `count`."""
    return 1 << max(count - 1, 0).bit_length()


class Image:
    """The bytes of the map."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._end = 0
        self._known: dict[bytes, int] = {}

    def add(self, data: bytes, reach: int) -> int:
        """Offset of the bytes; `reach` is how many bytes from there the code may index. Equal tables are one."""
        found = self._known.get(data)
        if found is None:
            self.data += bytes(-len(self.data) % 8)
            found = self._known[data] = len(self.data)
            self.data += data
        self._end = max(self._end, found + reach)
        if max(self._end, len(self.data)) > MAX_BYTES:
            raise TableError(f"tables of more than {MAX_BYTES} bytes")
        return found

    def finish(self) -> bytes:
        """The value of the map."""
        return bytes(self.data.ljust(self._end, b"\0"))


@dataclass
class Classes:
    """A field's values cut into classes. `runs`: (first, last, class) over all values, in order."""

    runs: list[tuple[int, int, int]]
    members: dict[Intervals, list[int]]  # classes that lie in each set of intervals
    count: int

    @property
    def span(self) -> int:
        """What class numbers are masked to, plus one."""
        return power_of_two(self.count)


def classify(sets: Iterable[Intervals], largest: int) -> Classes:
    """Cut 0..largest so that each of the sets is a union of classes."""
    distinct = list(dict.fromkeys(sets))
    toggles: dict[int, int] = {}
    for number, intervals in enumerate(distinct):
        for low, high in intervals:
            toggles[low] = toggles.get(low, 0) ^ 1 << number
            toggles[high + 1] = toggles.get(high + 1, 0) ^ 1 << number
    runs: list[tuple[int, int, int]] = []
    numbers: dict[int, int] = {0: 0}
    start = signature = 0
    for cut in sorted(toggles):
        if cut > start:
            runs.append((start, cut - 1, numbers.setdefault(signature, len(numbers))))
            start = cut
        signature ^= toggles[cut]
    if start <= largest:
        runs.append((start, largest, numbers.setdefault(signature, len(numbers))))
    members: dict[Intervals, list[int]] = {intervals: [] for intervals in distinct}
    for signature, number in numbers.items():
        rest = signature
        while rest:
            lowest = rest & -rest
            members[distinct[lowest.bit_length() - 1]].append(number)
            rest ^= lowest
    return Classes(runs, members, len(numbers))


def _fill(runs: Iterable[tuple[int, int, int]], size: int, kind: str) -> array[int]:
    result = array(kind)
    for first, last, number in runs:
        result.extend(array(kind, (number,)) * (last - first + 1))
    assert len(result) == size
    return result


class Lookup:
    """Value in r0 -> class in r0 (masked). Uses r1 to r5."""

    def __init__(self, image: Image, classes: Classes, largest: int) -> None:
        self.classes = classes
        self.how: _Flat | _Pages | _Point | _Hash | _Trie
        named = [run for run in classes.runs if run[2]]
        if len(named) == 1 and named[0][0] == named[0][1]:
            self.how = _Point(named[0][0])
        elif largest < 1 << 16:
            values = power_of_two(largest + 1)
            runs = [*classes.runs, (largest + 1, values - 1, 0)] if values > largest + 1 else classes.runs
            width = 1 if classes.count <= 256 else 2
            flat = _fill(runs, values, "B" if width == 1 else "H").tobytes()
            pages: dict[bytes, int] = {}
            if values > FLAT_VALUES:
                size = 256 * width
                numbers = [pages.setdefault(flat[at : at + size], len(pages)) for at in range(0, len(flat), size)]
            self.how = (
                _Pages(image, numbers, list(pages), width)
                if 0 < len(pages) <= FLAT_PAGES
                else _Flat(image, flat, values, width)
            )
        else:
            blocks = hashing.cut(classes.runs)
            tables = (
                None if blocks is None else [hashing.build(e) if e else None for e in (blocks.blocks, blocks.points)]
            )
            if (
                blocks is None
                or tables is None
                or any(t is None and e for t, e in zip(tables, (blocks.blocks, blocks.points), strict=True))
            ):
                self.how = _Trie(image, classes)
            else:
                self.how = _Hash(image, blocks, tables[0], tables[1])

    def emit(self, asm: Assembler, told: Iterable[Iterable[int]]) -> None:
        """Append the code. `told`: the sets of classes that whoever asks tells apart; what it does not may be taken for
        another class of which it would say the same."""
        if isinstance(self.how, _Hash):
            says = [0] * self.classes.count
            for number, members in enumerate(told):
                for member in members:
                    says[member] |= 1 << number
            self.how.emit(asm, says)
        else:
            self.how.emit(asm)
        asm.alu_imm(AND, R0, self.classes.span - 1)

    def direct(self, image: Image, ranks: array[int]) -> Direct | None:
        """The look-up that answers with `ranks` of the class instead of the class: a load less, for larger tables.

        None where it would be no shorter, or its tables would not stay in the processor's cache.
        """
        return self.how.direct(image, ranks)

    @property
    def by_bytes(self) -> bool:
        """Whether it asks for the value's bytes one by one: `emit_bytes` is shorter where they can be loaded so."""
        return isinstance(self.how, _Pages)

    def emit_bytes(self, asm: Assembler) -> None:
        """The same for a value of 16 bits whose upper byte is in r5, and its lower one in r0."""
        assert isinstance(self.how, _Pages)
        self.how.emit_bytes(asm)
        asm.alu_imm(AND, R0, self.classes.span - 1)


class Direct(Protocol):
    """Value in r0 -> rank in r0. `by_bytes`: of a value in r5 and r0, as `Lookup.emit_bytes`."""

    by_bytes: bool

    def emit(self, asm: Assembler) -> None:
        """Append the code; uses r1 to r5."""


def _ranked(table: bytes, kind: str, ranks: array[int]) -> bytes:
    """A table of classes as one of ranks."""
    return array("H", [ranks[number] for number in array(kind, table)]).tobytes()


def _indexed(asm: Assembler, dst: int, offset: int, index: int, width: int) -> None:
    """dst = entry `index` (a register, lost) of the table at `offset`; uses r1."""
    if width > 1:
        asm.alu_imm(LSH, index, width.bit_length() - 1)
    asm.map_value(R1, TABLES, offset)
    asm.add(R1, index)
    asm.load(width, dst, R1, 0)


@dataclass
class _DirectPoint:
    """One value has one rank, and all others have another one."""

    value: int
    ranks: array[int]
    by_bytes = False

    def emit(self, asm: Assembler) -> None:
        _Point(self.value).emit(asm)
        asm.alu_imm(MUL, R0, self.ranks[0] ^ self.ranks[1], wide=True)
        asm.alu_imm(XOR, R0, self.ranks[0], wide=True)


@dataclass
class _DirectTable:
    """One entry a value, of two bytes."""

    values: int
    at: int
    by_bytes = False

    def emit(self, asm: Assembler) -> None:
        asm.alu_imm(AND, R0, self.values - 1)
        _indexed(asm, R0, self.at, R0, 2)


@dataclass
class _DirectPages:
    """As `_Pages`, with pages of ranks."""

    count: int
    top: int
    pages: int
    by_bytes = True

    def emit(self, asm: Assembler) -> None:
        _page(asm, self.top, self.count)
        _indexed(asm, R0, self.pages, R0, 2)


@dataclass
class _DirectHash:
    """As `_Hash` with one table, whose slots have the rank: as its difference to that of what has no slot."""

    bits: int  # of a block's values; 0: points
    table: PerfectHash
    shifts: int
    slots: int
    otherwise: int
    by_bytes = False

    def emit(self, asm: Assembler) -> None:
        asm.mov(R2, R0)
        if self.bits:
            asm.alu_imm(RSH, R2, self.bits)
        _find(asm, self.table, self.shifts, self.slots, R2)
        asm.alu(MUL, R4, R5, wide=True)
        asm.alu_imm(XOR, R4, self.otherwise, wide=True)
        asm.mov(R0, R4)


class _Point:
    """One value is class 1."""

    def __init__(self, value: int) -> None:
        self.value = value

    def emit(self, asm: Assembler) -> None:
        asm.alu_imm(XOR, R0, self.value)
        asm.add_imm(R0, -1)
        asm.alu_imm(RSH, R0, 63, wide=True)

    def direct(self, _: Image, ranks: array[int]) -> Direct | None:
        return _DirectPoint(self.value, ranks)


class _Flat:
    """One entry a value."""

    def __init__(self, image: Image, flat: bytes, values: int, width: int) -> None:
        self.values, self.width, self.flat = values, width, flat
        self.at = image.add(flat, len(flat))

    def direct(self, image: Image, ranks: array[int]) -> Direct | None:
        if self.values > DIRECT_VALUES:
            return None
        return _DirectTable(self.values, image.add(_ranked(self.flat, _KINDS[self.width], ranks), 2 * self.values))

    def emit(self, asm: Assembler) -> None:
        asm.alu_imm(AND, R0, self.values - 1)  # tells older verifiers what a byte swap or shift left
        _indexed(asm, R0, self.at, R0, self.width)


def _page(asm: Assembler, top: int, count: int) -> None:
    """r0 = index into `count` pages for the value with its upper byte in r5, and its lower one in r0."""
    _indexed(asm, R5, top, R5, 1)
    asm.alu_imm(AND, R5, count - 1)
    asm.alu_imm(LSH, R5, 8)
    asm.alu(ADD, R0, R5)


class _Pages:
    """The upper byte chooses one of some pages."""

    def __init__(self, image: Image, numbers: list[int], pages: list[bytes], width: int) -> None:
        self.width, self.count = width, power_of_two(len(pages))
        self.whole = b"".join(pages)
        self.pages = image.add(self.whole, self.count * 256 * width)
        self.top = image.add(bytes(numbers), len(numbers))

    def direct(self, image: Image, ranks: array[int]) -> Direct | None:
        if 256 * self.count > DIRECT_VALUES:
            return None
        pages = image.add(_ranked(self.whole, _KINDS[self.width], ranks), 2 * 256 * self.count)
        return _DirectPages(self.count, self.top, pages)

    def emit(self, asm: Assembler) -> None:
        asm.alu_imm(AND, R0, 0xFFFF)
        asm.mov(R5, R0)
        asm.alu_imm(RSH, R5, 8)
        asm.alu_imm(AND, R0, 0xFF)
        self.emit_bytes(asm)

    def emit_bytes(self, asm: Assembler) -> None:
        """The same for a value whose upper byte is in r5, and its lower one in r0."""
        _page(asm, self.top, self.count)
        _indexed(asm, R0, self.pages, R0, self.width)


class _Hash:
    """Points, and blocks of 1 << bits values for what is no point."""

    def __init__(self, image: Image, cut: Blocks, blocks: PerfectHash | None, points: PerfectHash | None) -> None:
        self.bits, self.blocks, self.points = cut.bits, blocks, points
        self.block_classes = set(cut.blocks.values())
        # the class of each point, and what it would be taken for without the points
        self.point_classes = {(number, cut.blocks.get(value >> cut.bits, 0)) for value, number in cut.points.items()}
        self.at: dict[int, tuple[int, int]] = {}
        for table in (blocks, points):
            if table is not None:
                shifts = image.add(table.shifts, len(table.shifts))
                self.at[id(table)] = (shifts, image.add(table.slots, len(table.slots)))

    def _needed(self, says: Sequence[int]) -> tuple[PerfectHash | None, PerfectHash | None]:
        """Tables of blocks and of points, without those whose entries make no difference to whoever asks."""
        blocks, points = self.blocks, self.points
        if all(says[number] == says[0] for number in self.block_classes):
            blocks = None
        if all(says[number] == says[otherwise if blocks else 0] for number, otherwise in self.point_classes):
            points = None
        return blocks, points

    def emit(self, asm: Assembler, says: list[int]) -> None:
        """`says`: by class, what whoever asks makes of it; a table whose entries make no difference is left out."""
        blocks, points = self._needed(says)
        if blocks is not None:
            asm.mov(R2, R0)
            asm.alu_imm(RSH, R2, self.bits)
            self._find(asm, blocks, R2)
            asm.alu(MUL, R4, R5, wide=True)
            if points is None:
                asm.mov(R0, R4)
                return
            asm.mov(R3, R4)
            self._find(asm, points, R0)
            # r5 is 1 when the point is there: r0 = r5 ? r4 : r3
            asm.alu(XOR, R4, R3, wide=True)
            asm.alu(MUL, R4, R5, wide=True)
            asm.alu(XOR, R3, R4, wide=True)
            asm.mov(R0, R3)
        elif points is not None:
            self._find(asm, points, R0)
            asm.alu(MUL, R4, R5, wide=True)
            asm.mov(R0, R4)
        else:
            asm.mov_imm(R0, 0)

    def _find(self, asm: Assembler, table: PerfectHash, key: int) -> None:
        """r4 = class in the slot of `key` (kept), r5 = 1 if the slot is the key's, else 0."""
        _find(asm, table, *self.at[id(table)], key)

    def direct(self, image: Image, ranks: array[int]) -> Direct | None:
        blocks, points = self._needed(ranks)
        table = blocks or points
        if table is None or (blocks and points) or 4 << table.slot_bits > DIRECT_VALUES:
            return None
        shifts, _ = self.at[id(table)]
        slots = bytearray(table.slots)
        for at in range(0, len(slots), 8):
            key, number = struct.unpack_from("<II", slots, at)
            struct.pack_into("<II", slots, at, key, ranks[number] ^ ranks[0])
        return _DirectHash(self.bits if blocks else 0, table, shifts, image.add(bytes(slots), len(slots)), ranks[0])


def _find(asm: Assembler, table: PerfectHash, shifts: int, slots: int, key: int) -> None:
    """r4 = upper half of the slot of `key` (kept), r5 = 1 if the slot is the key's, else 0."""
    asm.mov(R5, key)
    asm.alu_imm(MUL, R5, table.first)
    asm.alu_imm(RSH, R5, 32 - table.shift_bits)
    _indexed(asm, R5, shifts, R5, 2)
    asm.mov(R4, key)
    asm.alu_imm(MUL, R4, table.second)
    asm.alu_imm(RSH, R4, 32 - table.slot_bits)
    asm.alu(XOR, R4, R5)
    asm.alu_imm(AND, R4, (1 << table.slot_bits) - 1)
    _indexed(asm, R4, slots, R4, 8)
    asm.mov(R5, R4)
    asm.alu(XOR, R5, key)  # 32 bits: 0 when the lower half, the slot's key, is equal
    asm.add_imm(R5, -1)
    asm.alu_imm(RSH, R5, 63, wide=True)
    asm.alu_imm(RSH, R4, 32, wide=True)


class _Trie:
    """16 + 8 + 8 bits, always all three levels: whole ranges are nodes of one class."""

    def __init__(self, image: Image, classes: Classes) -> None:
        nodes: list[bytes] = []
        known: dict[bytes, int] = {}

        def node(entries: array[int]) -> int:
            data = entries.tobytes()
            number = known.setdefault(data, len(nodes))
            if number == len(nodes):
                nodes.append(data)
                if number >= MAX_NODES:
                    raise TableError(f"more than {MAX_NODES} nodes of one field")
            return number

        uniform: dict[tuple[int, int], int] = {}  # (class, levels below) -> node

        def whole(number: int, bits: int) -> int:
            if bits == 0:
                return number
            found = uniform.get((number, bits))
            if found is None:
                found = uniform[number, bits] = node(array("H", (whole(number, bits - 8),)) * 256)
            return found

        def level(runs: list[tuple[int, int, int]], base: int, bits: int) -> array[int]:
            """Entries of one node from value `base` on, each for 1 << bits values."""
            entries = array("H")
            parts: list[tuple[int, int, int]] = []  # runs that share the present entry
            for first, last, number in runs:
                low = max(first, base)
                while low <= last:
                    end = low | ((1 << bits) - 1)
                    if not parts and low & ((1 << bits) - 1) == 0 and last >= end:
                        count = (last - low + 1) >> bits
                        entries.extend(array("H", (whole(number, bits),)) * count)
                        low += count << bits
                        continue
                    parts.append((low, min(last, end), number))
                    if last >= end:
                        entries.append(node(level(parts, end + 1 - (1 << bits), bits - 8)))
                        parts = []
                    low = min(last, end) + 1
            return entries

        top = level(classes.runs, 0, 16)
        assert len(top) == 1 << 16
        self.top = image.add(top.tobytes(), len(top) * 2)
        self.count = power_of_two(len(nodes))
        self.nodes = image.add(b"".join(nodes), self.count * _NODE_BYTES)

    def direct(self, *_: object) -> Direct | None:
        return None

    def emit(self, asm: Assembler) -> None:
        asm.mov(R5, R0)
        asm.alu_imm(RSH, R5, 16)
        _indexed(asm, R5, self.top, R5, 2)
        for shift in (8, 0):
            asm.alu_imm(AND, R5, self.count - 1)
            asm.alu_imm(LSH, R5, 8)
            asm.mov(R4, R0)
            if shift:
                asm.alu_imm(RSH, R4, shift)
            asm.alu_imm(AND, R4, 0xFF)
            asm.alu(ADD, R5, R4)
            _indexed(asm, R5, self.nodes, R5, 2)
        asm.mov(R0, R5)
