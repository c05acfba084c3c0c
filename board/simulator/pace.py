# SPDX-License-Identifier: GPL-2.0-only
"""How fast the board computes, and what follows from it: how long to wait, how much traffic to offer. Pure.

The board is emulated, on whatever machine there is and beside whatever else it does. Its speed is that of its boot, as
a share of `REFERENCE_S`: a boot is several seconds of just the work that is waited for later, so what else the machine
does is in it. Waits grow as the speed falls. Traffic falls with its square: a slow board has less time for frames, and
its own work (a restart, a boot) takes longer from them. What is claimed never changes with the speed: a frame that was
offered must arrive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

REFERENCE_S = 3.0
"""From power on to the first word of the debug shell, on the machine whose speed is 1: two cores, nothing beside."""
MOST_STRETCH = 6.0
AS_GOOD = 0.8  # a board at this speed counts as the reference: measurements of one machine differ by as much
UNMEASURED_STRETCH = 3.0  # until the board's shell answers for the first time
FEWEST = 20  # frames a second; fewer would not show a gap
FRAMES = 1000  # frames a second at full speed
BYTES = 100_000  # bytes a second of a download at full speed
BEAT_MS = 100  # between two in-band heartbeats through the demo guest
MISSES, SLOW_MISSES = 3, 5  # of them that it may miss: at the reference speed; below it, times the stretch


@dataclass(frozen=True)
class Pace:
    """`speed`: 1 = the reference; None = not measured yet. `limit`: frames a second at most, `tried` or not."""

    speed: float | None = None
    limit: int = FRAMES
    tried: bool = False

    @property
    def stretch(self) -> float:
        """Waits are this many times longer than on the reference machine; never shorter."""
        if self.speed is None:
            return UNMEASURED_STRETCH
        return 1.0 if self.speed >= AS_GOOD else min(MOST_STRETCH, 1.0 / self.speed)

    def wait(self, seconds: float) -> float:
        """How long to wait for what takes `seconds` at most on the reference machine."""
        return seconds * self.stretch

    @property
    def frames(self) -> int:
        """Frames a second and direction to offer, in tens."""
        return max(FEWEST, min(self.limit, math.floor(FRAMES / self.stretch**2 / 10) * 10))

    @property
    def bytes(self) -> int:
        """Bytes a second of a download."""
        return BYTES * self.frames // FRAMES

    @property
    def misses(self) -> int:
        """In-band heartbeats that the demo guest may miss; more where the emulation makes it stand still."""
        return MISSES if self.stretch == 1.0 else math.ceil(SLOW_MISSES * self.stretch)

    def carried(self, trial: Callable[[int], bool]) -> Pace:
        """Half of the frames at which `trial` (frames a second -> all arrived) succeeds; each failure halves them.

        Half, because a trial is short and the machine's other work comes and goes. The smallest rate is not tried: what
        it loses is for the measurement itself to show.
        """
        rate = self.frames
        while rate > FEWEST and not trial(rate):
            rate = max(FEWEST, rate // 2)
        return replace(self, limit=max(FEWEST, rate // 2), tried=True)

    def __str__(self) -> str:
        if self.speed is None:
            return "the emulation's speed is not measured yet"
        return (
            f"the emulation runs at {self.speed:.2g} of the reference speed: "
            f"waits x{self.stretch:.2g}, {self.frames} frames/s, {self.bytes // 1000} kB/s, "
            f"{self.misses} heartbeats of {BEAT_MS} ms may be missed"
        )

    def figures(self) -> dict[str, float]:
        """What a file of figures says of it."""
        return {
            "emulation_speed_ratio": round(self.speed or 0.0, 3),
            "offered_frames_per_s": self.frames,
            "offered_bytes_per_s": self.bytes,
            "guest_heartbeat_misses": self.misses,
        }


def booted(seconds: float) -> Pace:
    """The pace of a board whose debug shell spoke so many seconds after power on."""
    return Pace(speed=REFERENCE_S / max(seconds, 0.01))
