# SPDX-License-Identifier: GPL-2.0-only
"""The traffic through a guest, one direction at a time: frames as a fluid that waits in the queue of a tap.

Heartbeats share that queue, so a flood delays them, and costs most of them. The two directions do not disturb each
other, which they do in a real guest with one processor.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from appliance.health.overload import Sample
from tests.simulate.clock import SECOND, Scope

OFFERED, CAPACITY = 1000.0, 20_000.0
"""Frames a second: what comes on a normal day, and what a guest can take."""
QUEUE = 500.0  # frames: the tap's


@dataclass(slots=True)
class Way:
    """One direction. `advance` brings it up to date by what holds now; times in ns."""

    at: int
    limit: float = 0.0  # frames a second; 0: there is none
    flood: float = 0.0  # so many times of what it can take is offered; 0: no flood
    waiting: float = 0.0
    taken: float = 0.0
    lost: float = 0.0
    came: float = 0.0
    over: float = 0.0

    def _offered(self) -> float:
        return self.flood * CAPACITY if self.flood else OFFERED

    def _handed(self) -> float:
        offered = self._offered()
        return min(offered, self.limit) if self.limit else offered

    def advance(self, now: int, *, offered: bool, takes: bool, passes: bool) -> bool:
        """`takes`: QEMU runs. `passes`: and the guest forwards. Whether a frame came out since the last time."""
        span, self.at = (now - self.at) / SECOND, now
        before = int(self.came)
        handed = self._handed() * span if offered else 0.0
        self.over += (self._offered() * span - handed) if offered else 0.0
        taken = min(CAPACITY * span, self.waiting + handed) if takes else 0.0
        left = self.waiting + handed - taken
        self.waiting = min(left, QUEUE)
        self.lost += left - self.waiting
        self.taken += taken
        self.came += taken if passes else 0.0
        return int(self.came) > before

    def admits(self, rng: random.Random) -> bool:
        """Whether the queue has room for a heartbeat."""
        return self.waiting < QUEUE or rng.random() < CAPACITY / max(self._handed(), CAPACITY)

    @property
    def delay(self) -> int:
        """How long a frame that comes now waits, in ns."""
        return int(self.waiting / CAPACITY * SECOND)


@dataclass
class LoadModel:
    """In the place of steering/load.py. `way` brings the direction up to date; a dead bypassd limits nothing."""

    way: Callable[[], Way]
    scope: Scope

    def sample(self) -> Sample | None:
        way = self.way()
        return Sample(int(way.taken), int(way.lost), int(way.came), int(way.over))

    def limit(self, frames_per_s: int) -> None:
        if self.scope.alive:
            self.way().limit = float(frames_per_s)

    def close(self) -> None:
        pass
