# SPDX-License-Identifier: GPL-2.0-only
"""Copies of frames from the datapath: for which captures, at which points, of which frames (made by bpf/copies.h).

A *point* is a position in the appliance (slot) and a direction: IN for a frame from the device there, OUT for one to
it. A *sink* receives copies: numbers 1..7 are captures, each with a ring of its own that its reader maps; frames never
pass through bypassd. Number 0 is unused. The recorder of frames to guests is separate: recorder.py.

Owns the tables of settings as long as the datapath is open. A restarted bypassd begins with none: the readers of the
old one ended with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

from appliance.errors import RefusedError
from appliance.filter.classic import Instruction
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import CopyWay
from appliance.steering.kernel.objects import Kernel
from appliance.system import libbpf

FIRST = 1
RING_BYTES = 4 << 20


class Point(NamedTuple):
    """Where copies are made."""

    slot: int
    way: CopyWay


class Wish(NamedTuple):
    """A sink's settings: the bytes of each frame at these points, and how many the copy must contain for that."""

    points: frozenset[Point]
    load: int


class Copies:
    """The sinks of one datapath. `changed` is called when device flags have to be rewritten."""

    def __init__(self, kernel: Kernel, changed: Callable[[], None]) -> None:
        self._kernel, self._maps, self._changed = kernel, kernel.maps, changed
        self._wishes: dict[int, Wish] = {}
        self._written: set[int] = set()
        if kernel.adopted or kernel.upgraded:
            self._maps["copy_points"].set_all(
                {place: layout.CopyPointValue() for place in range(layout.MAX_SLOTS)},
            )
            for sink in range(layout.MAX_COPIES):
                self._maps["copy_rings"].delete(sink)

    def flags(self, slot: int) -> int:
        """The flags that the device at `slot` needs, so that the datapath checks for captures there."""
        flags = 0
        for wish in self._wishes.values():
            for point in wish.points:
                if point.way is CopyWay.IN and point.slot == slot:
                    flags |= layout.DEVICE_COPY_IN
                if (
                    point.way is CopyWay.OUT
                    and point.slot // 2 % layout.MAX_SEGMENTS == slot // 2 % layout.MAX_SEGMENTS
                ):
                    flags |= layout.DEVICE_COPY_OUT  # any device that may send there has to check
        return flags

    def want(self, sink: int, points: Iterable[Point], load: int) -> None:
        """Copy frames at these points to `sink` from now on, at least `load` bytes of each."""
        self._wishes[sink] = Wish(frozenset(points), max(0, min(load, layout.COPY_BYTES)))
        self._write()

    def unwant(self, sink: int) -> None:
        """Copy nothing for `sink` any more."""
        if self._wishes.pop(sink, None) is not None:
            self._write()

    def _write(self) -> None:
        places = {point.slot for wish in self._wishes.values() for point in wish.points}
        values = {place: layout.CopyPointValue() for place in places | self._written}
        for sink, wish in self._wishes.items():
            for slot, way in wish.points:
                value = values[slot]
                value.bytes = max(value.bytes, wish.load)
                if way is CopyWay.IN:
                    value.into |= 1 << sink
                else:
                    value.out |= 1 << sink
        self._maps["copy_points"].set_all(values)
        self._written = places
        self._changed()

    # -- captures -----------------------------------------------------------------------------------------------------

    def begin(self, points: Iterable[Point], instructions: tuple[Instruction, ...], size: int) -> tuple[int, int]:
        """Start a capture at these points of frames that the filter matches (none: all), `size` bytes of each.

        Returns its sink and the ring's descriptor, which the caller closes. RefusedError if all sinks are in use.
        """
        free = [sink for sink in range(FIRST, layout.MAX_COPIES) if sink not in self._wishes]
        if not free:
            raise RefusedError(f"{layout.MAX_COPIES - FIRST} captures are running: end one of them")
        sink = free[0]
        wish = layout.CopyWishValue(bytes=size, instructions=len(instructions))
        for place, (code, jt, jf, k) in enumerate(instructions):
            wish.filter[place] = layout.InstructionValue(code, jt, jf, k)
        self._maps["copy_wishes"].set(sink, wish)
        self._maps["copy_counters"].zero_per_cpu(sink)
        ring = libbpf.create_ring(f"capture{sink}", RING_BYTES)
        try:
            self._maps["copy_rings"].set(sink, ring)
            # the filter looks at the whole frame, however little of it is kept
            self.want(sink, points, layout.COPY_BYTES if instructions else size)
        except BaseException:
            os.close(ring)
            raise
        return sink, ring

    def end(self, sink: int) -> None:
        """End a capture: no frame is copied for it after the return."""
        self.unwant(sink)
        self._maps["copy_rings"].delete(sink)

    def counts(self, sink: int) -> tuple[int, int]:
        """(frames copied, frames lost because its reader was too slow) of a capture."""
        values = self._maps["copy_counters"].per_cpu(sink)
        return sum(value.copied for value in values), sum(value.lost for value in values)
