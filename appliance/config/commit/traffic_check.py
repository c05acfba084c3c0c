# SPDX-License-Identifier: GPL-2.0-only
"""Did the appliance survive a commit? Two looks at it, before and after, and one judgement. Pure.

The judgement is about what the commit made worse: a segment that was in bypass before proves and spoils nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from appliance.causes import Cause
from appliance.counted import counted

ENOUGH_FRAMES = 20
"""So many frames that came in and went nowhere speak for themselves."""


@dataclass(frozen=True)
class Segment:
    """One segment at one moment. `faults`: reasons to bypass that are known; frames of both ports together."""

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
    """Why the new configuration must go again; "" = nothing speaks against it."""
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
            return f"segment {name}: of {counted(came, 'frame')} that came in none went on"
        if lost >= ENOUGH_FRAMES and lost * 2 > came:
            return f"segment {name}: {lost} of {counted(came, 'frame')} lost"
    return ""


def quiet(before: Look, after: Look) -> bool:
    """Whether some inline segment has not had enough frames yet to be judged by them."""
    return any(
        was.inline and now.inline and now.came - was.came < ENOUGH_FRAMES
        for name, now in after.segments.items()
        if (was := before.segments.get(name)) is not None
    )
