# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's datapath and the model side by side: each frame is given to both, and every answer compared.

Private (not pinned, no device): frames run by BPF_PROG_TEST_RUN, with the loopback device playing every device in turn.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path

from appliance.config.model import Config
from appliance.steering import layout, libbpf
from appliance.steering.datapath import Datapath
from appliance.steering.layout import Outcome, Reason, Role, Side, Verdict, slot
from appliance.steering.model import Decision, Lease, Model, State, Step, Where
from appliance.steering.pcap.program import compile_filter

FAR = 10**12  # ns: far enough in the future
LOOPBACK = 1
TC_ACT_SHOT, TC_ACT_REDIRECT, TC_ACT_OK = 2, 7, 0
XDP_DROP, XDP_PASS, XDP_REDIRECT = 1, 2, 4
EXPECTED = {
    "xdp": {Verdict.PORT: XDP_REDIRECT, Verdict.HOP: XDP_REDIRECT, Verdict.DROP: XDP_DROP, Verdict.STACK: XDP_PASS},
    "tc": {Verdict.PORT: TC_ACT_REDIRECT, Verdict.HOP: TC_ACT_REDIRECT, Verdict.DROP: TC_ACT_SHOT, Verdict.STACK: 0},
}


def matches(text: str, frame: bytes) -> bool:
    """The model's oracle for filters."""
    return compile_filter(text).matches(frame)


@dataclass(frozen=True)
class Answer:
    """What both must agree on."""

    outcome: Outcome
    verdict: Verdict
    slot: int | None
    rule: int | None
    steps: tuple[Step, ...]
    frame: bytes | None


class Twin:
    """One configuration in both worlds. Segments and hops have the numbers that a fresh `Names` gives."""

    def __init__(self, path: Path, config: Config) -> None:
        self.datapath = Datapath.open(path)
        self.maps = self.datapath.kernel.maps
        self.state = State()
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Another policy for both."""
        self.datapath.set_policy(config)
        assert self.datapath.policy is not None
        self.policy = self.datapath.policy

    def close(self) -> None:
        self.datapath.close()

    # -- the world around ---------------------------------------------------------------------------------------------

    def attach(self, longest: int = 1518, *, without: frozenset[int] = frozenset()) -> None:
        """Give every port and hop of the policy its devices, but for these slots."""
        for segment in self.policy.segments.values():
            for hop in (0, *(h.id for h in self.policy.hops.values())):
                for side in Side:
                    place = slot(hop, segment, side)
                    if place in without:
                        continue
                    self.maps["tx"].set(place, LOOPBACK)
                    value = layout.TargetValue(ifindex=LOOPBACK, flags=layout.TARGET_SG, max=longest)
                    self.maps["targets"].set(place, value)
                    self.state.longest[place] = longest

    def supervise(self, until: int | None = None) -> None:
        until = time.monotonic_ns() + FAR if until is None else until
        self.state.supervisor_until = until
        self.datapath.renew_supervisor(until)

    def lease(self, hop: str, *, good: bool = True, recovered: int = 0, draining: bool = False) -> None:
        number = self.datapath.hop_id(hop)
        until = time.monotonic_ns() + FAR if good else 1
        self.state.leases[number] = Lease(until, recovered, draining)
        for field, value in enumerate((until, recovered, int(draining))):
            self.datapath.kernel.leases.write(number, value, field)

    # -- frames -------------------------------------------------------------------------------------------------------

    def place(self, where: Where, flags: int = layout.DEVICE_TRACE) -> None:
        """Let the loopback device be this one."""
        direction = where.side if where.role is Role.PORT else where.side ^ 1
        longest = self.state.longest.get(slot(0, where.segment, direction ^ 1), layout.NO_MATCH)
        self.maps["devices"].set(
            LOOPBACK,
            layout.DeviceValue(
                role=where.role,
                segment=where.segment,
                side=where.side,
                hop=where.hop,
                slot=slot(where.hop, where.segment, where.side),
                flags=flags | (layout.DEVICE_TAGS if where.tags else 0),
                peer_max=longest,
                peer_max_sg=longest,
            ),
        )

    def kernel(self, where: Where, frame: bytes, kind: str = "xdp", flags: int = layout.DEVICE_TRACE) -> Answer:
        """The kernel's answer, read from the trace and checked against the program's return value."""
        self.place(where, flags)
        returned, out, _ = libbpf.run_frame(self.datapath.kernel.programs[f"entry_{kind}"], frame, 1)
        if where.role is Role.NONE:
            assert returned == EXPECTED[kind][Verdict.STACK]
            return Answer(Outcome.UNKNOWN, Verdict.STACK, None, None, (), None)
        trace = self.maps["trace"].get(0)
        assert trace is not None
        verdict = Verdict(trace.verdict)
        assert returned == EXPECTED[kind][verdict], (returned, verdict)
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
        stops = verdict is Verdict.STACK or Outcome(trace.outcome) is Outcome.BLOCKED
        return Answer(
            Outcome(trace.outcome),
            verdict,
            None if stops else trace.slot,
            None if trace.rule == layout.NO_MATCH else trace.rule,
            steps,
            out if kind == "xdp" else None,
        )

    def decide(self, where: Where, frame: bytes, kind: str = "xdp", now: int | None = None) -> Decision:
        """The model's answer."""
        model = Model(self.policy, self.state, matches, limit=kind == "xdp")
        return model.decide(where, frame, time.monotonic_ns() if now is None else now)

    @staticmethod
    def runs_by_tc(frame: bytes) -> bool:
        """The kernel's test run for tc refuses empty and jumbo frames, and IP that is shorter than its header."""
        shortest = {b"\x08\x00": 34, b"\x86\xdd": 54}.get(frame[12:14], 15)
        return shortest <= len(frame) < 3500

    def both(self, where: Where, frame: bytes, kind: str = "xdp") -> Decision:
        """Ask both and compare; the model's answer."""
        if kind == "tc" and not self.runs_by_tc(frame):
            # The model alone, and it must not learn from it.
            return Model(self.policy, copy.deepcopy(self.state), matches, limit=False).decide(
                where, frame, time.monotonic_ns()
            )
        before = self.counted(where)
        decision = self.decide(where, frame, kind)
        answer = self.kernel(where, frame, kind)
        expected = Answer(
            decision.outcome,
            decision.verdict,
            decision.slot,
            decision.rule,
            decision.steps,
            decision.frame if kind == "xdp" and where.role is not Role.NONE else None,
        )
        assert answer == expected, f"kernel {answer}\nmodel  {expected}\nframe {frame.hex()} {where}"
        after = self.counted(where)
        changed = {
            outcome: after[outcome] - before[outcome] for outcome in Outcome if after[outcome] != before[outcome]
        }
        assert changed == {decision.outcome: 1}, f"counted {changed}, not one {decision.outcome.name}"
        return decision

    def counted(self, where: Where) -> dict[Outcome, int]:
        """Frames of this device by outcome."""
        place = layout.SLOT_UNKNOWN if where.role is Role.NONE else slot(where.hop, where.segment, where.side)
        values = self.maps["device_counters"].per_cpu(place)
        return {outcome: sum(value.outcome[outcome].frames for value in values) for outcome in Outcome}

    def tables_agree(self) -> None:
        """Flows and fragments that the kernel knows are those of the model (times left out)."""
        known = {(key.hash, key.hop): flow.fin for key, flow in self.maps["flows"].items()}
        assert known == {key: fin for key, (_, fin) in self.state.flows.items()}
        datagrams = {
            (
                key.source[0] << 64 | key.source[1],
                key.destination[0] << 64 | key.destination[1],
                key.id,
                key.protocol,
            ): (
                value.hash,
                bool(value.first),
            )
            for key, value in self.maps["fragments"].items()
        }
        assert datagrams == {key: (hashed, first) for key, (hashed, _, first) in self.state.fragments.items()}
