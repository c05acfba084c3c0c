# SPDX-License-Identifier: GPL-2.0-only
"""Merge many filters into a graph of states: each holds the rules that are still possible and what is left to test.

Length bounds, EtherType, protocol, next header and fragment offset are merged fully: a state tests one of them, and
each class of its value leads to a state where that is known. Rules that the value excludes are dropped, and so is
everything after a rule that is certain; equal states are shared. What remains at a leaf tests wide fields only
(addresses, ports, tags); `leaves` turns those tests into tables.

Pure, except for the graph of filters that is kept between calls (under one lock), because most rules stay the same from
one policy to the next. Budgets bound the work; `BudgetError` says which one was exceeded, and the caller falls back.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance.filter import symbolic
from appliance.filter.classic import ClassicFilter
from appliance.filter.graph import ACCEPT, INFINITY, LENGTH, REJECT, Field, FieldKind, Graph

MAX_STATES = 1500
MAX_EDGES = 12_000  # classes of all states together
MAX_SECONDS = 5.0  # of processor time, for one merged graph: twenty times what 1,024 rules take on a slow machine
MAX_KEPT_NODES = 300_000
_VLAN_TYPES = (0x8100, 0x88A8, 0x9100)
_MAX_TAGS = 2
_TYPE_AT, _TAG = 12, 4

lock = threading.RLock()


class BudgetError(Exception):
    """Merging would exceed a budget; the text says which."""


@dataclass(frozen=True)
class BoundSplit:
    """Does the frame have `need` bytes (`header` None), or `need` bytes from the header's variable end on?"""

    need: int
    header: int | None
    yes: int
    no: int


@dataclass(frozen=True)
class ValueSplit:
    """Which class is the field's value in: `starts[i]` begins class i, which leads to state `targets[i]`."""

    field: int
    starts: tuple[int, ...]
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Leaf:
    """Rules (rank, rest of the filter) that only wide fields decide. `header`: X is set up for this header."""

    rules: tuple[tuple[int, int], ...]
    header: int | None


State = BoundSplit | ValueSplit | Leaf
_Key = tuple[tuple[int, ...], tuple[int, ...], int, int, int | None, int]


@dataclass
class Merged:
    """The whole: states by number, state 0 is the first."""

    graph: Graph
    states: list[State]
    why_opaque: dict[int, str]
    need: int  # bytes that the first piece of a frame must hold for every bound to be decided by it
    filters: dict[int, ClassicFilter]  # by rank


@dataclass
class _Kept:
    """Graphs of filters, kept between calls."""

    graph: Graph = field(default_factory=Graph)
    roots: dict[ClassicFilter, tuple[int, str, int]] = field(default_factory=dict)

    def root(self, filt: ClassicFilter) -> tuple[int, str, int]:
        found = self.roots.get(filt)
        if found is None:
            identity = len(self.roots)
            found = self.roots[filt] = (*symbolic.graph_of(self.graph, filt, identity), identity)
        return found


_kept = _Kept()


def kept_graph() -> Graph:
    """The graph that holds every filter seen so far. Call with `lock` held, as long as it is used."""
    return _kept.graph


def root_of(filt: ClassicFilter) -> int:
    """The filter's root in `kept_graph`. Call with `lock` held."""
    return _kept.root(filt)[0]


def forget() -> None:
    """Drop the kept graphs."""
    global _kept
    _kept = _Kept()


def merge(filters: Sequence[tuple[int, ClassicFilter]]) -> Merged:
    """Merge (rank, filter) in order of rank; BudgetError when it would cost too much. Call with `lock` held."""
    global _kept
    if len(_kept.graph) > MAX_KEPT_NODES:
        _kept = _Kept()
    return _Merge(_kept, filters).run()


class _Merge:
    def __init__(self, kept: _Kept, filters: Sequence[tuple[int, ClassicFilter]]) -> None:
        self.kept, self.graph, self.filters = kept, kept.graph, filters
        self.states: list[State | None] = []
        self.numbers: dict[_Key, int] = {}
        self.todo: list[tuple[int, _Key]] = []
        self.edges = 0
        self.deadline = time.thread_time() + MAX_SECONDS
        self.needs: dict[int, tuple[int, dict[int, int]]] = {}
        self.why: dict[int, str] = {}
        self.ends: dict[int, int] = {}  # rank -> its opaque end

    def run(self) -> Merged:
        ranks, nodes = [], []
        for rank, filt in self.filters:
            root, why, identity = self.kept.root(filt)
            if why:
                self.why[rank] = why
            self.ends[rank] = self.graph.opaque_end(identity)
            if root != REJECT:
                ranks.append(rank)
                nodes.append(root)
            if root == ACCEPT:
                break
        need = self._need_of_all(nodes)
        self._number(tuple(ranks), tuple(nodes), tags=0, known=0, header=None, behind=0)
        while self.todo:
            number, key = self.todo.pop()
            self.states[number] = self._split(key)
            if len(self.states) > MAX_STATES:
                raise BudgetError(f"more than {MAX_STATES} states")
            if self.edges > MAX_EDGES:
                raise BudgetError(f"more than {MAX_EDGES} edges")
            if time.thread_time() > self.deadline:
                raise BudgetError(f"more than {MAX_SECONDS} s")
        states = [state for state in self.states if state is not None]
        return Merged(self.graph, states, self.why, need, dict(self.filters))

    def _need_of_all(self, nodes: list[int]) -> int:
        graph, need = self.graph, 0
        mask = 0
        for node in nodes:
            mask |= graph.mask[node]
        for number, what in enumerate(graph.fields):
            if mask >> number & 1 and what.kind in (FieldKind.LENGTH, FieldKind.HEADER_LENGTH):
                extra = symbolic.MAX_HEADER_LENGTH if what.kind is FieldKind.HEADER_LENGTH else 0
                need = max(need, max((c for n in nodes for c in graph.cuts(n, number)), default=0) + extra)
        return need

    def _needs(self, mask: int) -> tuple[int, dict[int, int]]:
        """What the fields in `mask` read: bytes of the frame, and bytes behind each header."""
        found = self.needs.get(mask)
        if found is None:
            fixed = 0
            behind: dict[int, int] = {}
            for number, what in enumerate(self.graph.fields):
                if not mask >> number & 1:
                    continue
                if what.kind is FieldKind.FIXED:
                    fixed = max(fixed, what.offset + what.size)
                elif what.kind is FieldKind.BEHIND_HEADER:
                    behind[what.header] = max(behind.get(what.header, 0), what.offset + what.size)
                    fixed = max(fixed, what.header + 1)
                elif what.kind is FieldKind.HEADER_LENGTH:
                    behind.setdefault(what.header, 0)
                    fixed = max(fixed, what.header + 1)
            found = self.needs[mask] = (fixed, behind)
        return found

    def _number(
        self,
        ranks: tuple[int, ...],
        nodes: tuple[int, ...],
        *,
        tags: int,
        known: int,
        header: int | None,
        behind: int,
    ) -> int:
        """The state's number. What is known is cut down to what is still needed: so equal states are found equal."""
        masks, mask = self.graph.mask, 0
        for node in nodes:
            mask |= masks[node]
        fixed, headers = self._needs(mask)
        if header not in headers:
            header, behind = None, 0
        else:
            behind = min(behind, headers[header])
        known = min(known, max(fixed, _TYPE_AT + _TAG * tags + 2))
        if not mask >> LENGTH & 1 and not any(f is not None and mask >> f & 1 for f in self._narrow(tags)):
            tags = 0
        key = (ranks, nodes, tags, known, header, behind)
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = len(self.states)
            self.states.append(None)
            self.todo.append((number, key))
        return number

    def _only_header(self, ranks: tuple[int, ...], nodes: tuple[int, ...], kept: int) -> tuple[int, ...]:
        """X holds one header at a time: rules that need another one are run as a whole."""
        result = []
        for rank, root in zip(ranks, nodes, strict=True):
            node = root
            if any(header != kept for header in self._needs(self.graph.mask[node])[1]):
                self.why.setdefault(rank, "needs another variable header than the rules beside it")
                node = self.ends[rank]
            result.append(node)
        return tuple(result)

    def _narrow(self, tags: int) -> tuple[int | None, ...]:
        """Numbers of the narrow fields behind so many VLAN tags: EtherType, then the others in the order to ask."""
        shift, find = _TAG * tags, self.graph.find
        return (
            find(Field(FieldKind.FIXED, _TYPE_AT + shift, 2, 0xFFFF)),
            find(Field(FieldKind.FIXED, 23 + shift, 1, 0xFF)),
            find(Field(FieldKind.FIXED, 20 + shift, 1, 0xFF)),
            find(Field(FieldKind.FIXED, 54 + shift, 1, 0xFF)),
            find(Field(FieldKind.FIXED, 20 + shift, 2, 0x1FFF)),
        )

    def _split(self, key: _Key) -> State:
        ranks, nodes, tags, known, header, behind = key
        graph, mask = self.graph, 0
        for node in nodes:
            mask |= graph.mask[node]
        ethertype, *others = self._narrow(tags)
        if ethertype is not None and mask >> ethertype & 1:
            if known < _TYPE_AT + _TAG * tags + 2:
                return self._split_length(key, _TYPE_AT + _TAG * tags + 2)
            return self._split_value(key, ethertype, is_type=True)
        if mask >> LENGTH & 1:
            return self._split_length(key, max(max(graph.cuts(n, LENGTH), default=0) for n in nodes))
        for number in others:
            if number is not None and mask >> number & 1:
                return self._split_value(key, number)
        headers = self._needs(mask)[1]
        if len(headers) > 1:
            nodes = self._only_header(ranks, nodes, header if header in headers else min(headers))
            return self._split((ranks, nodes, tags, known, header, behind))
        for wanted in headers:
            bound = graph.find(Field(FieldKind.HEADER_LENGTH, header=wanted))
            if bound is not None and mask >> bound & 1:
                need = max(max(graph.cuts(n, bound), default=0) for n in nodes)
                yes = self._restricted(ranks, nodes, bound, need, INFINITY - 1)
                no = self._restricted(ranks, nodes, bound, 0, need - 1)
                self.edges += 2
                return BoundSplit(
                    need,
                    wanted,
                    self._number(*yes, tags=tags, known=known, header=wanted, behind=need),
                    self._number(*no, tags=tags, known=known, header=wanted, behind=0),
                )
        return Leaf(tuple(zip(ranks, nodes, strict=True)), header)

    def _split_length(self, key: _Key, need: int) -> State:
        ranks, nodes, tags, known, header, behind = key
        self.edges += 2
        yes = self._restricted(ranks, nodes, LENGTH, need, INFINITY - 1)
        no = self._restricted(ranks, nodes, LENGTH, 0, need - 1)
        return BoundSplit(
            need,
            None,
            self._number(*yes, tags=tags, known=max(known, need), header=header, behind=behind),
            self._number(*no, tags=tags, known=known, header=header, behind=behind),
        )

    def _restricted(
        self, ranks: tuple[int, ...], nodes: tuple[int, ...], number: int, low: int, high: int
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        restrict = self.graph.restrict
        kept_ranks, kept_nodes = [], []
        for rank, node in zip(ranks, nodes, strict=True):
            result = restrict(node, number, low, high)
            if result == REJECT:
                continue
            kept_ranks.append(rank)
            kept_nodes.append(result)
            if result == ACCEPT:
                break
        return tuple(kept_ranks), tuple(kept_nodes)

    def _split_value(self, key: _Key, number: int, *, is_type: bool = False) -> State:
        ranks, nodes, tags, known, header, behind = key
        graph = self.graph
        masks, profile = graph.mask, graph.profile
        cuts: set[int] = set()
        for node in nodes:
            if masks[node] >> number & 1:
                cuts |= graph.cuts(node, number)
        starts = (0, *sorted(cuts))
        self.edges += len(starts)
        columns: list[tuple[list[int], list[int]]] = [([], []) for _ in starts]
        open_columns = list(range(len(starts)))
        for rank, node in zip(ranks, nodes, strict=True):
            if not masks[node] >> number & 1:
                for column in open_columns:
                    columns[column][0].append(rank)
                    columns[column][1].append(node)
                if node == ACCEPT:
                    break
                continue
            own, results = profile(node, number)
            at, last, closed = 0, len(own) - 1, False
            for column in open_columns:
                start = starts[column]
                while at < last and own[at + 1] <= start:
                    at += 1
                result = results[at]
                if result != REJECT:
                    columns[column][0].append(rank)
                    columns[column][1].append(result)
                    closed = closed or result == ACCEPT
            if closed:
                open_columns = [c for c in open_columns if not columns[c][1] or columns[c][1][-1] != ACCEPT]
        targets = []
        for column, start in enumerate(starts):
            end = starts[column + 1] - 1 if column + 1 < len(starts) else graph.fields[number].largest
            inner = tags + (is_type and start == end and start in _VLAN_TYPES and tags < _MAX_TAGS)
            column_ranks, column_nodes = columns[column]
            targets.append(
                self._number(
                    tuple(column_ranks), tuple(column_nodes), tags=inner, known=known, header=header, behind=behind
                )
            )
        return ValueSplit(number, starts, tuple(targets))
