# SPDX-License-Identifier: GPL-2.0-only
"""Which filters of a chain can never be the first to match: they match no frame, or earlier ones match all of theirs.

Pure. A filter is reported only when that is certain; where the decision graphs leave something open (an opaque end,
bytes that two fields share), it counts as one that may match. Two steps: a sample frame for each filter shows quickly
that nearly all can match; only where an earlier filter matches that frame too, the graphs are searched for a frame that
none of the earlier ones matches. The caller bounds the search in time; filters that it did not reach are listed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from appliance.filter import symbolic
from appliance.filter.classic import ClassicFilter
from appliance.filter.graph import ACCEPT, OPAQUE_FIELD, REJECT, Field, FieldKind, Graph

SECONDS = 0.2  # of processor time; 256 rules of usual kinds take half of it
MAX_TRIED = 8  # values of one field that are tried for the made-up frame
MAX_NAMED = 4  # filters that are named as those that take everything together
MAX_STEPS = 20_000  # of the search, for one filter
EXAMPLE_BYTES = 128  # length of a frame that is made up
_LOOK_EVERY = 256  # steps between two looks at the clock

# field number -> value
_Frame = dict[int, int]


@dataclass
class Reach:
    """What was found, by the filters' places in the chain.

    `hidden`: never the first; the earlier ones that take its frames (some of them, when they are many), () when it
    takes no frame at all. `undecided`: not looked into, as the time was over.
    """

    hidden: dict[int, tuple[int, ...]] = field(default_factory=dict)
    undecided: tuple[int, ...] = ()


class _OverError(Exception):
    """The time, or the number of steps for one filter, is used up."""


def unreachable(
    filters: Sequence[ClassicFilter], seconds: float = SECONDS, clock: Callable[[], float] = time.thread_time
) -> Reach:
    """Look at every filter of the chain, for at most about `seconds` of processor time."""
    return _Look(filters, clock() + seconds, clock).run()


def examples(filt: ClassicFilter) -> list[bytes]:
    """Frames of IPv4 and IPv6 that the filter takes, one of each where one is found at once."""
    look = _Look((filt,), float("inf"), lambda: 0.0)
    look.learn((0,))
    graph, (root,) = look.graph, look.roots
    ethertype = graph.number(Field(FieldKind.FIXED, 12, 2, 0xFFFF))
    found = []
    for kind, header in ((0x0800, 0x45), (0x86DD, 0x60)):
        values = look.example(graph.restrict(root, ethertype, kind, kind))
        if values is None:
            continue
        frame = bytearray(EXAMPLE_BYTES)
        frame[12:14], frame[14] = kind.to_bytes(2, "big"), header
        for number, value in values.items():
            what = graph.fields[number]
            at = what.offset
            if what.kind is FieldKind.BEHIND_HEADER:
                frame[what.header] = 0x45
                at += 20
            if what.kind not in (FieldKind.FIXED, FieldKind.BEHIND_HEADER) or at + what.size > len(frame):
                continue
            there = int.from_bytes(frame[at : at + what.size], "big")
            frame[at : at + what.size] = (
                there & ~what.mask | (value if value & what.mask == value else what.mask)
            ).to_bytes(what.size, "big")
        if filt.matches(bytes(frame)):
            found.append(bytes(frame))
    return found


class _Look:
    def __init__(self, filters: Sequence[ClassicFilter], until: float, clock: Callable[[], float]) -> None:
        self.graph, self.filters, self.until, self.clock = Graph(), filters, until, clock
        self.roots: list[int] = []
        self.usual: list[int] = []  # by field: a value that hardly any filter asks for
        self.steps = 0

    def run(self) -> Reach:
        result, first = Reach(), dict[ClassicFilter, int]()
        closed: int | None = None  # the first filter that takes every frame
        asked: list[int] = []  # places that the graphs have to decide
        for place, filt in enumerate(self.filters):
            same = first.setdefault(filt, place)
            if filt.constant is False:
                result.hidden[place] = ()
            elif closed is not None or same != place:
                result.hidden[place] = (same if same != place else closed or 0,)
            else:
                asked.append(place)
                closed = place if filt.constant is True else None
        try:
            self.learn(asked)
        except _OverError:
            result.undecided = tuple(asked)
            return result
        undecided = []
        for number, place in enumerate(asked):
            try:
                found = self._covered(number)
            except _OverError:
                undecided.append(place)
                continue
            if found is not None:
                result.hidden[place] = tuple(asked[other] for other in found)
        result.undecided = tuple(undecided)
        return result

    def learn(self, asked: Sequence[int]) -> None:
        """The filters' graphs, and for each field a value far from all that is tested."""
        for place in asked:
            self.roots.append(symbolic.graph_of(self.graph, self.filters[place], place)[0])
            self._spend(_LOOK_EVERY)
        graph = self.graph
        edges: list[set[int]] = [{0} for _ in graph.fields]
        for node in range(2, len(graph)):
            if graph.field[node] != OPAQUE_FIELD:
                edges[graph.field[node]] |= {graph.low[node], graph.high[node] + 1}
        for number, what in enumerate(graph.fields):
            if what.kind in (FieldKind.LENGTH, FieldKind.HEADER_LENGTH):
                self.usual.append(what.largest)  # long enough for everything
                continue
            starts = sorted(edge for edge in edges[number] if edge <= what.largest)
            ends = [*starts[1:], what.largest + 1]
            self.usual.append(max(zip(starts, ends, strict=True), key=lambda gap: gap[1] - gap[0])[0])

    def _spend(self, steps: int) -> None:
        self.steps += steps
        if self.steps >= _LOOK_EVERY:
            self.steps = 0
            if self.clock() > self.until:
                raise _OverError

    # -- one filter

    def _covered(self, number: int) -> tuple[int, ...] | None:
        """The earlier filters that take all of its frames; () it has none; None: it may match."""
        root, before = self.roots[number], self.roots[:number]
        self._spend(number // 8 + 1)
        frame = self.example(root)
        if frame is not None and not any(self._takes(other, frame) for other in before):
            return None
        if not self._possible((root,), ()):
            return ()
        touching = [other for other in range(number) if self._possible((root, before[other]), ())]
        for other in touching:
            if not self._possible((root,), (before[other],)):
                return (other,)
        if len(touching) < 2 or self._possible((root,), tuple(before[other] for other in touching)):
            return None
        return tuple(touching[: MAX_NAMED + 1])

    def example(self, root: int) -> _Frame | None:
        """What a frame that the filter takes, or may, has in the fields it tests; None: none was found at once."""
        graph, node = self.graph, root
        frame: _Frame = {}
        while node != ACCEPT:
            number = graph.field[node]
            if number == OPAQUE_FIELD:
                return frame if node != REJECT else None
            tried = [self.usual[number], 0, *sorted(graph.cuts(node, number))[:MAX_TRIED]]
            for value in tried:
                found = graph.restrict(node, number, value, value)
                if found != REJECT:
                    node, frame[number] = found, value
                    break
            else:
                return None
        return frame

    def _takes(self, node: int, frame: _Frame) -> bool:
        """Whether a filter certainly takes the made-up frame."""
        fields, lows, highs, yes, no = self.graph.field, self.graph.low, self.graph.high, self.graph.yes, self.graph.no
        while node > ACCEPT:
            number = fields[node]
            if number == OPAQUE_FIELD:
                return False
            value = frame.get(number)
            if value is None:
                value = self.usual[number]
            node = yes[node] if lows[node] <= value <= highs[node] else no[node]
        return node == ACCEPT

    def _possible(self, all_of: tuple[int, ...], none_of: tuple[int, ...]) -> bool:
        """Whether some frame may be taken by every one of the first, and by none of the second.

        An opaque end takes what it must take, and does not take what it must not: so "no" is certain.
        """
        graph, steps = self.graph, 0
        todo = [(all_of, none_of)]
        while todo:
            must, must_not = todo.pop()
            if REJECT in must or ACCEPT in must_not:
                continue
            must = tuple(node for node in must if node != ACCEPT and graph.field[node] != OPAQUE_FIELD)
            must_not = tuple(node for node in must_not if node != REJECT and graph.field[node] != OPAQUE_FIELD)
            if not must and not must_not:
                return True
            steps += len(must) + len(must_not)
            self._spend(len(must) + len(must_not))
            if steps > MAX_STEPS:
                raise _OverError
            node = must[0] if must else must_not[0]
            number, low, high = graph.field[node], graph.low[node], graph.high[node]
            largest = graph.fields[number].largest
            parts = [(0, low - 1), (high + 1, largest), (low, high)]  # the last is looked at first
            for begin, end in parts:
                if begin <= end:
                    todo.append((self._within(must, number, begin, end), self._within(must_not, number, begin, end)))
        return False

    def _within(self, nodes: tuple[int, ...], number: int, low: int, high: int) -> tuple[int, ...]:
        return tuple(dict.fromkeys(self.graph.restrict(node, number, low, high) for node in nodes))
