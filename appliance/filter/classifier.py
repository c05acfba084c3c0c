# SPDX-License-Identifier: GPL-2.0-only
"""First match over ordered filters: merged where that pays and succeeds, as several graphs where one would be too big,
and rule by rule where nothing else works.

Keeps the last few prepared sets, because code for the same rules is generated for XDP, for tc and for each segment.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from appliance.filter import chain, merge
from appliance.filter.asm import ARSH, LSH, Assembler, TooLongError
from appliance.filter.chain import RankedFilter
from appliance.filter.emit import Emitter
from appliance.filter.emit_leaf import BEST
from appliance.filter.frame_reader import Access, Kind, Vlan
from appliance.filter.linkage import Ending, Linkage, LoadableProgram
from appliance.filter.lowered import Prepared
from appliance.filter.merge import BudgetError
from appliance.filter.tables import Image, TableError

CHAIN_RULES = 0  # a graph checks each bound once and in passing, so even one rule is faster in one
LEAST_SPLIT = 32  # a set this small is not cut into several graphs
_REMEMBERED_SETS = 4
MAX_SECONDS = 15.0  # of processor time, for all graphs of one set together
GRAPH_NS, RULE_NS = 12, 2  # of one merged graph, of one rule by itself


@dataclass
class Part:
    """A run of the rules: merged, or one by one."""

    filters: tuple[RankedFilter, ...]
    merged: Prepared | None
    why: str = ""


@dataclass
class PreparedSet:
    """All parts in order, and the tables that they share."""

    parts: list[Part]
    image: Image = field(default_factory=Image)

    @property
    def method(self) -> str:
        """For the report."""
        merged = sum(part.merged is not None for part in self.parts)
        if merged == 0:
            return "chain"
        return "merged" if len(self.parts) == 1 else "several graphs"

    @property
    def expected_ns(self) -> int:
        """Estimated time of the search, for the choice of the flow cache; from measurements of many kinds of sets."""
        return sum(GRAPH_NS if part.merged is not None else RULE_NS * len(part.filters) for part in self.parts)

    @property
    def why(self) -> str:
        """Why not in one graph."""
        return "; ".join(dict.fromkeys(part.why for part in self.parts if part.why))


@lru_cache(maxsize=_REMEMBERED_SETS)
def prepare(filters: tuple[RankedFilter, ...], *, merged: bool, runs: int = 1, why: str = "") -> PreparedSet:
    """Decide how to classify the rules (rank, filter). Call with `merge.lock` held.

    `runs`: cut them into so many runs to begin with, because (`why`) fewer were too much for code generation.
    """
    result = PreparedSet([])
    if not merged or len(filters) <= CHAIN_RULES:
        result.parts.append(
            Part(
                filters,
                None,
                why or (("no rules" if not filters else f"{CHAIN_RULES} rules or fewer") if merged else "asked for"),
            )
        )
        return result
    size, deadline = -(-len(filters) // runs), time.thread_time() + MAX_SECONDS
    for at in range(0, len(filters), size):
        result.parts += _prepare(filters[at : at + size], result.image, deadline)
    result.parts[0].why = result.parts[0].why or why
    return result


def _prepare(filters: tuple[RankedFilter, ...], image: Image, deadline: float) -> list[Part]:
    if time.thread_time() > deadline:
        return [Part(filters, None, f"more than {MAX_SECONDS:g} s for all graphs")]
    try:
        return [Part(filters, Prepared(merge.merge(filters), image))]
    except (BudgetError, TableError) as error:
        why = str(error)
    if len(filters) < LEAST_SPLIT:
        return [Part(filters, None, why)]
    half = len(filters) // 2
    parts = _prepare(filters[:half], image, deadline) + _prepare(filters[half:], image, deadline)
    parts[0].why = parts[0].why or why
    return parts


def programs(
    prepared: PreparedSet,
    *,
    kind: Kind,
    linkage: Linkage | None,
    slots: list[int],
    entry: int | None,
    other: int | None,
    vlan: Vlan = "inline",
    one_by_one: bool = False,
    part_jumps: int = chain.PART_JUMPS,
) -> list[LoadableProgram]:
    """The programs of a set: one, or one a part. The first goes to slot `entry`, others to slots taken from `slots`.

    `other` is the slot for frames that these programs are not for. `one_by_one`: a smaller program for every part.
    """
    name = "rules" if vlan == "inline" else "tagged"
    if not one_by_one and (linkage is None or sum(len(p.filters) for p in prepared.parts if p.merged is None) < 100):
        try:
            return [
                _program(
                    prepared.parts, name, kind=kind, vlan=vlan, linkage=linkage, slot=entry, following=None, other=other
                )
            ]
        except TooLongError:
            if linkage is None:
                raise
    pieces: list[list[Part]] = []
    for part in prepared.parts:
        if part.merged is None:
            pieces += [
                [Part(tuple(run), None, part.why)]
                for run in chain.split(part.filters, part_jumps, other="tc" if vlan == "metadata" else None)
            ]
        else:
            pieces.append([part])
    places = [entry] + [chain.take(slots) for _ in pieces[1:]]
    return [
        _program(
            piece,
            f"{name}{at}",
            kind=kind,
            vlan=vlan,
            linkage=linkage,
            slot=places[at],
            following=places[at + 1] if at + 1 < len(pieces) else None,
            other=other,
        )
        for at, piece in enumerate(pieces)
    ]


def _program(
    parts: Sequence[Part],
    name: str,
    *,
    kind: Kind,
    vlan: Vlan,
    linkage: Linkage | None,
    slot: int | None,
    following: int | None,
    other: int | None,
) -> LoadableProgram:
    code = Assembler()
    access = Access(code, kind, vlan)
    ending = Ending(code, linkage)
    match, miss, elsewhere, either = code.label(), code.label(), code.label(), code.label()
    one_end = following is None and (linkage is None or linkage.match_slot == linkage.miss_slot)
    beside = elsewhere if kind == "tc" and other is not None else None
    needs = [max(chain.needed(p.filters), 0 if p.merged is None else p.merged.merged.need) for p in parts]
    # tc: pull once for all parts; XDP: merged parts check where a bound fails, others before they begin
    access.preamble(max(needs) if kind == "tc" else 0, pieces=elsewhere, metadata=beside)
    for at, part in enumerate(parts):
        last = at + 1 == len(parts)
        none = miss if last else code.label()
        if at:
            access.reload_end()
        if part.merged is not None:
            Emitter(
                access,
                part.merged,
                match=match,
                miss=none,
                pieces=elsewhere,
                either=either if last and one_end else None,
            ).emit()
        else:
            if kind == "xdp" and needs[at]:
                access.whole_or(needs[at], elsewhere)
            chain.emit(access, part.filters, match, none)
        if not last:
            code.place(none)
    if code.wanted(either):
        # one way for both, without a branch that traffic makes unpredictable: NONE as 16 signed bits is NO_MATCH
        code.place(either)
        code.alu_imm(LSH, BEST, 16)
        code.alu_imm(ARSH, BEST, 16)
        ending.rule(matched=True)
    chain.finish(code, ending, match=match, miss=miss, following=following)
    if code.wanted(elsewhere):
        code.place(elsewhere)
        chain.tail(ending, other)
    ending.close()
    return LoadableProgram(name, code.finish(), tuple(code.relocations), slot)
