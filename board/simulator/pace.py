# SPDX-License-Identifier: GPL-2.0-only
"""How fast the board computes, and what follows from it: how long to wait, how much traffic to offer. Pure.

The board is emulated, on any machine and together with other load. Its speed is measured by its boot, relative to
`REFERENCE_S`: a boot is several seconds of the same kind of work that tests wait for later, with the machine's other
load included. Waits grow as the speed falls. Traffic falls with its square: a slow board has less time for frames, and
its own work (a restart, a boot) takes longer away from them. The claims never change with the speed: a frame that was
offered must arrive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

REFERENCE_S = 3.0
"""From power-on to the first output of the debug shell, on the machine whose speed is 1: two cores, no other load."""
MOST_STRETCH = 6.0
AS_GOOD = 0.8  # a board at this speed counts as the reference: measurements of one machine vary by that much
UNMEASURED_STRETCH = 3.0  # until the board's shell answers for the first time
FEWEST = 20  # frames a second; fewer would not show a gap
FRAMES = 1000  # frames a second at full speed
BYTES = 100_000  # bytes a second of a download at full speed
BEAT_MS = 100  # between two in-band heartbeats through the demo guest
MISSES, SLOW_MISSES = 3, 5  # how many of them it may miss: at the reference speed; below it, times the stretch


@dataclass(frozen=True)
class Pace:
    """`speed`: 1 = the reference; None = not measured yet. `limit`: most frames a second, `tried` or not."""

    speed: float | None = None
    limit: int = FRAMES
    tried: bool = False

    @property
    def stretch(self) -> float:
        """The factor for waits relative to the reference machine; at least 1."""
        if self.speed is None:
            return UNMEASURED_STRETCH
        return 1.0 if self.speed >= AS_GOOD else min(MOST_STRETCH, 1.0 / self.speed)

    def wait(self, seconds: float) -> float:
        """How long to wait for something that takes at most `seconds` on the reference machine."""
        return seconds * self.stretch

    @property
    def frames(self) -> int:
        """Frames to offer, per second and direction, rounded to tens."""
        return max(FEWEST, min(self.limit, math.floor(FRAMES / self.stretch**2 / 10) * 10))

    @property
    def bytes(self) -> int:
        """Bytes a second of a download."""
        return BYTES * self.frames // FRAMES

    @property
    def misses(self) -> int:
        """In-band heartbeats that the demo guest may miss; more if the emulation makes it pause."""
        return MISSES if self.stretch == 1.0 else math.ceil(SLOW_MISSES * self.stretch)

    def carried(self, trial: Callable[[int], bool]) -> Pace:
        """Half of the frames at which `trial` (frames a second -> all arrived) succeeds; each failure halves them.

        Half, because a trial is short and the machine's other load varies. The smallest rate is not tried: its losses
        are left to the measurement itself.
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
        """The entries for a file of figures."""
        return {
            "emulation_speed_ratio": round(self.speed or 0.0, 3),
            "offered_frames_per_s": self.frames,
            "offered_bytes_per_s": self.bytes,
            "guest_heartbeat_misses": self.misses,
        }


def booted(seconds: float) -> Pace:
    """The pace of a board whose debug shell answered this many seconds after power-on."""
    return Pace(speed=REFERENCE_S / max(seconds, 0.01))
