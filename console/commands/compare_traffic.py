# SPDX-License-Identifier: GPL-2.0-only
"""`compare traffic SECONDS` in `configure`: which frames on the link would go another way by the candidate.

Frames are copied out of the running datapath for a fraction of each second and given to the model of both
configurations, in this process: bypassd does not wait for it, and nothing is sent or changed.
"""

from __future__ import annotations

import random
import select
import time
from typing import TYPE_CHECKING, Any

from appliance.counted import counted
from appliance.errors import RefusedError
from console.commands.frame_ring import Frame, FrameRing
from console.line.outcome import Outcome
from console.line.parse import Parsed, UsageError, seconds
from console.session import Context
from console.terminal.interrupt import Interrupt

if TYPE_CHECKING:
    from appliance.steering.explain.comparison import Comparison

LONGEST_S = 3600
WINDOW_S = 0.1  # of each second and segment: frames that are being copied take the longer way through the datapath
PERIOD_S = 1.0
AT_ONCE = 500  # frames of one window, chosen at random
BYTES = 2048  # of each frame; what is missing of longer ones counts as zeros
WAIT_S = 30.0
_UP = ("available", "overloaded", "draining")


def compare_traffic(parsed: Parsed, context: Context) -> Outcome:
    """Until the time is over, or Ctrl-C, which shows what was found by then."""
    from appliance.config.check import load
    from appliance.steering.explain.comparison import Comparison

    lasts = seconds(parsed.args["SECONDS"], parsed.args.get("UNIT", ""))
    if not 0 < lasts <= LONGEST_S:
        raise UsageError(f"SECONDS: 1 to {LONGEST_S}")

    def text(which: str) -> Any:
        shown = context.client.call("config.show", {"of": which, "secrets": True}, WAIT_S)
        return load.loads(shown["text"], which)

    hops = [*context.client.call("guests.show", {}, WAIT_S), *context.client.call("remotes.show", {}, WAIT_S)]
    down = frozenset(str(hop["name"]) for hop in hops if hop.get("state") not in _UP)
    found = Comparison(text("running"), text("candidate"), down)
    if not found.segments:
        raise RefusedError("running and candidate have no segment in common")
    copied = lost = 0
    began = time.monotonic()
    with Interrupt() as stop:
        context.say(f"comparing for {lasts} s; Ctrl-C ends it and shows what was found by then")
        while not stop.happened and time.monotonic() < began + lasts:
            round_ends = min(time.monotonic() + PERIOD_S, began + lasts)
            for segment in found.segments:
                params: dict[str, object] = {"kind": "segment", "name": segment, "way": "in", "bytes": BYTES}
                with FrameRing(context.client, params) as live:
                    _wait(stop, WINDOW_S)
                    frames = live.waiting()
                    live.count()
                copied, lost = copied + live.copied, lost + live.lost
                _add(found, segment, frames, stop)
            _wait(stop, round_ends - time.monotonic())
    return Outcome(_answer(found, sorted(down), copied + lost, time.monotonic() - began), "traffic-compared")


def _wait(stop: Interrupt, seconds: float) -> None:
    if seconds > 0 and not stop.happened:
        select.select([stop], [], [], seconds)


def _add(found: Comparison, segment: str, frames: list[Frame], stop: Interrupt) -> None:
    from appliance.steering.kernel.layout import Side

    for frame in random.sample(frames, min(len(frames), AT_ONCE)):
        if stop.happened:
            return
        found.add(segment, Side(frame.place & 1), frame.data.ljust(frame.length, b"\0"))


def _answer(found: Comparison, down: list[str], passed: int, took: float) -> dict[str, Any]:
    from appliance.steering.explain.comparison import described

    rows = []
    for change, frames in found.changes.most_common():
        rows.append({
            "segment": change.segment, "in": change.side, "old_rule": change.old.rule, "new_rule": change.new.rule,
            "old_way": change.old.way, "new_way": change.new.way, "elsewhere": change.elsewhere, "frames": frames,
            "share": round(frames / found.frames, 4), "example": described(found.examples[change]),
        })  # fmt: skip
    return {
        "message": f"{counted(found.elsewhere, 'frame')} of {found.frames} would go another way",
        "seconds": round(took, 1),
        "compared_frames": found.frames,
        "passed_frames": passed,
        "elsewhere_frames": found.elsewhere,
        "down": down,
        "assumed_available": found.assumed,
        "changes": rows,
    }
