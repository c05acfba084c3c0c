# SPDX-License-Identifier: GPL-2.0-only
"""`bypass explain`: what happens to frames, and why. Thin over an engine; owns it while it runs.

For each frame the whole way is asked: where it goes first, and from each hop (which is taken to send it on unchanged)
where it goes next, until it leaves or is dropped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from appliance.config.model import Config
from appliance.errors import ConfigError, DatapathError
from appliance.paths import Paths
from appliance.steering import capture
from appliance.steering.datapath import Datapath
from appliance.steering.engines import Engine, KernelEngine, LiveEngine, ModelEngine, matches
from appliance.steering.layout import Outcome, Reason, Role, Side, Verdict
from appliance.steering.model import Decision, Where
from appliance.steering.policy import Policy

MOST_HOPS = 32  # then it goes in a circle
_TREE_OBJECT = Path(__file__).resolve().parents[2] / "build/bpf/steer.bpf.o"
_REASONS = {
    Reason.TAKEN: "takes it",
    Reason.UNAVAILABLE: "skipped: not available (no lease, or not attached to this segment)",
    Reason.NOT_ACCEPTED: "skipped: its accept filter does not take the frame",
    Reason.DRAINING: "skipped: draining, and the flow is new",
    Reason.OVERSIZE: "skipped: the frame is longer than its tap takes",
    Reason.HELD: "skipped: available again, and held down for some time yet",
    Reason.SUPERVISOR: "skipped: the supervisor's own lease is over",
}
_OUTCOMES = {
    Outcome.STRAIGHT: "straight to the other port",
    Outcome.TO_HOP: "to a hop",
    Outcome.BYPASSED: "to the other port, as no hop of the path takes it",
    Outcome.OUT: "out: end of the path",
    Outcome.HEARTBEAT: "a heartbeat, for the supervisor",
    Outcome.BLOCKED: 'dropped: no hop is available, and the rule says on_unavailable = "block"',
    Outcome.UNPARSED: "shorter than an Ethernet header: to the other port",
    Outcome.NO_DEVICE: "dropped: nothing is attached where it should go",
    Outcome.OVERSIZE: "dropped: longer than the other port can send",
    Outcome.NO_PROGRAM: "to the other port: a policy program is missing",
    Outcome.UNKNOWN: "not the datapath's",
}


def bpf_object(paths: Paths | None = None) -> Path:
    """The compiled datapath: the installed one, else that of the development tree."""
    installed = (paths or Paths()).bpf_object
    return installed if installed.is_file() else _TREE_OBJECT


def explain(
    config: Config,
    frames: Path,
    side: Literal["lan", "wan"],
    *,
    segment: str = "",
    backend: str = "",
    down: Sequence[str] = (),
) -> Iterator[dict[str, Any]]:
    """Run each frame of a capture file; one object a frame, with the keys of the console's JSON, and `why` in words.

    `segment`: "" is the only one. `backend`: "kernel", "model", or "" for the kernel where that is possible. `down`:
    hops that are not available. ConfigError, FilterError, CaptureError or DatapathError in one line.
    """
    engine = _engine(config, backend, frozenset(down))
    try:
        yield from walk(engine, capture.read(frames), Side[side.upper()], _segment(engine.policy, segment))
    finally:
        engine.close()


def explain_live(datapath: Datapath, frames: Iterable[bytes], side: Side, segment: str) -> list[dict[str, Any]]:
    """The same on the running appliance: its programs, leases and tables; nothing is changed or counted."""
    engine = LiveEngine(datapath)
    return list(walk(engine, frames, side, _segment(engine.policy, segment)))


def _engine(config: Config, backend: str, down: frozenset[str]) -> KernelEngine | ModelEngine:
    if backend == "model" or (not backend and os.geteuid() != 0):
        return ModelEngine(config, down)
    try:
        return KernelEngine(config, bpf_object(), down)
    except DatapathError:
        if backend == "kernel":
            raise
        return ModelEngine(config, down)


def _segment(policy: Policy, name: str) -> int:
    if name:
        if name not in policy.segments:
            raise ConfigError(f"segment {name}", "there is no such segment")
        return policy.segments[name]
    if len(policy.segments) != 1:
        raise ConfigError(
            "segment", "name one of: " + ", ".join(policy.segments) if policy.segments else "there is none"
        )
    return next(iter(policy.segments.values()))


def walk(engine: Engine, frames: Iterable[bytes], side: Side, segment: int) -> Iterator[dict[str, Any]]:
    """The way of each frame that comes in by the port of this side."""
    for number, frame in enumerate(frames, 1):
        yield {"frame": number, **_way(engine, frame, Where(Role.PORT, segment, side))}


def _way(engine: Engine, frame: bytes, where: Where) -> dict[str, Any]:
    policy = engine.policy
    names = {hop.id: hop for hop in policy.hops.values()}
    first = decision = engine.decide(where, frame)
    why = [*_rules(policy, where, frame, first), *_steps(policy, first)]
    hops: list[str] = []
    while decision.verdict is Verdict.HOP and decision.slot is not None:
        if len(hops) == MOST_HOPS:
            why.append("and so on: it goes in a circle")
            break
        hop = names[decision.slot // 32]
        hops.append(hop.name)
        out = Side(decision.slot & 1 ^ 1)
        decision = engine.decide(Where(Role.HOP, where.segment, out, hop.id), decision.frame)
        why += [f"from {hop.name}:", *_steps(policy, decision)]
    why.append(_OUTCOMES[decision.outcome])
    rule = None if first.rule is None else policy.rules[first.rule].name
    return {
        "rule": rule,
        "hops": hops,
        "verdict": _verdict(policy, first),
        "why": why,
    }


def _verdict(policy: Policy, decision: Decision) -> str:
    if decision.verdict is Verdict.PORT and decision.slot is not None:
        return f"port:{Side(decision.slot & 1).name.lower()}"
    if decision.verdict is Verdict.HOP and decision.slot is not None:
        hop = next(hop for hop in policy.hops.values() if hop.id == decision.slot // 32)
        return f"{'remote' if hop.remote else 'guest'}:{hop.name}"
    return "drop" if decision.verdict is Verdict.DROP else "stack"


def _rules(policy: Policy, where: Where, frame: bytes, decision: Decision) -> Iterator[str]:
    for index in policy.chains.get(where.segment, ()):
        rule = policy.rules[index]
        wanted = f'"{rule.match}"' if rule.match else "every frame"
        if index == decision.rule:
            yield f"rule {rule.name} matches: {wanted}"
            return
        answer = "does not match" if not matches(rule.match, frame) else "matches, but the datapath says otherwise"
        yield f"rule {rule.name} {answer}: {wanted}"
    yield "no rule matches"


def _steps(policy: Policy, decision: Decision) -> Iterator[str]:
    names = {hop.id: hop.name for hop in policy.hops.values()}
    groups = {group.id: group for group in policy.groups.values()}
    for step in decision.steps:
        via = ""
        if step.group is not None:
            group = groups[step.group]
            order = " > ".join(group.orders[step.bucket or 0])
            via = f" (group {group.name}, bucket {step.bucket}: {order})"
        elif step.position is None:
            via = " (asked for by a tag)"
        yield f"  {names.get(step.hop, f'hop {step.hop}')}{via}: {_REASONS[step.reason]}"
