# SPDX-License-Identifier: GPL-2.0-only
"""`canary NAME compare`: does a mirror treat the frames as the hop beside it does? And the commands that swap the two.

Frames into and out of both are copied from the running datapath for a fraction of each second and compared in this
process: nothing waits for it. If there are too many, a part of them is taken (`SHARES`), the same of both.
"""

from __future__ import annotations

import random
import select
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from appliance.counted import counted
from appliance.errors import NotFoundError, RefusedError
from console.commands.frame_ring import Frame, FrameRing
from console.commands.hop_roles import demoted, promoted
from console.commands.one_commit import Change, apply, running
from console.line.outcome import Outcome
from console.line.parse import Parsed, UsageError, seconds
from console.session import Context
from console.terminal.interrupt import Interrupt

if TYPE_CHECKING:
    from appliance.steering.explain.canary import Comparison, Passed

LONGEST_S, USUAL_S = 3600, 10
WINDOW_S = 0.1  # frames that go in within this time are compared
SETTLE_S = 0.4  # and come out within this one,
LATE_S = 2.0  # or, while some have not, within this one: a slow hop drops nothing
LOOK_S = 0.1  # between two looks whether all have come out
PERIOD_S = 1.0
EDGE_NS = 1_000_000  # a copy and its original may be so far apart
READ_S = 0.02  # between two looks into the rings, which hold 4 MiB
MOST = 20_000  # frames of a hop and round that are kept
SHARES = (1, 8, 64, 256)  # one of so many is taken
MS = 1_000_000


def compare(parsed: Parsed, context: Context) -> Outcome:
    """Until the time is over, or Ctrl-C, which shows what was found by then."""
    from appliance.steering.explain.canary import Comparison

    lasts = seconds(parsed.args["SECONDS"], parsed.args.get("UNIT", "")) if "SECONDS" in parsed.args else USUAL_S
    if not 0 < lasts <= LONGEST_S:
        raise UsageError(f"SECONDS: 1 to {LONGEST_S}")
    name = parsed.args["NAME"]
    beside = _beside(context, name)
    found = Comparison(link=not beside)
    discarded, share = 0, 0
    began = time.monotonic()
    with Interrupt() as stop:
        what = ", ".join(beside) or "the link"
        context.say(f"comparing {name} with {what} for {lasts} s; Ctrl-C ends it and shows what was found by then")
        while not stop.happened and (ends := time.monotonic()) < began + lasts:
            passed = _round(context, beside, name, SHARES[share], stop)
            if passed is not None:
                found.add(*passed)
            elif not stop.happened:
                discarded, share = discarded + 1, min(share + 1, len(SHARES) - 1)
            _wait(stop, min(ends + PERIOD_S, began + lasts) - time.monotonic())
    return Outcome(_answer(found, name, beside, (discarded, SHARES[share], time.monotonic() - began)), "canary")


def _beside(context: Context, name: str) -> list[str]:
    """The hops beside a mirror, members of a group instead of it."""
    mirrors: list[dict[str, Any]] = context.client.call("mirrors.show")
    shown = next((row for row in mirrors if row["name"] == name), None)
    if shown is None:
        there = ", ".join(str(row["name"]) for row in mirrors) or "none"
        raise NotFoundError(f'"{name}" is no mirror; there is: {there}')
    groups = {row["name"]: [one["name"] for one in row["members"]] for row in context.client.call("groups.show")}
    return [hop for other in shown["beside"] for hop in groups.get(other, [other])]


def _round(context: Context, beside: list[str], name: str, share: int, stop: Interrupt) -> tuple[Passed, Passed] | None:
    """What went into and came out of the hops beside the mirror, and of it; None: too much to read, or stopped."""
    from appliance.steering.explain.canary import came_out

    text = _sample(share)
    shift = time.time_ns() - time.monotonic_ns()
    remotes = {row["name"] for row in context.client.call("remotes.show")}
    with ExitStack() as stack:
        rings = []
        for hop in (*beside, name):
            params: dict[str, object] = {"kind": "remote" if hop in remotes else "guest", "name": hop}
            if text:
                params["filter"] = text
            rings.append(stack.enter_context(FrameRing(context.client, params, shift)))
        began = time.monotonic_ns() + shift
        frames: list[list[Frame]] = [[] for _ in rings]
        begun = time.monotonic()
        look = begun + WINDOW_S + SETTLE_S
        passed = None
        while passed is None and not stop.happened:
            _wait(stop, READ_S)
            for kept, ring in zip(frames, rings, strict=True):
                kept.extend(ring.waiting())
            now, full = time.monotonic(), any(len(kept) > MOST for kept in frames)
            if full and now < begun + WINDOW_S + SETTLE_S:
                return None
            if full or now >= look:
                look = now + LOOK_S
                seen = _seen(frames, began, EDGE_NS if beside else 0)
                over = full or now >= begun + WINDOW_S + LATE_S
                passed = seen if over or all(came_out(each) for each in seen) else None
        for ring in rings:
            ring.count()
            if ring.lost:
                return None
    return passed


def _seen(frames: list[list[Frame]], began: int, edge: int) -> tuple[Passed, Passed]:
    """What passed the hops and, the last of them, the mirror, of the window that began then."""
    ends = began + int(WINDOW_S * 1e9)
    hops = [frame for kept in frames[:-1] for frame in kept]
    return _passed(hops, began, ends), _passed(frames[-1], began - edge, ends + edge)


def _sample(share: int) -> str:
    """A filter for about one of so many frames, by a byte that most hops leave as it is; all that are not IP.

    The eighth byte after the IP header is the lowest of the sequence number of TCP and ESP, of the sequence of an echo,
    and of the checksum of UDP.
    """
    if share == 1:
        return ""
    some = random.randrange(share)
    four = f"ip[((ip[0] & 0xf) << 2) + 7] & {share - 1} = {some}"
    return f"(ip and {four}) or (ip6 and ip6[47] & {share - 1} = {some}) or not (ip or ip6)"


def _passed(frames: list[Frame], since: int, until: int) -> Passed:
    from appliance.steering.explain.canary import Passed, Seen

    into, out = [], []
    for frame in frames:
        side, segment = frame.place & 1, frame.place >> 1 & 15
        if not frame.out:
            out.append(Seen(frame.when, segment * 2 + (side ^ 1), frame.data))
        elif since <= frame.when <= until:
            into.append(Seen(frame.when, segment * 2 + side, frame.data))
    return Passed(into, out)


def _wait(stop: Interrupt, seconds: float) -> None:
    if seconds > 0 and not stop.happened:
        select.select([stop], [], [], seconds)


def _answer(found: Comparison, name: str, beside: list[str], rounds: tuple[int, int, float]) -> dict[str, Any]:
    from appliance.steering.explain.comparison import described

    discarded, share, took = rounds
    slower = found.slower
    as_before = bool(found.judged) and not found.different and not slower
    if not found.judged:
        message = "no frame went through both: nothing to compare"
    elif as_before:
        message = f"as before: {counted(found.judged, 'frame')} compared"
    else:
        parts = [f"{counted(found.different, 'frame')} of {found.judged} treated otherwise"] if found.different else []
        parts += [f"slower: {' and '.join(slower)} of the latency"] if slower else []
        message = f"differs: {'; '.join(parts)}"
    rows = [
        {
            "hop": says.hop.value, "mirror": says.mirror.value, "alike": says.alike, "frames": frames,
            "share": round(frames / found.judged, 4), "example": described(found.examples[says]),
        }
        for says, frames in found.verdicts.most_common()
    ]  # fmt: skip
    times = [
        {
            "hop": ", ".join(beside) if side is found.hop else name,
            "p50_ms": _ms(side.percentile(0.5)), "p99_ms": _ms(side.percentile(0.99)), "made_frames": side.extra,
        }
        for side in (found.hop, found.mirror)
        if side is found.mirror or beside
    ]  # fmt: skip
    return {
        "message": message,
        "as_before": as_before,
        "mirror": name,
        "beside": beside,
        "seconds": round(took, 1),
        "compared_frames": found.judged,
        "different_frames": found.different,
        "uncopied_frames": found.uncopied,
        "discarded_rounds": discarded,
        "one_of": share,
        "verdicts": rows,
        "latency": times,
        "slower": slower,
    }


def _ms(ns: int | None) -> float | None:
    return None if ns is None else round(ns / MS, 3)


def promote(parsed: Parsed, context: Context) -> Outcome:
    """The mirror becomes inline, and the hop beside it the mirror."""
    name = parsed.args["NAME"]
    return _commit(context, promoted(running(context.client), name), f"canary {name} promote")


def demote(parsed: Parsed, context: Context) -> Outcome:
    """The inline hop becomes a mirror, and the mirror beside it, if there is one, inline."""
    name = parsed.args["NAME"]
    return _commit(context, demoted(running(context.client), name), f"canary {name} demote")


def _commit(context: Context, changes: list[Change], comment: str) -> Outcome:
    if not changes:
        raise RefusedError("there is nothing to change")
    return Outcome(apply(context.client, changes, comment), "config-commit")
