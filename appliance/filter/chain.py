# SPDX-License-Identifier: GPL-2.0-only
"""Rule by rule: each filter translated on its own, one after the other, in as many programs as that takes.

Pure code generation. This is the plain form: small sets use it, the merged form falls back to it and is tested against
it, andan XDP frame in several buffers gets it (with all reads through a helper).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from appliance.errors import FilterError
from appliance.filter import asm as e
from appliance.filter import translate
from appliance.filter.classic import ClassicFilter
from appliance.filter.frame_reader import MASK, A, Access, Kind, Vlan
from appliance.filter.linkage import Ending, Linkage, LoadableProgram

PART_JUMPS = 7000  # conditional jumps of one program; the verifier follows a sequence of at most 8,192
PART_INSTRUCTIONS = 28000  # a jump over the whole part has to fit 16 bits
# instructions that a load becomes, about: at a fixed place, at a computed one
_LOAD_LENGTHS: dict[Kind | None, tuple[int, int]] = {None: (4, 10), "xdp": (11, 14), "tc": (8, 45)}

RankedFilter = tuple[int, ClassicFilter]


def needed(filters: Sequence[RankedFilter]) -> int:
    """Near bytes that the first piece of a frame must hold for these filters."""
    return max((translate.plan(f.instructions).need for _, f in filters), default=0)


def split(filters: Sequence[RankedFilter], jumps: int, *, other: Kind | None = None) -> list[Sequence[RankedFilter]]:
    """The ordered filters in runs that one program can hold; `other`: the programs for that kind's other frames."""
    at_fixed, at_computed = _LOAD_LENGTHS[other]
    parts: list[Sequence[RankedFilter]] = []
    start = used = size = 0
    for at, (_, filt) in enumerate(filters):
        loads = sum(i.code & 7 in (0, 1) for i in filt.instructions)
        cost = loads + sum(i.code & 7 == 5 for i in filt.instructions)
        computed = sum(i.code & 0xE7 == 0x40 for i in filt.instructions)
        length = len(filt.instructions) + (loads - computed) * at_fixed + computed * at_computed
        if at > start and (used + cost > jumps or size + length > PART_INSTRUCTIONS):
            parts.append(filters[start:at])
            start, used, size = at, 0, 0
        used += cost
        size += length
    parts.append(filters[start:])
    return parts


def take(slots: list[int]) -> int:
    """The next free slot for a part."""
    if not slots:
        raise FilterError("the rules need more programs than the datapath lends them slots")
    return slots.pop(0)


def emit(access: Access, filters: Sequence[RankedFilter], match: int, miss: int) -> None:
    """Append the filters in order; the matching rank is in A at `match`."""
    code = access.asm
    for rank, filt in filters:
        accept, following = code.label(), code.label()
        translate.emit(access, filt, accept, following)
        if filt.constant is not False:
            code.place(accept)
            code.mov_imm(A, rank)
            code.jump(match)
        if filt.constant is True:
            return
        code.place(following)
    code.jump(miss)


def program(
    name: str,
    filters: Sequence[RankedFilter],
    *,
    kind: Kind,
    vlan: Vlan,
    linkage: Linkage | None,
    slot: int | None,
    following: int | None,
    other: int | None,
    need: int,
    helper_only: bool = False,
) -> LoadableProgram:
    """One part. Slots: `following` is the next part, `other` takes frames in pieces (XDP) or with the tag beside (tc).

    `need` is the near bytes that the whole set reads, so that a frame goes elsewhere at the first part or never.
    """
    code = e.Assembler()
    access = Access(code, kind, vlan, helper_only)
    ending = Ending(code, linkage)
    match, miss, elsewhere = code.label(), code.label(), code.label()
    access.preamble(need, pieces=elsewhere, metadata=elsewhere if kind == "tc" and other is not None else None)
    emit(access, filters, match, miss)
    finish(code, ending, match=match, miss=miss, following=following)
    if code.wanted(elsewhere):
        code.place(elsewhere)
        tail(ending, other)
    ending.close()
    return LoadableProgram(name, code.finish(), tuple(code.relocations), slot)


def accept_program(
    name: str,
    masks: Mapping[ClassicFilter, int],
    *,
    kind: Kind,
    vlan: Vlan,
    linkage: Linkage | None,
    slot: int | None,
    other: int | None = None,
    helper_only: bool = False,
) -> LoadableProgram:
    """All filters, each adding its bits to the mask; `other`: slot for frames in pieces or with the tag beside."""
    code = e.Assembler()
    access = Access(code, kind, vlan, helper_only)
    ending = Ending(code, linkage)
    elsewhere = code.label()
    filters = [(0, f) for f in masks]
    access.preamble(
        needed(filters), pieces=elsewhere, metadata=elsewhere if kind == "tc" and other is not None else None
    )
    code.store_imm(8, e.R10, MASK, 0)
    for filt, mask in masks.items():
        accept, following = code.label(), code.label()
        translate.emit(access, filt, accept, following)
        if filt.constant is not False:
            code.place(accept)
            code.load(8, e.R0, e.R10, MASK)
            code.load_imm64(e.R1, mask)
            code.alu(e.OR, e.R0, e.R1, wide=True)
            code.store(8, e.R10, MASK, e.R0)
        code.place(following)
    code.load(8, A, e.R10, MASK)
    ending.accept(A)
    if code.wanted(elsewhere):
        code.place(elsewhere)
        tail(ending, other)
    ending.close()
    return LoadableProgram(name, code.finish(), tuple(code.relocations), slot)


def finish(code: e.Assembler, ending: Ending, *, match: int, miss: int, following: int | None) -> None:
    """The ends for a match and for none."""
    if code.wanted(match):
        code.place(match)
        ending.rule(matched=True)
    if code.wanted(miss):
        code.place(miss)
        if following is None:
            ending.rule(matched=False)
        else:
            ending.tail_call(following)


def tail(ending: Ending, slot: int | None) -> None:
    """Tail call, or (a set inside a host) a result that no rule has."""
    if slot is not None and ending.linkage is not None and not ending.linkage.falls:
        ending.tail_call(slot)
    else:
        ending.not_here()
