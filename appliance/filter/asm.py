# SPDX-License-Identifier: GPL-2.0-only
"""A small eBPF assembler: instructions appended in order, jumps to labels, references to maps by name.

Owns the code of one program while it is generated. Numbers are those of linux/bpf.h (instruction-set.rst).
"""

from __future__ import annotations

import enum
from array import array

from appliance.errors import FilterError

MAX_JUMP = 32767  # instructions; a conditional jump holds 16 bits
MASK32 = 0xFFFFFFFF

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 = range(11)

# ALU operations (shared by 32 and 64 bit)
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR, MOV, ARSH = range(0x00, 0xD0, 0x10)
# jump operations
JA, JEQ, JGT, JGE, JSET, JNE, JSGT, JSGE, CALL, EXIT, JLT, JLE = range(0x00, 0xC0, 0x10)

_ALU64, _ALU32, _JMP, _JMP32 = 0x07, 0x04, 0x05, 0x06
_SOURCE_REGISTER = 0x08
_LOAD, _STORE, _STORE_IMM = 0x61, 0x63, 0x62  # each | size
_SIZE_BITS = {4: 0x00, 2: 0x08, 1: 0x10, 8: 0x18}
_LOAD_IMM64 = 0x18
_TO_BIG_ENDIAN = 0xDC
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE = 1, 2


class Helper(enum.IntEnum):
    """Kernel helpers that generated programs call."""

    MAP_LOOKUP = 1
    RANDOM = 7
    TAIL_CALL = 12
    SKB_LOAD_BYTES = 26
    SKB_PULL_DATA = 39
    XDP_GET_BUFF_LEN = 188
    XDP_LOAD_BYTES = 189


class TooLongError(FilterError):
    """A jump does not fit: the program has to be split."""


class Assembler:
    """Collect instructions; `finish` resolves the labels."""

    def __init__(self) -> None:
        self.code = array("Q")
        self.relocations: list[tuple[int, str]] = []
        self._places: list[int] = []  # by label
        self._jumps: list[tuple[int, int]] = []  # instruction, label

    def __len__(self) -> int:
        return len(self.code)

    # labels

    def label(self) -> int:
        """A new label, not yet placed."""
        self._places.append(-1)
        return len(self._places) - 1

    def place(self, label: int) -> None:
        """Place the label at the next instruction."""
        self._places[label] = len(self.code)

    def placed(self, label: int) -> bool:
        """Whether the label has been placed."""
        return self._places[label] >= 0

    def wanted(self, label: int) -> bool:
        """Whether anything jumps to the label so far."""
        return any(to == label for _, to in self._jumps)

    def here(self) -> int:
        """A new label at the next instruction."""
        self._places.append(len(self.code))
        return len(self._places) - 1

    # instructions

    def mov(self, dst: int, src: int) -> None:
        """dst = src, 64 bit."""
        self.code.append(0xBF | dst << 8 | src << 12)

    def mov_imm(self, dst: int, value: int) -> None:
        """dst = value, an unsigned 32-bit number."""
        self.code.append(0xB4 | dst << 8 | (value & MASK32) << 32)

    def add_imm(self, dst: int, value: int) -> None:
        """dst += value, 64 bit, signed."""
        self.code.append(0x07 | dst << 8 | (value & MASK32) << 32)

    def add(self, dst: int, src: int) -> None:
        """dst += src, 64 bit."""
        self.code.append(0x0F | dst << 8 | src << 12)

    def alu(self, operation: int, dst: int, src: int, *, wide: bool = False) -> None:
        """dst = dst operation src, 32 bit unless wide."""
        self.code.append((_ALU64 if wide else _ALU32) | _SOURCE_REGISTER | operation | dst << 8 | src << 12)

    def alu_imm(self, operation: int, dst: int, value: int, *, wide: bool = False) -> None:
        """dst = dst operation value, 32 bit unless wide."""
        self.code.append((_ALU64 if wide else _ALU32) | operation | dst << 8 | (value & MASK32) << 32)

    def big_endian(self, dst: int, size: int) -> None:
        """dst = network order of its low `size` bytes as a number."""
        if size > 1:
            self.code.append(_TO_BIG_ENDIAN | dst << 8 | (size * 8) << 32)

    def load(self, size: int, dst: int, src: int, offset: int) -> None:
        """dst = *(size *)(src + offset), zero-extended."""
        self.code.append(_LOAD | _SIZE_BITS[size] | dst << 8 | src << 12 | (offset & 0xFFFF) << 16)

    def store(self, size: int, dst: int, offset: int, src: int) -> None:
        """*(size *)(dst + offset) = src."""
        self.code.append(_STORE | _SIZE_BITS[size] | dst << 8 | src << 12 | (offset & 0xFFFF) << 16)

    def store_imm(self, size: int, dst: int, offset: int, value: int) -> None:
        """*(size *)(dst + offset) = value."""
        self.code.append(_STORE_IMM | _SIZE_BITS[size] | dst << 8 | (offset & 0xFFFF) << 16 | (value & MASK32) << 32)

    def load_imm64(self, dst: int, value: int) -> None:
        """dst = a 64-bit number."""
        self.code.append(_LOAD_IMM64 | dst << 8 | (value & MASK32) << 32)
        self.code.append((value >> 32 & MASK32) << 32)

    def map_fd(self, dst: int, name: str) -> None:
        """dst = the map called `name`."""
        self.relocations.append((len(self.code), name))
        self.code.append(_LOAD_IMM64 | dst << 8 | _PSEUDO_MAP_FD << 12)
        self.code.append(0)

    def map_value(self, dst: int, name: str, offset: int) -> None:
        """dst = address of byte `offset` in the only value of the array map called `name`."""
        self.relocations.append((len(self.code), name))
        self.code.append(_LOAD_IMM64 | dst << 8 | _PSEUDO_MAP_VALUE << 12)
        self.code.append((offset & MASK32) << 32)

    def jump(self, label: int) -> None:
        """Go to the label."""
        self._jumps.append((len(self.code), label))
        self.code.append(_JMP | JA)

    def skip(self, instructions: int) -> None:
        """Jump that many instructions ahead; TooLongError when the distance does not fit."""
        if instructions > MAX_JUMP:
            raise TooLongError(f"a jump over {instructions} instructions does not fit the {MAX_JUMP} that eBPF allows")
        self.code.append(_JMP | JA | instructions << 16)

    def jump_imm(self, operation: int, dst: int, value: int, label: int) -> None:
        """If (u32) dst operation value, go to the label."""
        self._jumps.append((len(self.code), label))
        self.code.append(_JMP32 | operation | dst << 8 | (value & MASK32) << 32)

    def jump_imm64(self, operation: int, dst: int, value: int, label: int) -> None:
        """If dst operation value (64 bit, value sign-extended), go to the label."""
        self._jumps.append((len(self.code), label))
        self.code.append(_JMP | operation | dst << 8 | (value & MASK32) << 32)

    def jump_reg(self, operation: int, dst: int, src: int, label: int, *, wide: bool = False) -> None:
        """If dst operation src (32 bit unless wide), go to the label."""
        self._jumps.append((len(self.code), label))
        self.code.append((_JMP if wide else _JMP32) | _SOURCE_REGISTER | operation | dst << 8 | src << 12)

    def call(self, helper: Helper) -> None:
        """Call a kernel helper, which clobbers r1 to r5."""
        self.code.append(_JMP | CALL | int(helper) << 32)

    def exit(self) -> None:
        """Return r0."""
        self.code.append(_JMP | EXIT)

    def finish(self) -> bytes:
        """The program as `struct bpf_insn[]`; TooLongError when a jump does not fit its 16 bits."""
        code, places = self.code, self._places
        for at, label in self._jumps:
            distance = places[label] - at - 1
            if not -MAX_JUMP <= distance <= MAX_JUMP:
                raise TooLongError(
                    f"a jump over {abs(distance)} instructions does not fit the {MAX_JUMP} that eBPF allows"
                )
            code[at] |= (distance & 0xFFFF) << 16
        if places and min(places) < 0:
            used = {label for _, label in self._jumps}
            assert all(places[label] >= 0 for label in used), "a jump to a label that was never placed"
        return code.tobytes()
