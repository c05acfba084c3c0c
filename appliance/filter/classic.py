# SPDX-License-Identifier: GPL-2.0-only
"""Classic BPF as libpcap emits it: decoding, checking, and a reference interpreter.

Defines what one filter means: a tuple of classic instructions and their result for a frame. Tests compare everything
that is generated for the kernel with `ClassicFilter.matches`, and that with libpcap itself. Immutable data.
Sources: the kernel's filter.rst, and libpcap's bpf_filter.c for the edge cases (a load past the captured bytes and a
division by zero reject the frame).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from appliance.counted import counted
from appliance.errors import FilterError

# instruction classes
LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)
# sizes
W, H, B = 0x00, 0x08, 0x10
# modes of loads
IMM, ABS, IND, MEM, LEN, MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
# operations of ALU
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR = range(0x00, 0xB0, 0x10)
# jumps
JA, JEQ, JGT, JGE, JSET = 0x00, 0x10, 0x20, 0x30, 0x40
# sources
K, X = 0x00, 0x08
# value of RET and MISC
RET_K, RET_X, RET_A = 0x00, 0x08, 0x10
TAX, TXA = 0x00, 0x80

MEMORY_WORDS = 16
MAX_INSTRUCTIONS = 4096  # libpcap and the kernel stop here too (BPF_MAXINSNS)
OUTSIDE_FRAME = 0x80000000  # loads from here on are Linux's ancillary data or negative offsets, not bytes of the frame
ANCILLARY = 0xFFFFF000  # SKF_AD_OFF
MASK32 = 0xFFFFFFFF

_ANCILLARY_NAMES = {
    0: "protocol of the socket buffer",
    4: "packet type (`inbound`, `outbound`)",
    8: "interface index (`ifindex`)",
    20: "mark",
    24: "queue",
    28: "hardware type",
    32: "receive hash",
    36: "CPU number",
    44: "VLAN tag beside the frame",
    48: "VLAN tag beside the frame",
    60: "VLAN protocol beside the frame",
}
_SIZES = {W: 4, H: 2, B: 1}


class Instruction(NamedTuple):
    """One classic instruction (`struct bpf_insn`)."""

    code: int
    jt: int
    jf: int
    k: int


def size_of(code: int) -> int:
    """Bytes that a load with this code reads."""
    return _SIZES[code & 0x18]


@dataclass(frozen=True)
class ClassicFilter:
    """A compiled filter; equal when the instructions are equal, whatever the text was."""

    instructions: tuple[Instruction, ...]
    text: str = field(default="", compare=False)

    def matches(self, frame: bytes, wire_length: int | None = None) -> bool:
        """Whether the filter takes this frame. `wire_length` is what `len` sees (default: the frame's own length)."""
        return interpret(self.instructions, frame, wire_length) != 0

    @cached_property
    def constant(self) -> bool | None:
        """True or False when the answer is the same for every frame (`match = ""`), else None."""
        first = self.instructions[0]
        if first.code == RET | RET_K:
            return first.k != 0
        return None

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.instructions)


def asks_for_first_fragments(filt: ClassicFilter) -> bool:
    """Whether it asks if a packet is a later fragment, as everything does that looks behind the IP header."""
    masks = (0x1FFF, 0xFFF8)  # the fragment's offset in IPv4 and IPv6
    return any(code & 7 in (ALU, JMP) and k in masks for code, _, _, k in filt.instructions)


def check(instructions: tuple[Instruction, ...], most: int = MAX_INSTRUCTIONS) -> None:
    """Refuse what the datapath cannot run; FilterError names the construct and where it usually comes from."""
    count = len(instructions)
    if not 0 < count <= most:
        raise FilterError(f"the filter compiles to {counted(count, 'instruction')}; 1 to {most} are allowed")
    for at, (code, jt, jf, k) in enumerate(instructions):
        kind = code & 7
        if kind == JMP:
            if code & 0xF0 == JA:
                if not 0 <= k < OUTSIDE_FRAME:
                    raise FilterError(
                        "it jumps backward (`protochain` follows a chain of headers in a loop), "
                        "which the datapath does not run; name the header's bytes instead, such as `ip6[6] = 17`"
                    )
                targets: tuple[int, ...] = (at + 1 + k,)
            elif code & 0xF0 in (JEQ, JGT, JGE, JSET):
                targets = (at + 1 + jt, at + 1 + jf)
            else:
                raise _unknown(code, at)
            if max(targets) >= count:
                raise FilterError(f"classic instruction {at} jumps past the end")
        elif kind in (LD, LDX):
            _check_load(code, k, at)
        elif kind == ALU:
            if code & 0xF0 > XOR:
                raise _unknown(code, at)
        elif kind in (ST, STX):
            if k >= MEMORY_WORDS:
                raise FilterError(f"classic instruction {at} writes memory word {k} of {MEMORY_WORDS}")
        elif kind == MISC:
            if code & 0xF8 not in (TAX, TXA):
                raise _unknown(code, at)
        elif code & 0x18 not in (RET_K, RET_X, RET_A):
            raise _unknown(code, at)
    if instructions[-1].code & 7 != RET:
        raise FilterError("the filter does not end with a return")


def _check_load(code: int, k: int, at: int) -> None:
    mode = code & 0xE0
    known = {LD: (IMM, ABS, IND, MEM, LEN), LDX: (IMM, MEM, LEN, MSH)}[code & 7]
    if mode not in known or code & 0x18 not in _SIZES:
        raise _unknown(code, at)
    if mode == MEM and k >= MEMORY_WORDS:
        raise FilterError(f"classic instruction {at} reads memory word {k} of {MEMORY_WORDS}")
    if mode in (ABS, MSH) and k >= OUTSIDE_FRAME:
        what = _ANCILLARY_NAMES.get((k - ANCILLARY) & MASK32, "") or f"offset {k - (1 << 32)}"
        raise FilterError(
            f"it loads {what}, which is outside the frame; only bytes of the frame and `len` can be tested"
        )


def _unknown(code: int, at: int) -> FilterError:
    return FilterError(f"classic instruction {at} has the unknown code {code:#04x}")


def interpret(instructions: tuple[Instruction, ...], frame: bytes, wire_length: int | None = None) -> int:
    """Run the filter on one frame and return its value (0 = no match). The reference for all generated code."""
    captured = len(frame)
    length = captured if wire_length is None else wire_length
    a = x = pc = 0
    memory = [0] * MEMORY_WORDS
    while True:
        code, jt, jf, k = instructions[pc]
        pc += 1
        kind = code & 7
        if kind == LD:
            mode = code & 0xE0
            if mode in (ABS, IND):
                at = k + (x if mode == IND else 0)
                end = at + size_of(code)
                if end > captured:
                    return 0
                a = int.from_bytes(frame[at:end], "big")
            else:
                a = k if mode == IMM else length if mode == LEN else memory[k]
        elif kind == LDX:
            mode = code & 0xE0
            if mode == MSH:
                if k >= captured:
                    return 0
                x = (frame[k] & 0xF) << 2
            else:
                x = k if mode == IMM else length if mode == LEN else memory[k]
        elif kind == ST:
            memory[k] = a
        elif kind == STX:
            memory[k] = x
        elif kind == ALU:
            value = x if code & X else k
            if code & 0xF0 in (DIV, MOD) and value == 0:
                return 0
            a = apply(code & 0xF0, a, value)
        elif kind == JMP:
            if code & 0xF0 == JA:
                pc += k
            else:
                pc += jt if compare(code & 0xF0, a, x if code & X else k) else jf
        elif kind == MISC:
            if code & 0xF8 == TAX:
                x = a
            else:
                a = x
        else:
            return k if code & 0x18 == RET_K else a if code & 0x18 == RET_A else x


def apply(operation: int, a: int, value: int) -> int:
    """An ALU operation on 32-bit values (the caller handles division by zero)."""
    if operation == ADD:
        return (a + value) & MASK32
    if operation == SUB:
        return (a - value) & MASK32
    if operation == MUL:
        return (a * value) & MASK32
    if operation == DIV:
        return a // value
    if operation == OR:
        return a | value
    if operation == AND:
        return a & value
    if operation == LSH:
        return (a << value) & MASK32 if value < 32 else 0
    if operation == RSH:
        return a >> value if value < 32 else 0
    if operation == NEG:
        return -a & MASK32
    if operation == MOD:
        return a % value
    return a ^ value


def compare(operation: int, a: int, value: int) -> bool:
    """A conditional jump's test."""
    if operation == JEQ:
        return a == value
    if operation == JGT:
        return a > value
    if operation == JGE:
        return a >= value
    return a & value != 0
