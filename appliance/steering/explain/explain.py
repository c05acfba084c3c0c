# SPDX-License-Identifier: GPL-2.0-only
"""`bypass explain`: what happens to frames, and why. A thin layer over an engine, which it owns while it runs.

The whole path of each frame is followed: where it goes first, and from each hop (which is assumed to send it on
unchanged) where it goes next, until it leaves or is dropped. `by` (which engine answered) and `why` (the path in words)
are for display.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Literal

from appliance.api.schema.state import Explained
from appliance.config.schema.model import Config
from appliance.errors import ConfigError, DatapathError
from appliance.filter.compiler import compile_filter
from appliance.frames import capture_reader
from appliance.frames.capture_reader import Captured
from appliance.paths import Paths
from appliance.steering.datapath import Datapath
from appliance.steering.explain.backends import Engine, KernelEngine, LiveEngine, ModelEngine
from appliance.steering.explain.filter_reason import why_not
from appliance.steering.explain.model import Decision, Where
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import GroupHash, Outcome, Reason, Role, Side, Verdict
from appliance.steering.policy import CompiledGroup, Policy

MOST_HOPS = 32  # beyond that it is a loop
_TREE_OBJECT = Path(__file__).resolve().parents[3] / "build/bpf/steer.bpf.o"
_REASONS = {
    Reason.TAKEN: "takes it",
    Reason.UNAVAILABLE: "skipped: not available (no lease, or not attached to this segment)",
    Reason.NOT_ACCEPTED: "skipped: its accept filter does not match the frame",
    Reason.DRAINING: "skipped: draining, and the flow is new",
    Reason.OVERSIZE: "skipped: the frame is too long for its tap",
    Reason.HELD: "skipped: available again, but still held down",
    Reason.SUPERVISOR: "skipped: the supervisor's lease has expired",
    Reason.SHUNTED: "skipped: it has shunted the flow of the frame",
    Reason.OVERLOADED: "skipped: overloaded, and the frame exceeds what it carries (on_overload of the rule)",
    Reason.MIRRORED: "a mirror: gets a copy",
    Reason.TOO_FEW: "skipped: fewer members of the group are available than its minimum",
    Reason.KEPT: 'not available, and it knows the flow, which bypasses the group (on_member_failure = "keep")',
    Reason.RESET: 'not available, and it knows the flow, which is reset (on_member_failure = "reset")',
}
_OUTCOMES = {
    Outcome.STRAIGHT: "straight to the other port",
    Outcome.TO_HOP: "to a hop",
    Outcome.BYPASSED: "to the other port: no hop of the path takes it",
    Outcome.OUT: "out: end of the path",
    Outcome.HEARTBEAT: "a heartbeat, for the supervisor",
    Outcome.BLOCKED: "dropped: too few hops of the path are available",
    Outcome.UNPARSED: "shorter than an Ethernet header: to the other port",
    Outcome.NO_DEVICE: "dropped: no device is attached where it should go",
    Outcome.OVERSIZE: "dropped: longer than the other port can send",
    Outcome.NO_PROGRAM: "to the other port: a policy program is missing",
    Outcome.UNKNOWN: "not the datapath's",
    Outcome.LINK_LOCAL: 'straight to the other port: a control frame of the link itself (link_local = "straight")',
    Outcome.SHUNTED: "to the other port: a hop of the path has shunted the flow, and no other takes it",
    Outcome.DRY_RUN: "straight to the other port: a dry run (dry_run of the segment) only counts what a rule would do",
    Outcome.EXCESS: "dropped: exceeds what an overloaded hop carries, and the rule says block-excess",
    Outcome.MIRROR: "dropped: it comes from a mirror, which only gets copies",
    Outcome.RESET: "a TCP reset instead of the frame: the member of the group that knew its flow has failed",
}

_KEYS = {
    GroupHash.FIVE: "addresses and ports",
    GroupHash.THREE: "addresses and protocol",
    GroupHash.TWO: "addresses",
    GroupHash.SOURCE: "the address at the LAN",
    GroupHash.DESTINATION: "the address at the WAN",
}


def bpf_object(paths: Paths | None = None) -> Path:
    """The compiled datapath: the installed one, else that of the development tree."""
    installed = (paths or Paths()).bpf_object
    return installed if installed.is_file() else _TREE_OBJECT


def explain(
    config: Config,
    frames: Path | IO[bytes],
    side: Literal["lan", "wan"],
    *,
    segment: str = "",
    backend: str = "",
    down: Sequence[str] = (),
    words: bool = True,
    warn: Callable[[str], None] = lambda text: None,
) -> Iterator[Explained]:
    """Run each frame of a capture file, which may be open already; one row a frame, as soon as it is known.

    `segment`: "" is the only one. `backend`: "kernel", "model", or "" for the kernel where that is possible. `down`:
    hops that are not available. `words`: fill in `why`, which takes longer. `warn` is told of frames that the capture
    cut. ConfigError, FilterError, CaptureError or
    DatapathError in one line.
    """
    engine = _engine(config, backend, frozenset(down))
    try:
        entered = Side[side.upper()]
        whole = _whole(capture_reader.read(frames), warn)
        yield from walk(engine, whole, entered, _segment(engine.policy, segment), words=words)
    finally:
        engine.close()


def _whole(frames: Iterable[Captured], warn: Callable[[str], None]) -> Iterator[bytes]:
    """The frames at their length on the wire, which filters and ports ask about."""
    for number, frame in enumerate(frames, 1):
        if frame.cut:
            warn(
                f"frame {number}: captured {len(frame.data)} of {frame.length} bytes; the others are assumed to be zero"
            )
        yield frame.whole


def explain_live(datapath: Datapath, frame: bytes, side: Side, segment: str, number: int) -> Explained:
    """One frame on the running appliance: its programs, leases and tables; nothing is changed or counted.

    DatapathError when there is no policy; ConfigError when the segment is not known, or one of several must be named.
    """
    engine = LiveEngine(datapath)
    return _way(engine, number, frame, Where(Role.PORT, _segment(engine.policy, segment), side), words=True)


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


def walk(
    engine: Engine, frames: Iterable[bytes], side: Side, segment: int, *, words: bool = True
) -> Iterator[Explained]:
    """The way of each frame that comes in by the port of this side."""
    for number, frame in enumerate(frames, 1):
        yield _way(engine, number, frame, Where(Role.PORT, segment, side), words=words)


def _way(engine: Engine, number: int, frame: bytes, where: Where, *, words: bool) -> Explained:
    policy = engine.policy
    by_id = {hop.id: hop for hop in policy.hops.values()}
    first = decision = engine.decide(where, frame)
    why = [*_rules(policy, where, frame, first), *_steps(engine, first)] if words else []
    hops: list[str] = []
    mirrors = _copied(policy, decision)
    while decision.verdict is Verdict.HOP and decision.slot is not None:
        if len(hops) == MOST_HOPS:
            why.append("and so on: a loop")
            break
        hop = by_id[decision.slot // 32]
        hops.append(hop.name)
        out = Side(decision.slot & 1 ^ 1)
        decision = engine.decide(Where(Role.HOP, where.segment, out, hop.id, hop.tags), decision.frame)
        mirrors += _copied(policy, decision)
        why += [f"from {hop.name}:", *_steps(engine, decision)] if words else []
    why.append(f"{_verdict(policy, decision)}: {_outcome(policy, decision)}")
    return Explained(
        frame=number,
        rule=None if first.rule is None else policy.rules[first.rule].name,
        hops=hops,
        verdict=_verdict(policy, first),
        by=engine.name,
        why=why if words else [],
        mirrors=mirrors,
    )


def _copied(policy: Policy, decision: Decision) -> list[str]:
    """The mirrors that get a copy of the frame."""
    names = {hop.id: hop.name for hop in policy.hops.values()}
    return [names[step.hop] for step in decision.steps if step.reason is Reason.MIRRORED]


def _outcome(policy: Policy, decision: Decision) -> str:
    required = decision.rule is not None and policy.rules[decision.rule].flags & layout.RULE_ALL
    if required and any(step.reason not in (Reason.TAKEN, Reason.NOT_ACCEPTED) for step in decision.steps):
        missing = 'a hop is not available, and the rule says require = "all"'
        if decision.outcome is Outcome.BLOCKED:
            return f"dropped: {missing}{_held(policy, decision)}"
        if decision.outcome in (Outcome.BYPASSED, Outcome.OUT):
            return f"to the other port: {missing}"
    if decision.outcome is Outcome.BLOCKED and decision.rule is not None:
        word = "link-down" if policy.rules[decision.rule].link_down else "block"
        said = f'{_OUTCOMES[decision.outcome]}, and the rule says on_unavailable = "{word}"'
        return f"{said}{_held(policy, decision)}"
    if decision.outcome is Outcome.RESET and decision.verdict is Verdict.DROP:
        return f"dropped: its flow is reset, at most {10**9 // layout.RESET_NS} times a second in a segment"
    return _OUTCOMES[decision.outcome]


def _held(policy: Policy, decision: Decision) -> str:
    """What link-down adds to a frame that is blocked."""
    down = decision.rule is not None and policy.rules[decision.rule].link_down
    return "; the links of both ports are taken down" if down else ""


def _verdict(policy: Policy, decision: Decision) -> str:
    if decision.verdict is Verdict.PORT and decision.slot is not None:
        return f"port:{Side(decision.slot & 1).name.lower()}"
    if decision.verdict is Verdict.HOP and decision.slot is not None:
        hop = next(hop for hop in policy.hops.values() if hop.id == decision.slot // 32)
        return f"{'remote' if hop.remote else 'guest'}:{hop.name}"
    return "drop" if decision.verdict is Verdict.DROP else "stack"


def _rules(policy: Policy, where: Where, frame: bytes, decision: Decision) -> Iterator[str]:
    """Rule by rule why not, until the one that takes the frame."""
    if decision.outcome in (Outcome.UNPARSED, Outcome.LINK_LOCAL):
        return
    if not policy.rules:
        yield "there are no rules"
        return
    for index, rule in enumerate(policy.rules):
        if where.segment not in rule.segments:
            others = [name for name, number in policy.segments.items() if number in rule.segments]
            yield f"rule {rule.name}: no, it is for segment {', '.join(others)}"
            continue
        wanted = f"match {rule.match}" if rule.match else "every frame"
        wanted += f" through {', '.join(rule.through)}" if rule.through else ""
        if index == decision.rule:
            own = compile_filter(rule.match, through=rule.through).matches(frame)
            yield f"rule {rule.name}: yes, {wanted}" + ("" if own else ": the first fragment of its datagram did")
            return
        reason = why_not(compile_filter(rule.match), frame)
        yield f"rule {rule.name}: no, {reason} ({wanted})" if reason else f"rule {rule.name}: passed over ({wanted})"
    yield "no rule matches"


def _steps(engine: Engine, decision: Decision) -> Iterator[str]:
    """Hop by hop who was asked, why, and the answer."""
    names = {hop.id: hop.name for hop in engine.policy.hops.values()}
    groups = {group.id: group for group in engine.policy.groups.values()}
    taken = False
    for step in decision.steps:
        about = [engine.lease(step.hop)]
        if step.group is not None:
            about.insert(0, _choice(groups[step.group], step.bucket or 0))
        elif step.position is None:
            about.insert(0, "asked for by a tag")
        ahead = taken and step.reason is Reason.TAKEN
        reason = "will take it, as the rule requires" if ahead else _REASONS[step.reason]
        rule = None if decision.rule is None else engine.policy.rules[decision.rule]
        if step.reason is not Reason.MIRRORED and rule is not None and step.hop in (hop for _, hop in rule.mirrors):
            reason = f"a mirror, and gets no copy: {reason.removeprefix('skipped: ')}"
        yield f"  {names.get(step.hop, f'hop {step.hop}')} ({'; '.join(about)}): {reason}"
        taken = taken or step.reason is Reason.TAKEN


def _choice(group: CompiledGroup, bucket: int) -> str:
    """Why this order of the group's members."""
    order = " > ".join(group.orders[bucket])
    if group.flags & layout.GROUP_STANDBY:
        return f"group {group.name}, standby: {order}"
    return f"group {group.name}, bucket {bucket} of {layout.BUCKETS} by {_KEYS[group.hash]}: {order}"
