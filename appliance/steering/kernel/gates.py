# SPDX-License-Identifier: GPL-2.0-only
"""The limit of frames to an overloaded hop: a gate for each direction (steer.h, `struct gate`).

User space maps it as memory, so a new limit is one store. Owns nothing; the map's content outlives this process, so
limits must be set again when a hop is adopted.
"""

from __future__ import annotations

from collections.abc import Iterator

from appliance.steering.kernel import layout
from appliance.steering.kernel.objects import Kernel

_COST, _USED, _OVER = range(3)  # fields of struct gate
_OVERLOADED = 5  # field of struct lease


class Gates:
    """By slot: that of the tap by which frames enter the hop."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def limit(self, place: int, frames_per_s: int) -> None:
        """Limit the frames to the hop there; 0: no limit."""
        self._kernel.gates.write(place, 10**9 // frames_per_s if frames_per_s else 0, _COST)
        hop, bit = place // 32, 1 << place % 32
        bits = self._kernel.leases.read(hop, _OVERLOADED)
        self._kernel.leases.write(hop, bits | bit if frames_per_s else bits & ~bit, _OVERLOADED)

    def over(self, place: int) -> int:
        """Frames beyond the limit there, since the datapath was loaded."""
        return self._kernel.gates.read(place, _OVER)

    def limits(self, hop: int) -> Iterator[tuple[int, int, int]]:
        """Slot, cost and use (ns) of each limit of a hop (number)."""
        bits = self._kernel.leases.read(hop, _OVERLOADED)
        for place in range(hop * 32, hop * 32 + 2 * layout.MAX_SEGMENTS):
            if bits >> place % 32 & 1:
                yield place, self._kernel.gates.read(place, _COST), self._kernel.gates.read(place, _USED)
