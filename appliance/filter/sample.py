# SPDX-License-Identifier: GPL-2.0-only
"""A frame that a filter takes, and the same packet as other frames carry it: tagged, labelled, in PPPoE, in fragments.

Pure. The frame is found by walking the filter's decision graph with a plain packet at hand, changing as few of its
bytes as the filter wants, and counts only when the filter itself takes it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from appliance.filter import symbolic
from appliance.filter.classic import ClassicFilter
from appliance.filter.graph import ACCEPT, OPAQUE_FIELD, REJECT, Field, FieldKind, Graph

IP4, IP6 = b"\x08\x00", b"\x86\xdd"
_MAX_TRIED: Final = 8  # values of one field that are tried
_TYPE_AT, _IP_AT = 12, 14
_NARROW: Final = (
    Field(FieldKind.FIXED, 12, 2, 0xFFFF),
    Field(FieldKind.FIXED, 20, 2, 0x1FFF),
    Field(FieldKind.FIXED, 20, 1, 0xFF),
    Field(FieldKind.FIXED, 23, 1, 0xFF),
)
_STATIONS: Final = bytes.fromhex("02000000000202000000000a")
_TCP: Final = struct.pack(">HHIIBBHHH", 40_000, 40_001, 1, 1, 0x50, 0x10, 8192, 0, 0) + bytes(64)


def _plain() -> Iterator[bytes]:
    """Packets to begin with: TCP over IPv4 and over IPv6."""
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(_TCP), 1, 0, 64, 6, 0, b"\xcb\x00\x71\x01", b"\xcb\x00\x71\x02"
    )
    yield _STATIONS + IP4 + head + _TCP
    address = bytes.fromhex("20010db8000000000000000000000001")
    yield _STATIONS + IP6 + struct.pack(">IHBB", 6 << 28, len(_TCP), 6, 64) + 2 * address + _TCP


class Sampler:
    """Samples of filters, and a quick look at who may take a frame. The filters' decision graphs live as long as it."""

    def __init__(self) -> None:
        self._graph = Graph()
        self._roots: dict[ClassicFilter, int] = {}

    def _root(self, filt: ClassicFilter) -> int:
        found = self._roots.get(filt)
        if found is None:
            found = self._roots[filt] = symbolic.graph_of(self._graph, filt, len(self._roots))[0]
        return found

    def sample(self, filt: ClassicFilter) -> bytes | None:
        """An IP packet in a plain frame that the filter takes; None when there is none, or none was found at once."""
        root = self._root(filt)
        for frame in _plain():
            made = bytearray(frame)
            same = _walk(self._graph, root, made) and made[_TYPE_AT:_IP_AT] == frame[_TYPE_AT:_IP_AT]
            if same and filt.matches(bytes(made)):
                return bytes(made)
        return None

    def traits(self, frame: bytes) -> tuple[int, ...]:
        """What `may_take` looks at: EtherType, fragment offset, next header and protocol, at their usual places."""
        return tuple(_value(field, bytearray(frame)) for field in _NARROW)

    def may_take(self, filt: ClassicFilter, traits: tuple[int, ...]) -> bool:
        """False when the filter takes no frame with these traits."""
        node = self._root(filt)
        for field, value in zip(_NARROW, traits, strict=True):
            if (number := self._graph.find(field)) is not None:
                node = self._graph.restrict(node, number, value, value)
        return node != REJECT


def _walk(graph: Graph, node: int, frame: bytearray) -> bool:
    """Go down to where the filter accepts, or must be run as a whole; the frame gets what is asked for on the way."""
    while node != ACCEPT:
        number = graph.field[node]
        if number == OPAQUE_FIELD:
            return node != REJECT
        what = graph.fields[number]
        value = _value(what, frame)
        settable = what.kind in (FieldKind.FIXED, FieldKind.BEHIND_HEADER)
        others = [_under(what.mask, each) for each in (0, *sorted(graph.cuts(node, number))[:_MAX_TRIED]) if settable]
        for tried in (value, *others):
            if (found := graph.restrict(node, number, tried, tried)) != REJECT:
                node = found
                if tried != value:
                    _set(what, frame, tried)
                break
        else:
            return False
    return True


def _at(what: Field, frame: bytearray) -> slice:
    begin = what.offset + (4 * (frame[what.header] & 15) if what.kind is FieldKind.BEHIND_HEADER else 0)
    return slice(begin, begin + what.size)


def _value(what: Field, frame: bytearray) -> int:
    if what.kind in (FieldKind.FIXED, FieldKind.BEHIND_HEADER):
        return int.from_bytes(frame[_at(what, frame)], "big") & what.mask
    return len(frame)


def _under(mask: int, least: int) -> int:
    """The smallest value with no bit outside the mask that is not below `least`; the mask when there is none."""
    while outside := least & ~mask:
        low = outside.bit_length()
        least = ((least >> low) + 1) << low
    return least if least <= mask else mask


def _set(what: Field, frame: bytearray, value: int) -> None:
    there = _at(what, frame)
    if there.stop <= len(frame):
        kept = int.from_bytes(frame[there], "big") & ~what.mask
        frame[there] = (kept | value).to_bytes(what.size, "big")


def disguises(frame: bytes) -> dict[str, bytes]:
    """The same packet as other frames carry it, by what a person calls those."""
    stations, kind, packet = frame[:_TYPE_AT], frame[_TYPE_AT:_IP_AT], frame[_IP_AT:]
    version4 = kind == IP4
    found = {
        "tagged": stations + b"\x81\x00\x00\x64" + kind + packet,
        "PPPoE": stations + b"\x88\x64\x11\x00\x00\x01" + struct.pack(">H", len(packet) + 2)
        + (b"\x00\x21" if version4 else b"\x00\x57") + packet,
        "MPLS": stations + b"\x88\x47\x00\x06\x41\x40" + packet,
        "SNAP": stations + struct.pack(">H", len(packet) + 8) + b"\xaa\xaa\x03\0\0\0" + kind + packet,
    }  # fmt: skip
    if version4:
        found["later fragments"] = frame[:20] + b"\x00\xb9" + frame[22:34] + bytes(len(frame) - 34)
    elif frame[20] not in (0, 43, 44, 60):
        found["IPv6 extension headers"] = frame[:20] + b"\x3c" + frame[21:54] + frame[20:21] + bytes(7) + frame[54:]
        found["later fragments"] = (
            frame[:20] + b"\x2c" + frame[21:54] + frame[20:21] + b"\0\x05\xc8\0\0\0\x01" + bytes(len(frame) - 54)
        )
    return found
