# SPDX-License-Identifier: GPL-2.0-only
"""Tables of a merged program: from a field's value to its class, and the code that looks it up.

Owns the image of one read-only array map while it is built. All leaves share a field's classes: two values are in one
class when no rule tells them apart; class 0 is the values that no rule names. 8 and 12 bits: one flat table; 16 bits:
flat, or 8 + 8 bits where pages repeat; 32 bits: 16 + 8 + 8 bits.

The verifier wants every index bounded: numbers are masked to the power of two above them, and the image ends with
enough padding that the largest masked index of every table lies inside.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass

from appliance.steering.pcap.asm import ADD, AND, JLT, LSH, R0, R1, R4, R5, RSH, Assembler
from appliance.steering.pcap.leaves import Intervals
from appliance.steering.pcap.linkage import TABLES

MAX_BYTES = 8 << 20
FLAT_VALUES = 4096
FLAT_PAGES = 96  # of 256: with more different pages than these, one flat table is as small
_NODE = 0x8000  # an entry of a 32-bit table with this bit is a node's number
_NODE_BYTES = 512


class TableError(Exception):
    """The tables would be too big; the text says how."""


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
    """Value in r0 -> class in r0 (masked). Uses r1, r4 and r5."""

    def __init__(self, image: Image, classes: Classes, largest: int) -> None:
        self.classes = classes
        self._width = 1 if classes.count <= 256 else 2
        kind = "B" if self._width == 1 else "H"
        self._bits = largest.bit_length()
        self._top = self._pages = self._nodes = 0
        if largest < 1 << 16:
            self._values = power_of_two(largest + 1)
            runs = [*classes.runs, (largest + 1, self._values - 1, 0)] if self._values > largest + 1 else classes.runs
            flat = _fill(runs, self._values, kind).tobytes()
            size = 256 * self._width
            pages: dict[bytes, int] = {}
            if self._values > FLAT_VALUES:
                numbers = [pages.setdefault(flat[at : at + size], len(pages)) for at in range(0, len(flat), size)]
            self._flat = not 0 < len(pages) <= FLAT_PAGES
            if self._flat:
                self._top = image.add(flat, len(flat))
            else:
                self._nodes = power_of_two(len(pages))
                self._pages = image.add(b"".join(pages), self._nodes * size)
                self._top = image.add(bytes(numbers), len(numbers))
        else:
            self._flat = False
            self._build_trie(image, classes)

    def _build_trie(self, image: Image, classes: Classes) -> None:
        nodes: list[bytes] = []
        known: dict[bytes, int] = {}
        if classes.count >= _NODE:
            raise TableError(f"more than {_NODE} classes of one field")

        def node(runs: list[tuple[int, int, int]], base: int, bits: int) -> int:
            data = level(runs, base, bits).tobytes()
            number = known.setdefault(data, len(nodes))
            if number == len(nodes):
                nodes.append(data)
            if number >= _NODE:
                raise TableError(f"more than {_NODE} nodes of one field")
            return number

        def level(runs: list[tuple[int, int, int]], base: int, bits: int) -> array[int]:
            """Entries of one node: each covers 1 << bits values, from `base` on."""
            entries = array("H")
            parts: list[tuple[int, int, int]] = []  # runs that share the present entry
            at = base
            for first, last, number in runs:
                low, high = max(first, base), last
                if low > at:
                    raise AssertionError("runs leave a gap")
                while low <= high:
                    entry_end = (low | ((1 << bits) - 1)) if bits else low
                    if not parts and low & ((1 << bits) - 1) == 0 and high >= entry_end:
                        whole = (high - low + 1) >> bits
                        entries.extend(array("H", (number,)) * whole)
                        low += whole << bits
                        continue
                    parts.append((low, min(high, entry_end), number))
                    if high >= entry_end:
                        entries.append(_NODE | node(parts, entry_end + 1 - (1 << bits), bits - 8))
                        parts = []
                    low = min(high, entry_end) + 1
                at = high + 1
            return entries

        top = level(classes.runs, 0, 16)
        assert len(top) == 1 << 16
        self._top = image.add(top.tobytes(), len(top) * 2)
        self._nodes = power_of_two(len(nodes)) if nodes else 0
        if nodes:
            self._pages = image.add(b"".join(nodes), self._nodes * _NODE_BYTES)

    def emit(self, asm: Assembler) -> None:
        """Append the code."""
        if self._bits > 16:
            self._emit_trie(asm)
        elif self._flat:
            # the mask tells older verifiers what a byte swap or shift left
            asm.alu_imm(AND, R0, self._values - 1)
            self._indexed(asm, self._top, R0, self._width)
        else:
            asm.alu_imm(AND, R0, 0xFFFF)
            asm.mov(R5, R0)
            asm.alu_imm(RSH, R5, 8)
            asm.map_value(R1, TABLES, self._top)
            asm.add(R1, R5)
            asm.load(1, R5, R1, 0)
            asm.alu_imm(AND, R5, self._nodes - 1)
            asm.alu_imm(LSH, R5, 8)
            asm.alu_imm(AND, R0, 0xFF)
            asm.alu(ADD, R0, R5)
            self._indexed(asm, self._pages, R0, self._width)
        asm.alu_imm(AND, R0, self.classes.span - 1)

    @staticmethod
    def _indexed(asm: Assembler, offset: int, index: int, width: int) -> None:
        if width == 2:
            asm.alu_imm(LSH, index, 1)
        asm.map_value(R1, TABLES, offset)
        asm.add(R1, index)
        asm.load(width, R0, R1, 0)

    def _emit_trie(self, asm: Assembler) -> None:
        asm.mov(R5, R0)
        asm.alu_imm(RSH, R5, 16)
        asm.alu_imm(LSH, R5, 1)
        asm.map_value(R1, TABLES, self._top)
        asm.add(R1, R5)
        if not self._nodes:
            asm.load(2, R0, R1, 0)
            return
        asm.load(2, R5, R1, 0)
        direct = asm.label()
        asm.jump_imm(JLT, R5, _NODE, direct)
        self._step(asm, 8)
        asm.jump_imm(JLT, R5, _NODE, direct)
        self._step(asm, 0)
        asm.place(direct)
        asm.mov(R0, R5)

    def _step(self, asm: Assembler, shift: int) -> None:
        """r5 = entry of node r5 for bits shift..shift+7 of r0; uses r1 and r4."""
        asm.alu_imm(AND, R5, self._nodes - 1)
        asm.alu_imm(LSH, R5, 9)
        asm.mov(R4, R0)
        if shift:
            asm.alu_imm(RSH, R4, shift)
        asm.alu_imm(AND, R4, 0xFF)
        asm.alu_imm(LSH, R4, 1)
        asm.alu(ADD, R5, R4)
        asm.map_value(R1, TABLES, self._pages)
        asm.add(R1, R5)
        asm.load(2, R5, R1, 0)
