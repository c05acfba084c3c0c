# SPDX-License-Identifier: GPL-2.0-only
"""A classic filter run on symbols instead of a frame: the decision graph of what it tests.

Pure. Walks forward over the states that may stand at each instruction (what A, X and the memory hold, and which bounds
are known), then backward to make the nodes. Every load tests its own bound first and rejects the frame if that fails.
What cannot be written as an interval test of a field (arithmetic on two fields, computed offsets) becomes an opaque
end: there the filter is run as a whole, but its tests up to there still prune it.
"""

from __future__ import annotations

from typing import NamedTuple

from appliance.filter import classic as c
from appliance.filter.classic import ClassicFilter
from appliance.filter.frame_reader import NEAR_BYTES
from appliance.filter.graph import ACCEPT, INFINITY, LENGTH, REJECT, Field, FieldKind, Graph

MAX_STATES = 6000  # of one filter
MAX_HEADER_LENGTH = 60
MAX_LENGTH = 0xFFFF  # lengths are looked up with 16 bits

# A value: ("k", number), ("f", field without mask, mask, shift), ("x", offset, plus) for 4*([offset]&15) + plus,
# ("d", value of the kind "f", number) for that value less the number, or None = unknown.
_Value = tuple[object, ...] | None
_UNKNOWN: _Value = None
# state: A, X, memory, known length, known length behind the header (of X)
_State = tuple[_Value, _Value, tuple[tuple[int, _Value], ...], int, int]
_Place = tuple[int, int]  # instruction, number of the state there


class _End(NamedTuple):
    """The filter's answer is known."""

    node: int


class _Go(NamedTuple):
    """On to one state, if the frame has all bytes that `bounds` (field, bytes) name."""

    place: _Place
    bounds: tuple[tuple[int, int], ...]


class _Ask(NamedTuple):
    """On to one of two states: does the field lie in low..high?"""

    test: tuple[int, int, int]
    yes: _Place
    no: _Place


# what an instruction does in a state
_Step = _End | _Go | _Ask


class _WholeError(Exception):
    """The filter must be run as a whole; the text says why."""


def graph_of(
    graph: Graph, filt: ClassicFilter, identity: int, *, max_states: int = MAX_STATES, whole: bool = False
) -> tuple[int, str]:
    """Root of the filter's graph, and why part of it is opaque ("" when nothing is).

    `whole`: for frames that hold every byte that is asked for; no load then rejects.
    """
    try:
        return _Walk(graph, filt, identity, max_states, whole).run()
    except _WholeError as why:
        return graph.opaque_end(identity), str(why)


class _Walk:
    def __init__(self, graph: Graph, filt: ClassicFilter, identity: int, max_states: int, whole: bool) -> None:
        self.graph, self.instructions, self.identity = graph, filt.instructions, identity
        self.max_states, self.whole = max_states, whole
        self.states: list[dict[_State, int]] = [{} for _ in filt.instructions]
        self.steps: list[list[_Step]] = [[] for _ in filt.instructions]
        self.total = 0
        self.why = ""

    def run(self) -> tuple[int, str]:
        zero: _Value = ("k", 0)
        self._reach(0, (zero, zero, (), 0, 0))
        for at in range(len(self.instructions)):
            # states of an instruction are all known when its turn comes: jumps go forward
            for state in list(self.states[at]):
                self.steps[at].append(self._step(at, state))
        nodes: list[list[int]] = [[] for _ in self.instructions]
        for at in reversed(range(len(self.instructions))):
            nodes[at] = [self._node(step, nodes) for step in self.steps[at]]
        return nodes[0][0], self.why

    def _reach(self, at: int, state: _State) -> tuple[int, int]:
        known = self.states[at]
        index = known.get(state)
        if index is None:
            self.total += 1
            if self.total > self.max_states:
                raise _WholeError(f"more than {self.max_states} states")
            index = known[state] = len(known)
        return at, index

    def _node(self, step: _Step, nodes: list[list[int]]) -> int:
        if isinstance(step, _End):
            return step.node
        if isinstance(step, _Go):
            at, index = step.place
            result = nodes[at][index]
            for field, need in reversed(step.bounds):
                result = self.graph.node(field, need, INFINITY, result, REJECT)
            return result
        field, low, high = step.test
        return self.graph.node(field, low, high, nodes[step.yes[0]][step.yes[1]], nodes[step.no[0]][step.no[1]])

    def _opaque(self, why: str) -> _Step:
        self.why = self.why or why
        return _End(self.graph.opaque_end(self.identity))

    def _step(self, at: int, state: _State) -> _Step:
        a, x, memory, known, behind = state
        code, _, _, k = self.instructions[at]
        kind, mode = code & 7, code & 0xE0
        bounds: tuple[tuple[int, int], ...] = ()
        if kind in (c.LD, c.LDX):
            value: _Value
            if mode == c.IMM:
                value = ("k", k)
            elif mode == c.LEN:
                value = ("f", Field(FieldKind.LENGTH_VALUE), INFINITY - 1, 0)
            elif mode == c.MEM:
                value = dict(memory).get(k, ("k", 0))
            elif mode == c.MSH:
                if k >= NEAR_BYTES:
                    return self._opaque(f"reads byte {k}, past the first {NEAR_BYTES}")
                value = ("x", k, 0)
                if k + 1 > known and not self.whole:
                    bounds, known = ((LENGTH, k + 1),), k + 1
                if x != value:
                    behind = 0
            else:
                size = c.size_of(code)
                offset, base = k, x if mode == c.IND else ("k", 0)
                if base is None or base[0] not in ("k", "x"):
                    return self._opaque("computes where to read")
                if base[0] == "k":
                    offset += base[1]  # type: ignore[operator]
                    end = offset + size
                    if end > NEAR_BYTES:
                        return self._opaque(f"reads byte {end - 1}, past the first {NEAR_BYTES}")
                    if end > known and not self.whole:
                        bounds, known = ((LENGTH, end),), end
                    value = ("f", Field(FieldKind.FIXED, offset, size), (1 << 8 * size) - 1, 0)
                else:
                    offset += base[2]  # type: ignore[operator]
                    end = offset + size
                    if end + MAX_HEADER_LENGTH > NEAR_BYTES:
                        return self._opaque(f"reads {end} bytes behind a header, past the first {NEAR_BYTES}")
                    header: int = base[1]  # type: ignore[assignment]
                    if end > behind and not self.whole:
                        number = self.graph.number(Field(FieldKind.HEADER_LENGTH, header=header))
                        bounds, behind = ((number, end),), end
                    value = ("f", Field(FieldKind.BEHIND_HEADER, offset, size, 0, header), (1 << 8 * size) - 1, 0)
            if kind == c.LD:
                a = value
            else:
                if mode != c.MSH:
                    behind = 0
                x = value
            return _Go(self._reach(at + 1, (a, x, memory, known, behind)), bounds)
        if kind in (c.ST, c.STX):
            changed = dict(memory)
            changed[k] = a if kind == c.ST else x
            memory = tuple(sorted(changed.items()))
            return _Go(self._reach(at + 1, (a, x, memory, known, behind)), ())
        if kind == c.MISC:
            if code & 0xF8 == c.TAX:
                x, behind = a, behind if x == a else 0
            else:
                a = x
            return _Go(self._reach(at + 1, (a, x, memory, known, behind)), ())
        if kind == c.ALU:
            operand: _Value = x if code & c.X else ("k", k)
            if code & 0xF0 in (c.DIV, c.MOD) and operand == ("k", 0):
                return _End(REJECT)
            if code & 0xF0 in (c.DIV, c.MOD) and (operand is None or operand[0] != "k"):
                return self._opaque("divides by a value of the frame")
            return _Go(self._reach(at + 1, (_alu(code & 0xF0, a, operand), x, memory, known, behind)), ())
        if kind == c.RET:
            value = ("k", k) if code & 0x18 == c.RET_K else a if code & 0x18 == c.RET_A else x
            if value is None or value[0] != "k":
                return self._opaque("returns a value of the frame")
            return _End(ACCEPT if value[1] else REJECT)
        return self._jump(at, state)

    def _jump(self, at: int, state: _State) -> _Step:
        a, x, _, _, _ = state
        code, jt, jf, k = self.instructions[at]
        if code & 0xF0 == c.JA:
            return _Go(self._reach(at + 1 + k, state), ())
        operand: _Value = x if code & c.X else ("k", k)
        if a is not None and a[0] == "d" and operand == ("k", 0) and code & 0xF0 == c.JEQ:
            a, operand = a[1], ("k", a[2])  # type: ignore[assignment]
        if a is None or operand is None or operand[0] != "k" or a[0] in ("x", "d"):
            return self._opaque("compares values of the frame with each other or after arithmetic")
        number: int = operand[1]  # type: ignore[assignment]
        if a[0] == "k":
            taken = c.compare(code & 0xF0, a[1], number)  # type: ignore[arg-type]
            return _Go(self._reach(at + 1 + (jt if taken else jf), state), ())
        test, positive = _test(self.graph, a, code & 0xF0, number)
        yes, no = (jt, jf) if positive else (jf, jt)
        if test is None:
            return _Go(self._reach(at + 1 + no, state), ())
        return _Ask(test, self._reach(at + 1 + yes, state), self._reach(at + 1 + no, state))


def _alu(operation: int, a: _Value, operand: _Value) -> _Value:
    if operation == c.ADD and a is not None and a[0] == "k":
        a, operand = operand, a  # unoptimised code adds the header's length to the offset
    if a is None or operand is None or operand[0] != "k":
        return _UNKNOWN
    number: int = operand[1]  # type: ignore[assignment]
    if a[0] == "k":
        return ("k", c.apply(operation, a[1], number))  # type: ignore[arg-type]
    if a[0] == "x" and operation == c.ADD and number <= NEAR_BYTES:
        return ("x", a[1], a[2] + number)  # type: ignore[operator]
    if a[0] != "f":
        return _UNKNOWN
    _, field, mask, shift = a
    assert isinstance(mask, int)
    assert isinstance(shift, int)
    if operation == c.AND:
        return ("f", field, mask & (number << shift), shift)
    if operation == c.RSH and shift + number < 32:
        return ("f", field, mask >> (shift + number) << (shift + number), shift + number)
    if operation in (c.OR, c.ADD, c.SUB, c.XOR, c.LSH) and number == 0:
        return a
    if operation == c.SUB:  # unoptimised code compares for equality by subtracting
        return ("d", a, number)
    return _UNKNOWN


def _test(graph: Graph, a: tuple[object, ...], operation: int, number: int) -> tuple[tuple[int, int, int] | None, bool]:
    """A comparison as an interval: (field, low, high) and whether lying in it is "yes". None: it never does."""
    _, base, mask, shift = a
    assert isinstance(base, Field)
    assert isinstance(mask, int)
    assert isinstance(shift, int)
    if operation == c.JSET:
        mask &= number << shift
        if mask == 0:
            return None, True
    if mask == 0:  # a number after all: zero
        taken = c.compare(operation, 0, number)
        return None, not taken
    full = INFINITY - 1 if base.kind is FieldKind.LENGTH_VALUE else (1 << 8 * base.size) - 1
    low_bits = full ^ mask
    if low_bits & (low_bits + 1):  # not the field's high bits: a field of its own
        if base.kind is FieldKind.LENGTH_VALUE:
            raise _WholeError("tests single bits of `len`")
        low_bits = 0
    else:
        mask = full
    if base.kind is FieldKind.LENGTH_VALUE:
        field = graph.number(base)
    else:
        field = graph.number(Field(base.kind, base.offset, base.size, mask, base.header))
    if operation == c.JSET:
        return (field, 0, low_bits), False
    wanted = number << shift
    if base.kind is FieldKind.LENGTH_VALUE and wanted >= MAX_LENGTH:
        raise _WholeError(f"compares `len` with {MAX_LENGTH} or more")
    if operation == c.JEQ:
        if wanted & ~(full if low_bits or mask == full else mask) or wanted & low_bits:
            return None, True
        return (field, wanted, wanted | low_bits), True
    if operation == c.JGT:
        wanted = (number + 1) << shift
    # the masked value is a multiple of low_bits + 1: round up
    wanted = (wanted + low_bits) & ~low_bits
    if wanted > full:
        return None, True
    return (field, wanted, full), True
