# SPDX-License-Identifier: GPL-2.0-only
"""Perfect hash tables for 32-bit values: two small loads and no branch, whatever the value.

Pure. Used where a field's classes are points (host addresses) or whole aligned blocks (networks) with few exceptions:
such tables take some kilobytes, while a trie over addresses takes hundreds and misses the cache on random traffic.
A key's slot is hash2(key) ^ shift[hash1(key)]; the shifts are found bucket by bucket, largest first.
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

MAX_ENTRIES = 8192
BLOCK_BITS = (8, 4, 12, 16)
_MULTIPLIERS = 24
_MASK32 = 0xFFFFFFFF


@dataclass(frozen=True)
class PerfectHash:
    """`shifts` is u16 by the upper bits of key * first; `slots` is u64 (class << 32 | key) by those of key * second."""

    first: int
    second: int
    shift_bits: int
    slot_bits: int
    shifts: bytes
    slots: bytes


def build(entries: dict[int, int]) -> PerfectHash | None:
    """A table for key -> class; None when no multipliers were found (does not happen in practice)."""
    rng = random.Random(len(entries))
    slot_bits = max(1, (2 * len(entries) - 1).bit_length())
    shift_bits = max(1, slot_bits - 2)
    for _ in range(_MULTIPLIERS):
        first, second = rng.getrandbits(32) | 1, rng.getrandbits(32) | 1
        placed = _place(entries, first, second, shift_bits, slot_bits)
        if placed is None:
            continue
        shifts, slots = placed
        filler = next(iter(entries))  # in a slot that is not its own no value compares equal to it
        packed = array("Q", [entries[k] << 32 | k if k is not None else filler for k in slots])
        return PerfectHash(first, second, shift_bits, slot_bits, shifts.tobytes(), packed.tobytes())
    return None


def _place(
    entries: dict[int, int], first: int, second: int, shift_bits: int, slot_bits: int
) -> tuple[array[int], list[int | None]] | None:
    buckets: dict[int, list[tuple[int, int]]] = {}
    for key in entries:
        bucket = (key * first & _MASK32) >> 32 - shift_bits
        buckets.setdefault(bucket, []).append((key, (key * second & _MASK32) >> 32 - slot_bits))
    slots: list[int | None] = [None] * (1 << slot_bits)
    shifts = array("H", bytes(2 << shift_bits))
    for bucket, keys in sorted(buckets.items(), key=lambda item: -len(item[1])):
        if len({slot for _, slot in keys}) < len(keys):
            return None
        for shift in range(1 << slot_bits):
            if all(slots[slot ^ shift] is None for _, slot in keys):
                break
        else:
            return None
        shifts[bucket] = shift
        for key, slot in keys:
            slots[slot ^ shift] = key
    return shifts, slots


def find(table: PerfectHash, value: int) -> int | None:
    """The class of a value, or None: what the generated code does (for tests)."""
    shifts = struct.unpack(f"<{1 << table.shift_bits}H", table.shifts)
    slot = (value * table.second & _MASK32) >> 32 - table.slot_bits
    slot ^= shifts[(value * table.first & _MASK32) >> 32 - table.shift_bits]
    entry: int = struct.unpack_from("<Q", table.slots, slot * 8)[0]
    return entry >> 32 if entry & _MASK32 == value else None


@dataclass(frozen=True)
class Blocks:
    """Classes as blocks of 1 << bits values and single exceptions from them."""

    bits: int
    blocks: dict[int, int]
    points: dict[int, int]

    @property
    def size(self) -> int:
        """Entries in all."""
        return len(self.blocks) + len(self.points)


def cut(runs: Sequence[tuple[int, int, int]]) -> Blocks | None:
    """The smallest form of runs (first, last, class) as blocks and points; class 0 needs no entry. None: too many."""
    named = [run for run in runs if run[2]]
    best: Blocks | None = None
    if sum(last - first + 1 for first, last, _ in named) <= MAX_ENTRIES:
        best = Blocks(0, {}, {v: number for first, last, number in named for v in range(first, last + 1)})
    if best is not None and all(first == last for first, last, _ in named):
        return best
    for bits in BLOCK_BITS:
        found = _cut(named, bits)
        if found is not None and (best is None or found.size * 2 < best.size):
            best = found
    return best


def _cut(named: list[tuple[int, int, int]], bits: int) -> Blocks | None:
    size = 1 << bits
    if sum((last >> bits) - (first >> bits) + 1 for first, last, _ in named) > MAX_ENTRIES:
        return None
    parts: dict[int, list[tuple[int, int, int]]] = {}
    for first, last, number in named:
        for block in range(first >> bits, (last >> bits) + 1):
            low, high = max(first, block << bits), min(last, ((block + 1) << bits) - 1)
            parts.setdefault(block, []).append((low, high, number))
    blocks: dict[int, int] = {}
    points: dict[int, int] = {}
    for block, found in parts.items():
        weights: dict[int, int] = {0: size}
        for low, high, number in found:
            weights[number] = weights.get(number, 0) + high - low + 1
            weights[0] -= high - low + 1
        base = max(weights, key=lambda number: weights[number])
        if len(points) + size - weights[base] > MAX_ENTRIES:
            return None
        if base:
            blocks[block] = base
        at = block << bits
        for low, high, number in [*found, ((block + 1) << bits, (block + 1) << bits, base)]:
            if base:
                points |= dict.fromkeys(range(at, low), 0)
            if number != base:
                points |= dict.fromkeys(range(low, high + 1), number)
            at = high + 1
    return Blocks(bits, blocks, points)
