# SPDX-License-Identifier: GPL-2.0-only
"""Two ways to find out what happens to a frame: the programs in the kernel (BPF_PROG_TEST_RUN), or the model.

The kernel engine lets the loopback device play the device the frame comes from, and reads the trace that the datapath
writes for it. On a running appliance that changes nothing: with `dry`, no counter, flow or fragment is touched.
"""

from __future__ import annotations

import time
from pathlib import Path
from socket import htonl
from typing import Protocol

from appliance.config.schema.model import Config
from appliance.errors import DatapathError
from appliance.filter.compiler import compile_filter
from appliance.steering.datapath import Datapath
from appliance.steering.explain.model import Decision, Gate, Lease, Model, State, Step, Where
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Outcome, Reason, Role, Side, Verdict, slot
from appliance.steering.names import Names
from appliance.steering.policy import Policy, compile_policy
from appliance.system import libbpf

LOOPBACK = 1  # ifindex; its frames never come to the datapath
SHORTEST = 14  # the kernel's test run refuses shorter frames
LONGEST_XDP = 65000  # and longer ones: for XDP what fits its buffers, for tc about a page
LONGEST_TC = 3400
UNLIMITED = 0xFFFFFFFF
FAR_NS = 3_600_000_000_000


class Engine(Protocol):
    """Decides about one frame. `name`: what decides, for display."""

    name: str
    policy: Policy

    def decide(self, where: Where, frame: bytes) -> Decision:
        """What happens to a frame that arrives there now."""
        ...

    def lease(self, hop: int) -> str:
        """The state of the hop's lease, as text."""
        ...


def matches(text: str, frame: bytes, through: tuple[str, ...] = ()) -> bool:
    """Whether a filter matches a frame."""
    return compile_filter(text, through=through).matches(frame)


def run(
    datapath: Datapath,
    where: Where,
    frame: bytes,
    kind: str,
    *,
    flags: int = 0,
    longest: int = UNLIMITED,
    longest_sg: int | None = None,
) -> Decision:
    """Run the frame through the datapath's program of this kind ("xdp", "tc"), from a device like `where`.

    `longest`: of the port it may leave by; `longest_sg`: of a frame in several buffers, where that differs.
    DatapathError when the kernel cannot run such a frame (see `runs`).
    """
    maps = datapath.kernel.maps
    device = layout.DeviceValue(
        role=where.role,
        segment=where.segment,
        side=where.side,
        hop=where.hop,
        slot=slot(where.hop, where.segment, where.side),
        flags=flags | layout.DEVICE_TRACE | (layout.DEVICE_TAGS if where.tags else 0),
        peer_max=longest,
        peer_max_sg=longest if longest_sg is None else longest_sg,
        key=htonl(datapath.heartbeat_key(_name_of(datapath, where.hop))) if where.hop else 0,
    )
    maps["devices"].set(LOOPBACK, device)
    try:
        _, out, _ = libbpf.run_frame(datapath.kernel.programs[f"entry_{kind}"], frame, 1)
    finally:
        maps["devices"].set(LOOPBACK, layout.DeviceValue())
    if where.role is Role.NONE:
        return Decision(Outcome.UNKNOWN, Verdict.STACK, frame=out)
    trace = maps["trace"].get(0)
    if trace is None:
        raise DatapathError("the datapath wrote no trace")
    outcome, verdict = Outcome(trace.outcome), Verdict(trace.verdict)
    stops = verdict is Verdict.STACK or outcome in (Outcome.BLOCKED, Outcome.EXCESS, Outcome.MIRROR)
    stops |= outcome is Outcome.RESET and verdict is Verdict.DROP
    steps = tuple(
        Step(
            step.hop,
            Reason(step.reason),
            None if step.position == 255 else step.position,
            None if step.group == 255 else step.group,
            None if step.group == 255 else step.bucket,
        )
        for step in trace.step[: trace.steps]
    )
    rule = None if trace.rule == layout.NO_MATCH else trace.rule
    return Decision(outcome, verdict, None if stops else trace.slot, rule, steps, out)


def _name_of(datapath: Datapath, hop: int) -> str:
    assert datapath.policy is not None
    return next((name for name, known in datapath.policy.hops.items() if known.id == hop), "")


def runs(kind: str, frame: bytes) -> bool:
    """Whether the kernel takes the frame for a test run: for tc no empty one, no IP cut short, none beyond a page."""
    if kind == "xdp":
        return SHORTEST <= len(frame) <= LONGEST_XDP
    return {b"\x08\x00": 34, b"\x86\xdd": 54}.get(frame[12:14], SHORTEST + 1) <= len(frame) <= LONGEST_TC


class LiveEngine:
    """The running appliance: its programs, its leases, its tables. Changes none of them."""

    name = "the running datapath"

    def __init__(self, datapath: Datapath) -> None:
        if datapath.policy is None:
            raise DatapathError("the datapath has no policy yet")
        self._datapath, self.policy = datapath, datapath.policy
        self._attached = {attached.slot: attached for attached in datapath.attachments()}

    def decide(self, where: Where, frame: bytes) -> Decision:
        """As the kernel decides, by the mode of the frame's device; by the model where the kernel cannot be asked."""
        attached = self._attached.get(slot(where.hop, where.segment, where.side))
        kind = attached.mode if attached is not None else "xdp"
        if not runs(kind, frame):
            return Model(self.policy, self._state(), matches).decide(where, frame, time.monotonic_ns())
        value = self._datapath.kernel.maps["devices"].get(attached.device.ifindex) if attached is not None else None
        longest, several = (value.peer_max, value.peer_max_sg) if value is not None else (UNLIMITED, UNLIMITED)
        return run(self._datapath, where, frame, kind, flags=layout.DEVICE_DRY, longest=longest, longest_sg=several)

    def lease(self, hop: int) -> str:
        """How much longer it holds, or since when it is over."""
        leases, now = self._datapath.kernel.leases, time.monotonic_ns()
        left = leases.read(hop) - now
        if left > 0:
            return f"lease for {left / 1e6:.0f} ms"
        if left < -now + 2:  # 0: never had one; 1: revoked
            return "lease revoked" if left > -now else "no lease yet"
        return f"lease over for {_ago(-left)}"

    def _state(self) -> State:
        leases, names = self._datapath.kernel.leases, self.policy.hops.values()
        state = State(supervisor_until=leases.read(0))
        for hop in names:
            until, recovered, draining = (leases.read(hop.id, field) for field in range(3))
            state.leases[hop.id] = Lease(until, recovered, bool(draining))
            state.gates |= {place: Gate(cost, used) for place, cost, used in self._datapath.gates.limits(hop.id)}
            state.keys[hop.id] = self._datapath.heartbeat_key(hop.name)
        for place, attached in self._attached.items():
            state.longest[place] = attached.device.longest
        return state


def _ago(ns: int) -> str:
    return f"{ns / 1e6:.0f} ms" if ns < 10**9 else f"{ns / 1e9:.0f} s"


class ModelEngine:
    """The model, with all devices present and all hops available except those in `down`."""

    name = "the model"

    def __init__(self, config: Config, down: frozenset[str] = frozenset()) -> None:
        self._down = down
        self.policy = compile_policy(config, Names())
        now = time.monotonic_ns()
        state = State(supervisor_until=now + FAR_NS)
        for hop in self.policy.hops.values():
            if hop.name not in down:
                state.leases[hop.id] = Lease(now + FAR_NS)
        for place in places(self.policy):
            state.longest[place] = UNLIMITED
        self._model = Model(self.policy, state, matches)

    def decide(self, where: Where, frame: bytes) -> Decision:
        """As the model says."""
        return self._model.decide(where, frame, time.monotonic_ns())

    def lease(self, hop: int) -> str:
        """As it was asked for."""
        return _supposed(self.policy, hop, self._down)

    def close(self) -> None:
        """Nothing to do."""


class KernelEngine:
    """The real programs, loaded only for this, under the same assumptions as ModelEngine. Needs root; `close` it."""

    name = "the datapath's programs"

    def __init__(self, config: Config, path: Path, down: frozenset[str] = frozenset()) -> None:
        self._down = down
        self._datapath = Datapath.open(path)
        try:
            self._datapath.set_policy(config)
            policy = self._datapath.policy
            if policy is None:
                raise DatapathError("no policy")
            self.policy = policy
            furnish(self._datapath, places(policy))
            until = time.monotonic_ns() + FAR_NS
            self._datapath.leases.renew_supervisor(until)
            for hop in policy.hops:
                if hop not in down:
                    self._datapath.leases.renew(hop, until)
        except BaseException:
            self._datapath.close()
            raise
        self._short = ModelEngine(config, down)

    def decide(self, where: Where, frame: bytes) -> Decision:
        """As the kernel does; frames without a whole Ethernet header can only be asked of the model."""
        copying = any(segment == where.segment for _, segment in self.policy.mirrors)
        kind = "tc" if copying else "xdp"  # as such a segment is attached
        if not runs(kind, frame):
            return self._short.decide(where, frame)
        return run(self._datapath, where, frame, kind)

    def lease(self, hop: int) -> str:
        """As it was asked for."""
        return _supposed(self.policy, hop, self._down)

    def close(self) -> None:
        """Unload."""
        self._datapath.close()


def _supposed(policy: Policy, hop: int, down: frozenset[str]) -> str:
    return "down, as asked for" if any(h.id == hop and h.name in down for h in policy.hops.values()) else "available"


def places(policy: Policy) -> list[int]:
    """The slots of all ports and taps of a policy."""
    hops = (0, *(hop.id for hop in policy.hops.values()))
    return [slot(hop, segment, side) for segment in policy.segments.values() for hop in hops for side in Side]


def furnish(datapath: Datapath, slots: list[int], longest: int = UNLIMITED) -> None:
    """Pretend that every one of these slots has a device (private datapaths only)."""
    maps = datapath.kernel.maps
    for place in slots:
        maps["tx"].set(place, LOOPBACK)
        maps["targets"].set(place, layout.TargetValue(ifindex=LOOPBACK, flags=layout.TARGET_SG, max=longest))
