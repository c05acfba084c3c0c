# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's datapath and the model side by side: each frame is given to both, and all answers are compared.

Private (not pinned, no device): frames run by BPF_PROG_TEST_RUN, with the loopback device in the role of every device.
"""

from __future__ import annotations

import copy
import ctypes
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from socket import htonl

from appliance.config.schema.model import Config
from appliance.steering.datapath import Datapath
from appliance.steering.explain.backends import LOOPBACK, furnish, matches, run
from appliance.steering.explain.model import Decision, Gate, Lease, Model, Shunt, ShuntLimit, State, Where
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Outcome, Reason, Role, Side, Verdict, slot
from appliance.steering.kernel.shunted_flow import ShuntedFlow
from appliance.system import libbpf

LONGEST_PIECE = 3000  # bytes; a longer frame of a test run may be in several buffers
XDP_REDIRECT, TC_REDIRECT = 4, 7
FAR = 10**12  # ns: far enough in the future


class Twin:
    """One configuration in both worlds. Segments and hops have the numbers that a fresh `Names` gives."""

    def __init__(self, path: Path, config: Config) -> None:
        self.datapath = Datapath.open(path)
        self.maps = self.datapath.kernel.maps
        self.state = State()
        self.repeats = 0
        """Run so many times more, as in service: a port's frame for a hop, by the port's own program, and one from a
        hop."""
        self.configure(config)

    def configure(self, config: Config) -> None:
        """Set another policy for both."""
        self.datapath.set_policy(config)
        assert self.datapath.policy is not None
        self.policy = self.datapath.policy
        self.state.shunt_limits = {
            hop.id: ShuntLimit(int(may.time), int(may.idle), 10**9 // may.rate, may.max)
            for hop in self.policy.hops.values()
            if (may := hop.shunts) is not None
        }
        self.state.keys = {hop.id: self.datapath.heartbeat_key(hop.name) for hop in self.policy.hops.values()}

    def close(self) -> None:
        self.datapath.close()

    # -- the world around ---------------------------------------------------------------------------------------------

    def attach(self, longest: int = 1518, *, without: frozenset[int] = frozenset()) -> None:
        """Give every port and hop of the policy its devices, except for these slots."""
        for segment in self.policy.segments.values():
            for hop in (0, *(h.id for h in self.policy.hops.values())):
                for side in Side:
                    place = slot(hop, segment, side)
                    if place in without:
                        continue
                    furnish(self.datapath, [place], longest)
                    self.state.longest[place] = longest

    def supervise(self, until: int | None = None) -> None:
        until = time.monotonic_ns() + FAR if until is None else until
        self.state.supervisor_until = until
        self.datapath.leases.renew_supervisor(until)

    def lease(self, hop: str, *, good: bool = True, recovered: int = 0, draining: bool = False) -> None:
        number = self.datapath.hop_id(hop)
        until = time.monotonic_ns() + FAR if good else 1
        self.state.leases[number] = Lease(until, recovered, draining)
        for field, value in enumerate((until, recovered, int(draining))):
            self.datapath.kernel.leases.write(number, value, field)

    def gate(self, hop: str, side: Side, cost: int, *, full: bool = False) -> None:
        """Limit the frames to the hop at this side to one per `cost` (ns; 0: no limit).

        `full`: its capacity is used up.
        """
        place = slot(self.datapath.hop_id(hop), 0, side)
        used = time.monotonic_ns() + FAR if full else 0
        self.state.gates.pop(place, None)
        if cost:
            self.state.gates[place] = Gate(cost, used)
        self.datapath.gates.limit(place, 10**9 // cost if cost else 0)
        self.datapath.kernel.gates.write(place, used, 1)

    def shunt(self, hop: str, flow: ShuntedFlow, *, directions: int = 3, lasts: int = FAR, idle: int = FAR) -> None:
        """The hop shunts a flow; does nothing if it may not."""
        number, now = self.datapath.hop_id(hop), time.monotonic_ns()
        if number in self.state.shunt_limits:
            self.datapath.shunts.enter(
                number, flow, now, time_ns=lasts, idle_ns=idle, directions=directions
            )  # RefusedError: full
            self.state.shunts[number, flow] = Shunt(now, now + lasts, now, idle, directions)

    # -- frames -------------------------------------------------------------------------------------------------------

    def kernel(self, where: Where, frame: bytes, kind: str = "xdp", flags: int = 0) -> Decision:
        """The kernel's answer."""
        direction = where.side if where.role is Role.PORT else where.side ^ 1
        longest = self.state.longest.get(slot(0, where.segment, direction ^ 1), layout.NO_MATCH)
        return run(self.datapath, where, frame, kind, flags=flags, longest=longest)

    def decide(self, where: Where, frame: bytes, now: int | None = None, *, kind: str = "xdp") -> Decision:
        """The model's answer; mirrors get copies by tc only."""
        model = Model(self.policy, self.state, matches, copying=kind == "tc")
        return model.decide(where, frame, time.monotonic_ns() if now is None else now)

    @staticmethod
    def runs_by_tc(frame: bytes) -> bool:
        """The kernel's test run for tc refuses empty and jumbo frames, and IP that is shorter than its header."""
        shortest = {b"\x08\x00": 34, b"\x86\xdd": 54}.get(frame[12:14], 15)
        return shortest <= len(frame) < 3500

    def both(self, where: Where, frame: bytes, kind: str = "xdp") -> Decision:
        """Run both and compare; returns the model's answer."""
        if kind == "tc" and not self.runs_by_tc(frame):
            # Only the model, and it must not learn from it.
            return Model(self.policy, copy.deepcopy(self.state), matches).decide(where, frame, time.monotonic_ns())
        before, all_before = self.counted(where), self.everything(where) if self.repeats else {}
        copied = self.copied()
        decision = self.decide(where, frame, kind=kind)
        answer = self.kernel(where, frame, kind)
        # With tc an inner tag may have moved to the metadata, so resulting frames are only compared with XDP.
        out = decision.frame if kind == "xdp" else answer.frame
        expected = replace(decision, frame=out, returned_unmatched=False, bad_tag=False)
        assert answer == expected, f"kernel {answer}\nmodel  {expected}\nframe {frame.hex()} {where}"
        after = self.counted(where)
        changed = {
            outcome: after[outcome] - before[outcome] for outcome in Outcome if after[outcome] != before[outcome]
        }
        assert changed == {decision.outcome: 1}, f"counted {changed}, not one {decision.outcome.name}"
        copies = Counter(step.hop for step in decision.steps if step.reason is Reason.MIRRORED)
        assert self.copied() == copied + copies, "copies"
        if where.role is Role.PORT and decision.outcome in (Outcome.STRAIGHT, Outcome.OVERSIZE, Outcome.NO_DEVICE):
            self.short_way(where, frame, kind, decision)
        elif self.repeats:
            changes = self.changed(all_before, self.everything(where))
            attached = self.datapath.attached_program(slot(0, where.segment, where.side))
            program = None
            if where.role is Role.HOP:
                program = self.datapath.kernel.programs[f"entry_{kind}"]
            elif where.role is Role.PORT and kind == "xdp" and attached is not None and attached.own:
                program = attached.program
            for _ in range(self.repeats):
                if program is not None:
                    self.once_more(program, where, frame, kind, decision=decision, changes=changes)
        return decision

    def once_more(
        self, program: int, where: Where, frame: bytes, kind: str, *, decision: Decision, changes: dict[str, int]
    ) -> None:
        """The frame once more, by this program: what it counts is the same as by the long way.

        `changes`: of the counters, by the decision at first; the model sees the frame again as well.
        """
        again = self.decide(where, frame, kind=kind)
        before, all_before = self.counted(where), self.everything(where)
        action, out = self.run_plain(program, where, frame, kind)
        if replace(again, frame=decision.frame) == decision:
            assert self.changed(all_before, self.everything(where)) == changes
        after = self.counted(where)
        assert {outcome for outcome in Outcome if after[outcome] != before[outcome]} == {again.outcome}
        sent = action == {"xdp": XDP_REDIRECT, "tc": TC_REDIRECT}[kind]
        leaves = again.outcome in (Outcome.TO_HOP, *layout.LEAVING)
        assert sent is (leaves or (again.outcome is Outcome.RESET and again.verdict is Verdict.PORT))
        assert kind == "tc" or not sent or out == again.frame

    def copied(self) -> Counter[int]:
        """Frames copied to each hop as a mirror."""
        counters = self.maps["hop_counters"]
        hops = [hop.id for hop in self.policy.hops.values()]
        return Counter({hop: sum(value.copies.frames for value in counters.per_cpu(hop)) for hop in hops})

    def everything(self, where: Where) -> dict[str, int]:
        """All that is counted for a frame from there: of the device, of every rule, of every hop."""
        found: dict[str, int] = {}

        def add(what: str, name: str, index: int) -> None:
            for value in self.maps[name].per_cpu(index):
                words = (ctypes.c_uint64 * (ctypes.sizeof(value) // 8)).from_buffer(value)
                for at, word in enumerate(words):
                    found[f"{what} {at}"] = found.get(f"{what} {at}", 0) + word

        if where.role is not Role.NONE:
            add("device", "device_counters", slot(where.hop, where.segment, where.side))
        for rule in self.policy.rules:
            add(f"rule {rule.name}", "rule_counters", rule.counter)
        for hop in self.policy.hops.values():
            add(f"hop {hop.name}", "hop_counters", hop.id)
        return found

    @staticmethod
    def changed(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
        return {name: after[name] - before[name] for name in before if after[name] != before[name]}

    def short_way(self, where: Where, frame: bytes, kind: str, decision: Decision) -> None:
        """The same frame without a trace, as in service: a straight frame may take a short cut, with the same counters.

        From the entry, and from the program that is attached to ports in its place, if the policy has one.
        """
        ways = [self.datapath.kernel.programs[f"entry_{kind}"]]
        attached = self.datapath.attached_program(slot(0, where.segment, where.side))
        if kind == "xdp" and attached is not None:
            ways.append(attached.program)
        for program in ways:
            self.one_short_way(program, where, frame, kind, decision)

    def one_short_way(self, program: int, where: Where, frame: bytes, kind: str, decision: Decision) -> None:
        """Run the frame from this program on."""
        before, rule_before = self.counted(where), self.counted_by_rule(decision.rule)
        action, out = self.run_plain(program, where, frame, kind)
        redirected = decision.outcome is Outcome.STRAIGHT
        assert action == {"xdp": (1, XDP_REDIRECT), "tc": (2, 7)}[kind][redirected]
        after, rule_after = self.counted(where), self.counted_by_rule(decision.rule)
        changed = {
            outcome: after[outcome] - before[outcome] for outcome in Outcome if after[outcome] != before[outcome]
        }
        assert changed == {decision.outcome: 1}, f"counted {changed} by the short way, not one {decision.outcome.name}"
        once = (1, len(frame)) if decision.rule is not None else (0, 0)
        assert (rule_after[0] - rule_before[0], rule_after[1] - rule_before[1]) == once
        assert kind == "tc" or out == frame

    def run_plain(self, program: int, where: Where, frame: bytes, kind: str) -> tuple[int, bytes]:
        """The action, and the frame afterwards, by this program; from a device without a trace, as in service."""
        with self.plain(where, frame):
            action, out, _ = libbpf.run_frame(program, frame, 1)
        return action, out

    @contextmanager
    def plain(self, where: Where, frame: bytes) -> Iterator[None]:
        """The loopback device is this one, without a trace, as in service; what a port's own program may do fits."""
        port = slot(0, where.segment, where.side)
        leaves = port ^ 1 if where.role is Role.PORT else port
        longest = self.state.longest.get(leaves, layout.NO_MATCH)
        device = layout.DeviceValue(
            role=where.role,
            segment=where.segment,
            side=where.side,
            hop=where.hop,
            slot=slot(where.hop, where.segment, where.side),
            flags=layout.DEVICE_TAGS if where.tags else 0,
            peer_max=longest,
            peer_max_sg=longest,
            key=htonl(self.state.keys[where.hop]) if where.hop else 0,
        )
        self.maps["devices"].set(LOOPBACK, device)
        in_one_piece = longest if len(frame) < LONGEST_PIECE else 0
        self.datapath.kernel.own_ways.write(0, in_one_piece, port)
        try:
            yield
        finally:
            self.maps["devices"].set(LOOPBACK, layout.DeviceValue())
            self.datapath.kernel.own_ways.write(0, 0, port)

    def counted_by_rule(self, index: int | None) -> tuple[int, int]:
        """Frames and bytes of a rule."""
        if index is None:
            return 0, 0
        values = self.maps["rule_counters"].per_cpu(self.policy.rules[index].counter)
        return sum(value.matched.frames for value in values), sum(value.matched.bytes for value in values)

    def counted(self, where: Where) -> dict[Outcome, int]:
        """Frames of this device by outcome."""
        place = layout.SLOT_UNKNOWN if where.role is Role.NONE else slot(where.hop, where.segment, where.side)
        values = self.maps["device_counters"].per_cpu(place)
        return {outcome: sum(value.outcome[outcome].frames for value in values) for outcome in Outcome}

    def tables_agree(self) -> None:
        """The kernel knows the same flows and fragments as the model (except for times)."""
        for name, flows in (("flows", self.state.flows), ("new_flows", self.state.new_flows)):
            known = {(key.hash, key.hop): flow.fin for key, flow in self.maps[name].items()}
            assert known == {key: fin for key, (_, fin) in flows.items()}, name
        now = time.monotonic_ns()
        assert {
            (hop, one.flow): one.directions
            for hop in self.state.shunt_limits
            for one in self.datapath.shunts.reader(hop, now)()
        } == {
            key: one.directions
            for key, one in self.state.shunts.items()
            if now < min(one.until, one.seen + one.idle)
            and one.since >= self.state.leases.get(key[0], Lease()).recovered
        }
        generation = self.datapath.generation
        datagrams = {
            (
                key.source[0] << 64 | key.source[1],
                key.destination[0] << 64 | key.destination[1],
                key.id,
                key.protocol,
            ): (
                value.hash,
                bool(value.first),
                value.protocol,
                tuple(value.ends),
                None if value.rule == layout.NO_MATCH or value.generation != generation else value.rule,
            )
            for key, value in self.maps["fragments"].items()
        }
        assert datagrams == {
            key: (one.hash, one.first, one.protocol, one.ends, one.rule if one.policy is self.policy else None)
            for key, one in self.state.fragments.items()
        }
