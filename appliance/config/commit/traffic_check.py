# SPDX-License-Identifier: GPL-2.0-only
"""Whether the appliance still works after a commit: compares a look before with one after. Pure.

Only what the commit made worse counts: a segment that was in bypass before is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance.causes import Cause
from appliance.counted import counted

ENOUGH_FRAMES = 20
"""This many frames that came in and went nowhere are proof enough."""


@dataclass(frozen=True)
class Segment:
    """One segment at one moment. `faults`: known reasons to bypass; frame counts of both ports together."""

    inline: bool
    faults: Mapping[Cause, str] = field(default_factory=dict)
    came: int = 0  # frames that came in by a port
    went: int = 0  # of these: sent on, to a hop or out, or blocked by a rule that says so
    lost: int = 0  # of these: dropped though no rule says so


@dataclass(frozen=True)
class Look:
    """The appliance at one moment. `generation` counts the policies of the datapath; None = there is no datapath."""

    generation: int | None
    segments: Mapping[str, Segment] = field(default_factory=dict)


def judge(before: Look, after: Look) -> str:
    """Why the new configuration must be rolled back; "" = it may stay."""
    if before.generation is not None and after.generation is None:
        return "the datapath is down"
    if before.generation is not None and before.generation == after.generation:
        return "the datapath still has the old policy"
    for name, now in after.segments.items():
        was = before.segments.get(name)
        if was is None:
            continue
        new_faults = [f"{cause}: {text}" for cause, text in now.faults.items() if cause not in was.faults]
        if new_faults:
            return f"segment {name}: {'; '.join(new_faults)}"
        if not (was.inline and now.inline):
            continue
        came, lost = now.came - was.came, now.lost - was.lost
        went = now.went - was.went
        if came >= ENOUGH_FRAMES and went == 0:
            return f"segment {name}: of {counted(came, 'frame')} that came in none was forwarded"
        if lost >= ENOUGH_FRAMES and lost * 2 > came:
            return f"segment {name}: {lost} of {counted(came, 'frame')} were lost"
    return ""


def quiet(before: Look, after: Look) -> bool:
    """Whether some inline segment has not had enough frames yet for a verdict."""
    return any(
        was.inline and now.inline and now.came - was.came < ENOUGH_FRAMES
        for name, now in after.segments.items()
        if (was := before.segments.get(name)) is not None
    )
