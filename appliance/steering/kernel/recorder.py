# SPDX-License-Identifier: GPL-2.0-only
"""The recorder's rings in the kernel: the last frames sent to each hop (steer.h, `struct record`).

A hop's ring is a map of its own, held by the map `recorders`, so it outlives bypassd with the pinned datapath. It is
only read after an incident; the datapath only writes. A frame that is overwritten while it is being read is left out.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from ctypes import c_uint32
from dataclasses import dataclass
from typing import Any

from appliance.errors import DatapathError
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import RecordValue, Side
from appliance.steering.kernel.maps import Map
from appliance.system import libbpf


@dataclass(frozen=True)
class Recorded:
    """A frame sent to a hop: its number (from 1), when (ns, CLOCK_MONOTONIC), and the tap's slot.

    `data` may be the beginning only; `length` is the frame's own.
    """

    number: int
    at: int
    segment: int
    side: Side
    length: int
    data: bytes


def ring_size(frames: int) -> int:
    """The smallest sufficient power of two."""
    return 1 << max(frames - 1, 0).bit_length()


class Recorders:
    """The rings of all hops. `outer` is the map of maps, which the caller closes."""

    def __init__(self, outer: Map[Any, Any]) -> None:
        self._outer = outer

    def _open(self, hop: int) -> Map[c_uint32, RecordValue] | None:
        found = self._outer.get(hop)
        if found is None:
            return None
        return Map(f"recorder of hop {hop}", libbpf.map_by_id(found.value), c_uint32, RecordValue)

    def arrange(self, hop: int, frames: int, kept: int) -> None:
        """Give the hop a ring of at least `frames` frames (0: remove it), `kept` bytes of each.

        A ring of the right size stays, with its content. DatapathError if the kernel has no memory for it.
        """
        if frames == 0:
            self._outer.delete(hop)
            return
        kept = min(kept, layout.RECORD_BYTES)
        size = ring_size(frames)
        old = self._open(hop)
        if old is not None:
            try:
                head = old.get(0)
                if head is not None and (head.length, head.captured) == (size - 1, kept):
                    return
            finally:
                old.close()
        fd = libbpf.create_inner_array("record_ring", ctypes.sizeof(RecordValue), size + 1)
        try:
            ring: Map[c_uint32, RecordValue] = Map("recorder", fd, c_uint32, RecordValue)
            ring.set(0, RecordValue(length=size - 1, captured=kept))
            self._outer.set(hop, fd)
        finally:
            os.close(fd)

    def read(self, hop: int, after: int = 0) -> list[Recorded]:
        """The content of the hop's ring, oldest first, after the frame `after`; [] without a ring."""
        try:
            ring = self._open(hop)
        except DatapathError:
            return []  # removed meanwhile
        if ring is None:
            return []
        try:
            head = ring.get(0)
            places = ring.first(head.length + 2) if head is not None else []
        finally:
            ring.close()
        records = [value for value in places[1:] if value.number > after]
        return list(_frames(sorted(records, key=lambda value: value.number)))


def _frames(records: list[RecordValue]) -> Iterator[Recorded]:
    for value in records:
        data = bytes(value.data[: value.captured])
        length = value.length
        if value.tag_proto:  # the kernel keeps a tag beside the frame: back into its place
            # both were copied as the kernel has them: the type in network order, the tag in the machine's
            tag = value.tag_proto.to_bytes(2, "little") + value.tag.to_bytes(2, "big")
            data, length = data[:12] + tag + data[12:], length + 4
        yield Recorded(
            value.number, value.at, value.slot // 2 % layout.MAX_SEGMENTS, Side(value.slot % 2), length, data
        )
