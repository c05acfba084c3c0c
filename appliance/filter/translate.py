# SPDX-License-Identifier: GPL-2.0-only
"""One classic filter translated to eBPF on its own; tests compare merged programs with this plain form.

Pure code generation. A load outside the frame, or division by zero, rejects, as in libpcap. One bound check per basic
block serves all its loads at fixed offsets (any of them failing rejects, whichever comes first).
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.filter import asm as e
from appliance.filter import classic as c
from appliance.filter.classic import ClassicFilter, Instruction
from appliance.filter.frame_reader import MEMORY, NEAR_BYTES, A, Access, X

_MAX_HEADER_LENGTH = 60  # what `4*([k]&0xf)` can be
_JUMPS = {c.JEQ: e.JEQ, c.JGT: e.JGT, c.JGE: e.JGE, c.JSET: e.JSET}
_INVERSE = {c.JEQ: e.JNE, c.JGT: e.JLE, c.JGE: e.JLT}
_UNSET, _HEADER, _ANY = range(3)  # what X may hold


def near_end(instruction: Instruction) -> int | None:
    """Where a load at a fixed offset ends, when that is near; else None."""
    code, k = instruction.code, instruction.k
    if code & 7 == c.LD and code & 0xE0 == c.ABS and k + c.size_of(code) <= NEAR_BYTES:
        return k + c.size_of(code)
    if code & 7 == c.LDX and code & 0xE0 == c.MSH and k < NEAR_BYTES:
        return k + 1
    return None


@dataclass
class _Facts:
    """What is known before an instruction, on every path to it."""

    bound: int  # bytes known to be in the frame
    x: int
    a_set: bool
    memory: int  # words written, as bits

    def join(self, other: _Facts | None) -> _Facts:
        if other is None:
            return _Facts(self.bound, self.x, self.a_set, self.memory)
        return _Facts(
            min(self.bound, other.bound),
            self.x if self.x == other.x else _ANY if min(self.x, other.x) != _UNSET else _UNSET,
            self.a_set and other.a_set,
            self.memory & other.memory,
        )


@dataclass
class Plan:
    """What one walk over a filter finds out, before any code is made."""

    reachable: list[bool]
    bounds: list[int]  # by instruction: check this many bytes before it; 0 = nothing to check
    header_x: list[bool]  # by instruction: X is `4*([k]&0xf)` here
    need: int  # near bytes that the filter may read
    init_a: bool
    init_x: bool
    init_memory: int


def plan(instructions: tuple[Instruction, ...]) -> Plan:
    """Bound checks, what X is, and what has to be zeroed first."""
    count = len(instructions)
    leader = [False] * (count + 1)
    for at, (code, jt, jf, k) in enumerate(instructions):
        if code & 7 == c.JMP:
            leader[at + 1] = True
            if code & 0xF0 == c.JA:
                leader[at + 1 + k] = True
            else:
                leader[at + 1 + jt] = leader[at + 1 + jf] = True
    facts: list[_Facts | None] = [None] * (count + 1)
    facts[0] = _Facts(0, _UNSET, False, 0)
    result = Plan([False] * count, [0] * count, [False] * count, 0, False, False, 0)
    for at, instruction in enumerate(instructions):
        now = facts[at]
        if now is None:
            continue
        result.reachable[at] = True
        if at == 0 or leader[at]:
            want, ahead = now.bound, at
            while ahead < count and (ahead == at or not leader[ahead]):
                want = max(want, near_end(instructions[ahead]) or 0)
                ahead += 1
            if want > now.bound:
                result.bounds[at] = want
                result.need = max(result.need, want)
                now.bound = want
        _step(result, at, instruction, now)
        code, jt, jf, k = instruction
        if code & 7 == c.JMP:
            targets: tuple[int, ...] = (at + 1 + k,) if code & 0xF0 == c.JA else (at + 1 + jt, at + 1 + jf)
        elif code & 7 == c.RET:
            targets = ()
        else:
            targets = (at + 1,)
        for target in targets:
            facts[target] = now.join(facts[target])
    return result


def _step(result: Plan, at: int, instruction: Instruction, now: _Facts) -> None:
    code, _, _, k = instruction
    kind, mode = code & 7, code & 0xE0
    reads_x = (
        (kind == c.LD and mode == c.IND)
        or (kind in (c.ALU, c.JMP) and code & c.X and code & 0xF0 != c.NEG)
        or kind == c.STX
        or (kind == c.MISC and code & 0xF8 == c.TXA)
        or (kind == c.RET and code & 0x18 == c.RET_X)
    )
    reads_a = (
        kind in (c.ALU, c.JMP)
        or kind == c.ST
        or (kind == c.MISC and code & 0xF8 == c.TAX)
        or (kind == c.RET and code & 0x18 == c.RET_A)
    )
    if reads_x and now.x == _UNSET:
        result.init_x = True
    if reads_a and not now.a_set:
        result.init_a = True
    if kind in (c.LD, c.LDX) and mode == c.MEM and not now.memory >> k & 1:
        result.init_memory |= 1 << k
    result.header_x[at] = now.x == _HEADER
    if kind == c.LD and mode == c.IND and now.x == _HEADER:
        end = _MAX_HEADER_LENGTH + k + c.size_of(code)
        if end <= NEAR_BYTES:
            result.need = max(result.need, end)
    if kind == c.LD or (kind == c.MISC and code & 0xF8 == c.TXA):
        now.a_set = True
    elif kind == c.LDX:
        now.x = _HEADER if mode == c.MSH else _ANY
    elif kind == c.MISC:
        now.x = _ANY
    elif kind in (c.ST, c.STX):
        now.memory |= 1 << k


def emit(access: Access, filt: ClassicFilter, accept: int, reject: int) -> None:
    """Append the filter's code: ends at `accept` or `reject`, falls through to neither."""
    code = access.asm
    if filt.constant is not None:
        code.jump(accept if filt.constant else reject)
        return
    instructions = filt.instructions
    facts = plan(instructions)
    if facts.init_a:
        code.mov_imm(A, 0)
    if facts.init_x:
        code.mov_imm(X, 0)
    for word in range(c.MEMORY_WORDS):
        if facts.init_memory >> word & 1:
            code.store_imm(4, e.R10, MEMORY + 4 * word, 0)
    labels = [code.label() for _ in instructions]
    # a jump to a return goes where the return goes
    aims = list(labels)
    for at, (op, _, _, k) in enumerate(instructions):
        if op == c.RET | c.RET_K:
            aims[at] = accept if k else reject
    for at, instruction in enumerate(instructions):
        falls_in = at > 0 and facts.reachable[at - 1] and instructions[at - 1].code & 7 not in (c.JMP, c.RET)
        if not facts.reachable[at] or (aims[at] != labels[at] and not falls_in):
            continue  # unreachable: the verifier refuses dead code
        code.place(labels[at])
        if facts.bounds[at]:
            access.bound(facts.bounds[at], reject)
        _emit_one(access, instruction, at=at, aims=aims, facts=facts, accept=accept, reject=reject)


def _emit_one(
    access: Access,
    instruction: Instruction,
    *,
    at: int,
    aims: list[int],
    facts: Plan,
    accept: int,
    reject: int,
) -> None:
    code = access.asm
    op, jt, jf, k = instruction
    kind = op & 7
    if kind in (c.LD, c.LDX):
        _emit_load(access, instruction, facts.header_x[at], reject)
    elif kind in (c.ST, c.STX):
        code.store(4, e.R10, MEMORY + 4 * k, A if kind == c.ST else X)
    elif kind == c.ALU:
        _emit_alu(code, op, k, reject)
    elif kind == c.MISC:
        if op & 0xF8 == c.TAX:
            code.mov(X, A)
        else:
            code.mov(A, X)
    elif kind == c.JMP:
        if op & 0xF0 == c.JA:
            code.jump(aims[at + 1 + k])
            return
        yes, no, following = aims[at + 1 + jt], aims[at + 1 + jf], aims[at + 1]
        operation, inverse = _JUMPS[op & 0xF0], _INVERSE.get(op & 0xF0)
        if yes == following and inverse is not None:
            yes, no, operation = no, yes, inverse
        if op & c.X:
            code.jump_reg(operation, A, X, yes)
        else:
            code.jump_imm(operation, A, k, yes)
        if no != following or code.placed(no) or aims[at + 1] in (accept, reject):
            code.jump(no)
    else:
        value = op & 0x18
        if value == c.RET_K:
            code.jump(accept if k else reject)
        else:
            code.jump_imm(e.JNE, A if value == c.RET_A else X, 0, accept)
            code.jump(reject)


def _emit_load(access: Access, instruction: Instruction, header_x: bool, reject: int) -> None:
    code = access.asm
    op, _, _, k = instruction
    kind, mode = op & 7, op & 0xE0
    dst = A if kind == c.LD else X
    near = near_end(instruction) is not None
    if mode == c.IMM:
        code.mov_imm(dst, k)
    elif mode == c.MEM:
        code.load(4, dst, e.R10, MEMORY + 4 * k)
    elif mode == c.LEN:
        access.length(dst)
    elif mode == c.MSH:
        access.header_length(dst, k, reject, near=near)
    elif mode == c.ABS:
        size = c.size_of(op)
        if near:
            access.near(dst, k, size, reject)
        else:
            access.far(dst, k, size, reject)
    else:
        size = c.size_of(op)
        plain = access.vlan == "inline" and not access.helper_only
        if header_x and plain and _MAX_HEADER_LENGTH + k + size <= NEAR_BYTES:
            code.mov(e.R2, e.R9)
            code.add(e.R2, X)
            code.mov(e.R3, e.R2)
            code.add_imm(e.R3, k + size)
            code.jump_reg(e.JGT, e.R3, e.R5, reject, wide=True)
            code.load(size, dst, e.R2, k)
            code.big_endian(dst, size)
        else:
            access.indirect(dst, X, k, size, reject)


def _emit_alu(code: e.Assembler, op: int, k: int, reject: int) -> None:
    operation = op & 0xF0
    if operation == c.NEG:
        code.alu_imm(e.NEG, A, 0)
        return
    if op & c.X:
        if operation in (c.DIV, c.MOD):
            code.jump_imm(e.JEQ, X, 0, reject)
        if operation in (c.LSH, c.RSH):
            fits, done = code.label(), code.label()
            code.jump_imm(e.JLT, X, 32, fits)
            code.mov_imm(A, 0)
            code.jump(done)
            code.place(fits)
            code.alu(operation, A, X)
            code.place(done)
            return
        code.alu(operation, A, X)
        return
    if operation in (c.DIV, c.MOD) and k == 0:
        code.jump(reject)
    elif operation in (c.LSH, c.RSH) and k >= 32:
        code.mov_imm(A, 0)
    else:
        code.alu_imm(operation, A, k)
