# SPDX-License-Identifier: GPL-2.0-only
"""A merged set as eBPF: the states as compares and branches, then the leaves.

Code generation only; `merge` has made all decisions. Registers: CTX, DATA, END and X (packet pointer to what follows
the header) as in `frame_reader`; BEST as in `emit_leaf`.
"""

from __future__ import annotations

from appliance.filter import translate
from appliance.filter.asm import AND, JEQ, JGE, JGT, JLT, R0, R1, R5, R9, R10
from appliance.filter.chain import needed
from appliance.filter.emit_leaf import BEST, BEST_AT, NONE, OPAQUE_AT, WORD, LeafEmitter
from appliance.filter.frame_reader import HEADER_BYTES, Access, X
from appliance.filter.lowered import Prepared
from appliance.filter.merge import BoundSplit, Leaf, ValueSplit

POPULAR = (0x800, 0x86DD, 6, 17)  # asked for first
_LINEAR_POINTS = 4


class Emitter(LeafEmitter):
    """Appends one merged set to a program: goes to `match` with the rank in BEST, or to `miss`."""

    def __init__(
        self, access: Access, prepared: Prepared, *, match: int, miss: int, pieces: int, either: int | None = None
    ) -> None:
        """`either`: where to go with a rank or NONE in BEST, when match and miss need not be told apart."""
        super().__init__(access, prepared, match=match, miss=miss)
        self.pieces, self.either = pieces, either
        self.labels = [self.asm.label() for _ in prepared.merged.states]
        self.pending: list[int] = []
        self.queued: set[int] = set()
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
                self.leaf(self.prepared.plans[number])
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
        """Continue with the state, by falling through where it comes next."""
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

    def _value(self, state: ValueSplit) -> None:
        self.load(state.field)
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

    def _opaque_tail(self) -> None:
        """Rules to be run as a whole, those of the leaf's mask, while no better one is known."""
        asm, access, filters = self.asm, self.access, self.prepared.merged.filters
        asm.place(self.tail)
        asm.store(8, R10, BEST_AT, BEST)
        access.reload_end()
        if access.kind == "xdp":
            access.whole_or(needed([(rank, filters[rank]) for rank in self.prepared.opaque]), self.pieces)
        done = asm.label()
        for rank, bit in self.opaque_bits.items():
            accept, following = asm.label(), asm.label()
            asm.load(4, R0, R10, BEST_AT)
            asm.jump_imm(JLT, R0, rank, done)
            word, rest = divmod(bit, WORD)
            asm.load(4, R0, R10, OPAQUE_AT - 8 * word + rest // 32 * 4)
            asm.alu_imm(AND, R0, 1 << rest % 32)
            asm.jump_imm(JEQ, R0, 0, following)
            translate.emit(access, filters[rank], accept, following)
            asm.place(accept)
            asm.mov_imm(BEST, rank)
            asm.jump(self.match)
            asm.place(following)
        asm.place(done)
        asm.load(4, BEST, R10, BEST_AT)
        asm.jump(self.out)


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
