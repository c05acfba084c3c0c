# SPDX-License-Identifier: GPL-2.0-only
"""How generated programs are joined to the fixed core: where the result goes and which program runs next.

Pure data and the code of a program's end. A generated set is an entry program and parts that it reaches by tail call;
parts use slots of the core's program array that are reserved for such sets (two banks, used in turn, so that a new set
never overwrites parts that frames may still run).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from appliance.filter.asm import JEQ, R0, R1, R2, R3, R10, Assembler, Helper
from appliance.filter.frame_reader import CTX, KEY, A

SCRATCH, PROGRAMS, TABLES = "scratch", "programs", "tables"  # names of maps in relocations
NO_MATCH, NOT_HERE = 0xFFFFFFFF, 0xFFFFFFFE
XDP_PASS, TC_ACT_OK = 2, 0


class Host(Protocol):
    """A program with a place for the filters."""

    def around(
        self, code: bytes, relocations: tuple[tuple[int, str], ...]
    ) -> tuple[bytes, tuple[tuple[int, str], ...]]:
        """The whole program, and what in it refers to maps."""
        ...


@dataclass(frozen=True)
class Linkage:
    """Where a generated set ends.

    `scratch_fd` is a PERCPU_ARRAY of one entry (key 0): the rule's index goes to `rule_offset` (u32), the mask of
    accepting hops to `accept_offset` (u64), and each of `stores` (offset, bytes, value) is written with it.
    Then `match_slot` or `miss_slot` of `programs_fd` runs. `part_slots` are for the set's own parts.
    `fallback` is returned when a tail call fails.

    `host`: a program that begins with the filters; taken where the set is one program, which then leaves in r0 the
    index, NO_MATCH, or NOT_HERE for a frame that the program in the first of `part_slots` is for. `attached`: other
    such programs, to be attached to ports in the place of the entry. `host_maps`: the descriptors of their maps.
    """

    scratch_fd: int
    programs_fd: int
    match_slot: int
    miss_slot: int
    part_slots: tuple[int, ...] = ()
    rule_offset: int = 0
    accept_offset: int = 8
    stores: tuple[tuple[int, int, int], ...] = ()
    fallback: int = XDP_PASS
    host: Host | None = None
    attached: tuple[Host, ...] = ()
    host_maps: tuple[tuple[str, int], ...] = ()
    falls: bool = False  # the set ends by falling out of its last instruction, the result in r0


@dataclass(frozen=True)
class LoadableProgram:
    """One program, not loaded yet. `slot` is where it belongs (None = the entry, which the core places last)."""

    name: str
    code: bytes
    relocations: tuple[tuple[int, str], ...]
    slot: int | None

    @property
    def instructions(self) -> int:
        """Its length in eBPF instructions (8 bytes each)."""
        return len(self.code) // 8


class Ending:
    """Emits the ends of one program: with a linkage, store and tail call; without one, return the result (tests)."""

    def __init__(self, asm: Assembler, linkage: Linkage | None) -> None:
        self.asm, self.linkage = asm, linkage
        self._failed = asm.label()
        self._end = asm.label()
        self._used = False

    def rule(self, *, matched: bool) -> None:
        """The rule's index is in A (matched), or no rule matched: store it and go on."""
        asm, link = self.asm, self.linkage
        if not matched:
            asm.mov_imm(A, NO_MATCH)
        if link is None or link.falls:
            asm.mov(R0, A)
            self._leave()
            return
        self._scratch()
        asm.store(4, R0, link.rule_offset, A)
        for offset, size, value in link.stores:
            asm.store_imm(size, R0, offset, value)
        self.tail_call(link.match_slot if matched else link.miss_slot)

    def not_here(self) -> None:
        """A frame that these instructions are not for, where no other program is."""
        self.asm.mov_imm(R0, NOT_HERE)
        self._leave()

    def _leave(self) -> None:
        """The result is in r0."""
        if self.linkage is not None and self.linkage.falls:
            self.asm.jump(self._end)
        else:
            self.asm.exit()

    def accept(self, mask: int) -> None:
        """Register `mask` holds the accepting hops' bits: store them and go on."""
        asm, link = self.asm, self.linkage
        if link is None:
            asm.mov(R0, mask)
            asm.exit()
            return
        self._scratch()
        asm.store(8, R0, link.accept_offset, mask)
        self.tail_call(link.match_slot)

    def _scratch(self) -> None:
        asm = self.asm
        asm.store_imm(4, R10, KEY, 0)
        asm.mov(R2, R10)
        asm.add_imm(R2, KEY)
        asm.map_fd(R1, SCRATCH)
        asm.call(Helper.MAP_LOOKUP)
        self._used = True
        asm.jump_imm64(JEQ, R0, 0, self._failed)

    def tail_call(self, slot: int) -> None:
        """Go to another program of the array; when it is not there, return the fallback."""
        asm = self.asm
        asm.mov(R1, CTX)
        asm.map_fd(R2, PROGRAMS)
        asm.mov_imm(R3, slot)
        asm.call(Helper.TAIL_CALL)
        self._used = True
        asm.jump(self._failed)

    def close(self) -> None:
        """The common end of tail calls that failed, and the way out of a set inside a host."""
        asm = self.asm
        if self._used:
            asm.place(self._failed)
            asm.mov_imm(R0, self.linkage.fallback if self.linkage else XDP_PASS)
            asm.exit()
        asm.place(self._end)
