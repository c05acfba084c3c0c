# SPDX-License-Identifier: GPL-2.0-only
"""How a generated program reads bytes of the frame: XDP or tc, VLAN tag in the frame or beside it, linear part or not.

Owns the register convention of generated programs and nothing else. `Access` emits the loads of one program. Offsets
refer to the frame as libpcap sees it, with the VLAN tag in place.

A frame may consist of several pieces. Bytes below `NEAR_BYTES` are read through packet pointers once the preamble has
made sure that the first piece holds them (tc pulls them; under XDP a program that reads through a helper takes over
otherwise). Each load of a byte further on uses the helper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from appliance.filter.asm import (
    ADD,
    AND,
    JEQ,
    JGE,
    JGT,
    JLE,
    JLT,
    JNE,
    LSH,
    MOV,
    OR,
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
    SUB,
    Assembler,
    Helper,
)

Kind = Literal["xdp", "tc"]
Vlan = Literal["inline", "metadata"]

A, X, CTX, DATA, END = R7, R8, R6, R9, R5  # END does not survive a call: reload_end
NEAR_BYTES = 384  # bytes that the first piece of a frame must hold to be read through packet pointers
MAX_DIRECT_OFFSET = 0x7FFF  # a load instruction holds 16 bits of offset
MAX_POINTER_RANGE = 0x7FFF  # what may be added to a packet pointer before the verifier loses it (64 KiB less margin)
HEADER_BYTES = 14
TAGGED_BYTES = 18
TAG_AT, TAG_END, TAG_BYTES = 12, 16, 4

# stack, from the top
_BUFFER = -8
KEY = -16
MEMORY = -80  # 16 words
_PREFIX = -112  # VLAN beside the frame: its first 24 bytes with the tag in place
_PREFIX_BYTES = 24
MASK = -120  # accept mask, 8 bytes

_SKB_LEN, _SKB_VLAN_PRESENT, _SKB_VLAN_TCI, _SKB_VLAN_PROTO = 0, 20, 24, 28
_POINTERS = {"xdp": (0, 4), "tc": (76, 80)}


@dataclass
class Access:
    """Emits the reads of one program. `helper_only`: never through packet pointers (frames in pieces, XDP)."""

    asm: Assembler
    kind: Kind
    vlan: Vlan = "inline"
    helper_only: bool = False

    def __post_init__(self) -> None:
        if self.vlan == "metadata" and self.kind != "tc":
            raise ValueError("a VLAN tag beside the frame exists only at tc")
        self._late: list[tuple[int, int, int, int, int, int]] = []

    @property
    def shift(self) -> int:
        """By how much bytes after the VLAN tag have a lower offset in memory than in the frame."""
        return TAG_BYTES if self.vlan == "metadata" else 0

    # start of a program

    def preamble(self, need: int, *, pieces: int, metadata: int | None) -> None:
        """Set CTX, DATA, END and see that the first piece holds min(need, length) bytes.

        `pieces` is where an XDP frame in pieces goes, `metadata` where a frame with its VLAN tag beside it goes.
        """
        asm = self.asm
        asm.mov(CTX, R1)
        if metadata is not None:
            asm.load(4, R0, CTX, _SKB_VLAN_PRESENT)
            asm.jump_imm(JNE, R0, 0, metadata)
        self.reload()
        if self.vlan == "metadata":
            need = max(need - TAG_BYTES, HEADER_BYTES)
        if self.helper_only or need == 0:
            if self.vlan == "metadata":
                self._build_prefix()
            return
        if self.kind == "xdp":
            self.whole_or(need, pieces)
        else:
            enough = asm.label()
            asm.mov(R1, DATA)
            asm.add_imm(R1, need)
            asm.jump_reg(JLE, R1, END, enough, wide=True)
            asm.load(4, R2, CTX, _SKB_LEN)
            asm.mov(R1, END)
            asm.alu(SUB, R1, DATA, wide=True)
            asm.jump_reg(JEQ, R1, R2, enough, wide=True)
            short = asm.label()
            asm.jump_imm64(JLE, R2, need, short)
            asm.mov_imm(R2, need)
            asm.place(short)
            asm.mov(R1, CTX)
            asm.call(Helper.SKB_PULL_DATA)
            self.reload()
            asm.place(enough)
        if self.vlan == "metadata":
            self._build_prefix()

    def whole_or(self, need: int, pieces: int) -> None:
        """XDP: go to `pieces` unless the first piece holds `need` bytes or the whole frame."""
        enough = self.asm.label()
        self.asm.mov(R1, DATA)
        self.asm.add_imm(R1, need)
        self.asm.jump_reg(JLE, R1, END, enough, wide=True)
        self.one_piece_or(pieces)
        self.asm.place(enough)

    def one_piece_or(self, pieces: int) -> None:
        """XDP: go to `pieces` unless the first piece is the whole frame."""
        asm = self.asm
        asm.mov(R1, CTX)
        asm.call(Helper.XDP_GET_BUFF_LEN)
        self.reload_end()
        asm.mov(R2, END)
        asm.alu(SUB, R2, DATA, wide=True)
        asm.jump_reg(JNE, R2, R0, pieces, wide=True)

    def reload(self) -> None:
        """DATA and END from the context (after something that moves the frame)."""
        data, end = _POINTERS[self.kind]
        self.asm.load(4, DATA, CTX, data)
        self.asm.load(4, END, CTX, end)

    def reload_end(self) -> None:
        """END alone (after a call)."""
        self.asm.load(4, END, CTX, _POINTERS[self.kind][1])

    def _build_prefix(self) -> None:
        """Bytes 0 to 23 of the tagged frame on the stack, for loads at computed or straddling offsets."""
        asm = self.asm
        done, short = asm.label(), asm.label()
        for word in range(0, _PREFIX_BYTES, 8):
            asm.store_imm(8, R10, _PREFIX + word, 0)
        asm.mov(R1, DATA)
        asm.add_imm(R1, HEADER_BYTES)
        asm.jump_reg(JGT, R1, END, done, wide=True)
        for at in (0, 4, 8):
            asm.load(4, R0, DATA, at)
            asm.store(4, R10, _PREFIX + at, R0)
        asm.load(4, R0, CTX, _SKB_VLAN_PROTO)  # network order already
        asm.store(2, R10, _PREFIX + TAG_AT, R0)
        asm.load(4, R0, CTX, _SKB_VLAN_TCI)
        asm.big_endian(R0, 2)
        asm.store(2, R10, _PREFIX + TAG_AT + 2, R0)
        asm.load(2, R0, DATA, TAG_AT)
        asm.store(2, R10, _PREFIX + TAG_END, R0)
        asm.mov(R1, DATA)
        asm.add_imm(R1, _PREFIX_BYTES - TAG_BYTES)
        asm.jump_reg(JGT, R1, END, short, wide=True)
        for at in (0, 2, 4):  # the stack takes aligned stores only
            asm.load(2, R0, DATA, HEADER_BYTES + at)
            asm.store(2, R10, _PREFIX + TAGGED_BYTES + at, R0)
        asm.jump(done)
        asm.place(short)
        for step in range(_PREFIX_BYTES - TAGGED_BYTES):
            at = HEADER_BYTES + step
            asm.mov(R1, DATA)
            asm.add_imm(R1, at + 1)
            asm.jump_reg(JGT, R1, END, done, wide=True)
            asm.load(1, R0, DATA, at)
            asm.store(1, R10, _PREFIX + at + TAG_BYTES, R0)
        asm.place(done)

    # loads; every one leaves the number in network order's meaning, zero-extended to 64 bits

    def length(self, dst: int) -> None:
        """dst = length of the whole frame."""
        asm = self.asm
        if self.kind == "tc":
            asm.load(4, dst, CTX, _SKB_LEN)
            if self.vlan == "metadata":
                asm.alu_imm(ADD, dst, TAG_BYTES)
            return
        asm.mov(R1, CTX)
        asm.call(Helper.XDP_GET_BUFF_LEN)
        self.reload_end()
        asm.mov(dst, R0)
        asm.alu(MOV, dst, dst)  # a 32-bit self-move tells the verifier that the upper half is zero

    def bound(self, need: int, fail: int) -> None:
        """Go to `fail` when the frame is shorter than `need` (near) bytes."""
        if self.helper_only:
            return
        if self.shift:
            need = max(need - self.shift, HEADER_BYTES)
        asm = self.asm
        asm.mov(R1, DATA)
        asm.add_imm(R1, need)
        asm.jump_reg(JGT, R1, END, fail, wide=True)

    def near(self, dst: int, offset: int, size: int, fail: int) -> None:
        """dst = frame[offset:offset+size], whose `bound` is known to hold."""
        asm = self.asm
        if self.helper_only:
            self._through_helper_at(dst, offset, size, fail)
        elif self.vlan == "inline" or offset + size <= TAG_AT:
            asm.load(size, dst, DATA, offset)
            asm.big_endian(dst, size)
        elif offset >= TAG_END:
            asm.load(size, dst, DATA, offset - TAG_BYTES)
            asm.big_endian(dst, size)
        elif offset % size == 0:
            asm.load(size, dst, R10, _PREFIX + offset)
            asm.big_endian(dst, size)
        else:
            self._prefix_bytes(dst, offset, size)

    def _prefix_bytes(self, dst: int, offset: int, size: int) -> None:
        """An unaligned read of the prefix, byte by byte (the stack allows aligned ones only)."""
        asm, scratch = self.asm, R0 if dst != R0 else R1
        asm.mov_imm(dst, 0)
        for step in range(size):
            asm.alu_imm(LSH, dst, 8)
            asm.load(1, scratch, R10, _PREFIX + offset + step)
            asm.alu(OR, dst, scratch)

    def far(self, dst: int, offset: int, size: int, fail: int) -> None:
        """dst = frame[offset:offset+size] anywhere in the frame, `fail` when it ends before. Clobbers r0 to r4."""
        asm = self.asm
        shift = TAG_BYTES if self.vlan == "metadata" and offset >= TAG_END else 0
        if self.helper_only or offset + size > MAX_DIRECT_OFFSET:
            self._through_helper_at(dst, offset, size, fail)
            return
        slow, done = asm.label(), asm.label()
        asm.mov(R1, DATA)
        asm.add_imm(R1, offset - shift + size)
        asm.jump_reg(JGT, R1, END, slow, wide=True)
        asm.load(size, dst, DATA, offset - shift)
        asm.big_endian(dst, size)
        asm.jump(done)
        asm.place(slow)
        self._through_helper_at(dst, offset, size, fail)
        asm.place(done)

    def indirect(self, dst: int, base: int, offset: int, size: int, fail: int) -> None:
        """dst = frame[base+offset:...] for a base register of any value; `fail` when outside. Clobbers r0 to r4."""
        asm = self.asm
        slow, done = asm.label(), asm.label()
        asm.mov(R2, base)
        if offset > 0x7FFFFFFF:
            asm.load_imm64(R0, offset)
            asm.add(R2, R0)
        else:
            asm.add_imm(R2, offset)
        if self.vlan == "metadata":
            self._indirect_prefix(dst, size, fail, done)
        if not self.helper_only:
            asm.jump_imm64(JGT, R2, MAX_POINTER_RANGE, slow)
            asm.mov(R1, DATA)
            asm.add(R1, R2)
            asm.mov(R3, R1)
            asm.add_imm(R3, size)
            asm.jump_reg(JGT, R3, END, slow, wide=True)
            asm.load(size, dst, R1, 0)
            asm.big_endian(dst, size)
            asm.jump(done)
        asm.place(slow)
        asm.jump_imm64(JGT, R2, 0x7FFFFFFF, fail)
        self._through_helper(dst, size, fail)
        asm.place(done)

    def _indirect_prefix(self, dst: int, size: int, fail: int, done: int) -> None:
        """r2 = offset in the tagged frame: read below TAG_END from the prefix, else make it an offset in the packet."""
        asm = self.asm
        beyond = asm.label()
        asm.jump_imm64(JGE, R2, TAG_END, beyond)
        asm.load(4, R0, CTX, _SKB_LEN)
        asm.add_imm(R0, TAG_BYTES)
        asm.mov(R1, R2)
        asm.add_imm(R1, size)
        asm.jump_reg(JGT, R1, R0, fail, wide=True)
        asm.mov(R1, R10)
        asm.add_imm(R1, _PREFIX)
        asm.add(R1, R2)
        asm.mov_imm(R3, 0)
        for step in range(size):
            asm.alu_imm(LSH, R3, 8)
            asm.load(1, R0, R1, step)
            asm.alu(OR, R3, R0)
        asm.mov(dst, R3)
        asm.jump(done)
        asm.place(beyond)
        asm.add_imm(R2, -TAG_BYTES)

    def header_length(self, dst: int, offset: int, fail: int, *, near: bool) -> None:
        """dst = 4 * (frame[offset] & 15), the classic `4*([k]&0xf)`."""
        if near:
            self.near(dst, offset, 1, fail)
        else:
            self.far(dst, offset, 1, fail)
        self.asm.alu_imm(AND, dst, 0xF)
        self.asm.alu_imm(LSH, dst, 2)

    def _through_helper_at(self, dst: int, offset: int, size: int, fail: int) -> None:
        asm = self.asm
        if self.vlan == "metadata":
            if offset < TAG_END:
                if offset + size > TAGGED_BYTES:
                    asm.load(4, R0, CTX, _SKB_LEN)
                    asm.jump_imm(JLT, R0, offset + size - TAG_BYTES, fail)
                self._prefix_bytes(dst, offset, size)
                return
            offset -= TAG_BYTES
        asm.mov_imm(R2, offset)
        self._through_helper(dst, size, fail)

    def _through_helper(self, dst: int, size: int, fail: int) -> None:
        """r2 = offset in the packet."""
        asm = self.asm
        asm.mov(R1, CTX)
        asm.mov(R3, R10)
        asm.add_imm(R3, _BUFFER)
        asm.mov_imm(R4, size)
        asm.call(Helper.XDP_LOAD_BYTES if self.kind == "xdp" else Helper.SKB_LOAD_BYTES)
        self.reload_end()
        asm.jump_imm64(JNE, R0, 0, fail)
        asm.load(size, dst, R10, _BUFFER)
        asm.big_endian(dst, size)
