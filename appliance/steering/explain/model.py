# SPDX-License-Identifier: GPL-2.0-only
"""The datapath's decisions in plain Python: what the kernel does with a frame, written to be read.

Tests hold it against the kernel on every kind of frame; `bypass explain --backend model` runs it. It shares with the
datapath only what user space computes anyway (`Policy`, the bucket tables) and the reading of flows (`flow`).

The short version. A frame from a port: the first rule of the segment that matches; its path, from LAN to WAN forward,
from WAN to LAN backward; the first hop that may have the frame gets it. A frame from a hop: on behind that hop, in the
direction it travels. No hop left: out by the port it travels to. Nothing is written on the frame, so where it goes on
behind a hop follows from the tap it comes from and, where rules differ, from what it is *now*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from appliance.frames import flow as flows
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Item, Outcome, Reason, Role, Side, Verdict, slot
from appliance.steering.policy import CompiledGroup, CompiledHop, CompiledRule, Policy

Matches = Callable[[str, bytes], bool]
TCP_FIN, TCP_SYN, TCP_RST, TCP_ACK = 1, 2, 4, 16
CLOSED = 3


@dataclass
class Lease:
    """What user space says about a hop (struct lease)."""

    until: int = 0
    recovered: int = 0
    draining: bool = False


@dataclass
class Gate:
    """How many frames a hop is handed at one tap while it is overloaded (struct gate)."""

    cost: int
    used: int = 0


@dataclass
class State:
    """What a decision depends on besides policy and frame; times in ns."""

    supervisor_until: int = 0
    leases: dict[int, Lease] = field(default_factory=dict)  # by hop id
    longest: dict[int, int] = field(default_factory=dict)  # by slot: longest frame; slots that are not here are empty
    gates: dict[int, Gate] = field(default_factory=dict)  # by slot; none: no limit
    keys: dict[int, int] = field(default_factory=dict)  # by hop id: of its heartbeats; none: nothing is a heartbeat
    flows: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)  # (hash, hop) -> seen, fin
    fragments: dict[tuple[int, int, int, int], tuple[int, int, bool]] = field(default_factory=dict)


@dataclass(frozen=True)
class Where:
    """The device a frame comes from."""

    role: Role
    segment: int = 0
    side: Side = Side.LAN
    hop: int = 0
    tags: bool = False


@dataclass(frozen=True)
class Step:
    """One hop that was looked at. `group` and `bucket`: None for a hop that stands in the path itself."""

    hop: int
    reason: Reason
    position: int | None  # in the rule's path; None: asked for by a tag
    group: int | None = None
    bucket: int | None = None


@dataclass(frozen=True)
class Decision:
    """What becomes of the frame. `rule`: index of the rule whose path it follows."""

    outcome: Outcome
    verdict: Verdict
    slot: int | None = None
    rule: int | None = None
    steps: tuple[Step, ...] = ()
    frame: bytes = b""  # as it leaves: a tag of ours may have gone, or come
    returned_unmatched: bool = False
    bad_tag: bool = False


@dataclass
class _Frame:
    """The frame in hand."""

    data: bytes
    where: Where
    now: int
    direction: Side  # named by the side it comes from
    flow: flows.Flow
    hash: int
    steps: list[Step] = field(default_factory=list)
    available: bool = False  # some hop of the path was
    rule: CompiledRule | None = None
    overloaded: bool = False  # the hop last looked at is, and must not have the frame
    returned_unmatched: bool = False
    bad_tag: bool = False


class Model:
    """One appliance. `matches` says whether a pcap filter takes a frame (libpcap's answer)."""

    def __init__(self, policy: Policy, state: State, matches: Matches, *, limit: bool = True) -> None:
        """`limit`: XDP cannot send frames longer than a device takes; tc leaves that to the kernel."""
        self.policy, self.state, self._matches, self._limit = policy, state, matches, limit
        self._hops: dict[int, CompiledHop] = {hop.id: hop for hop in policy.hops.values()}
        self._groups: dict[int, CompiledGroup] = {group.id: group for group in policy.groups.values()}

    # -- the way of a frame -------------------------------------------------------------------------------------------

    def decide(self, where: Where, data: bytes, now: int) -> Decision:
        """What the datapath does with a frame that comes in there at this time. Learns flows and fragments."""
        if where.role is Role.NONE:
            return Decision(Outcome.UNKNOWN, Verdict.STACK, frame=data)
        if where.role is Role.PORT:
            direction = where.side
            if not self.policy.chains.get(where.segment):
                return self._leave(where, direction, data, Outcome.STRAIGHT)
        else:
            direction = Side(where.side ^ 1)  # out of the WAN side: on from LAN to WAN
            if self._heartbeat(where.hop, data):
                return Decision(Outcome.HEARTBEAT, Verdict.STACK, frame=data)
        if len(data) < 14:
            return self._leave(where, direction, data, Outcome.UNPARSED)
        if where.role is Role.PORT:
            return self._from_port(self._frame(data, where, now, direction))
        return self._from_hop(where, data, now, direction)

    def _heartbeat(self, hop: int, data: bytes) -> bool:
        """Whether it is one of ours: by the hop's key in an address, or in the payload of what the guest routed."""
        if hop not in self.state.keys or len(data) < 14:
            return False
        key = self.state.keys[hop].to_bytes(4, "big")
        if key in (data[8:12], data[2:6]):
            return True
        if data[:4] != (layout.HEARTBEAT_NEIGHBOUR | hop).to_bytes(4, "big") or len(data) < 15:
            return False
        header = {b"\x08\x00": (data[14] & 15) * 4, b"\x86\xdd": 40}.get(data[12:14])
        if header is None:
            return False
        at = 14 + header + layout.HEARTBEAT_KEY_AT
        return data[at : at + 4] == key

    def _from_port(self, frame: _Frame) -> Decision:
        index = self._classify(frame)
        if index is None:
            return self._out(frame, None, Outcome.STRAIGHT)
        rule = self.policy.rules[index]
        if not rule.path:
            return self._out(frame, index, Outcome.STRAIGHT)
        self._learn(frame)
        order = range(len(rule.path)) if frame.direction is Side.LAN else range(len(rule.path) - 1, -1, -1)
        hop = self._walk(frame, rule, order)
        if hop:
            return self._enter(frame, hop, index)
        if frame.overloaded and rule.flags & layout.RULE_EXCESS_BLOCK:
            return self._end(frame, Decision(Outcome.EXCESS, Verdict.DROP, None, index))
        if not frame.available and rule.flags & layout.RULE_BLOCK:
            return self._end(frame, Decision(Outcome.BLOCKED, Verdict.DROP, None, index))
        return self._out(frame, index, Outcome.BYPASSED)

    def _from_hop(self, where: Where, data: bytes, now: int, direction: Side) -> Decision:
        vid = None
        if where.tags and len(data) >= 18 and data[12:14] == layout.ETH_TAG.to_bytes(2, "big"):
            vid = int.from_bytes(data[14:16], "big") & 0xFFF
            data = data[:12] + data[16:]
        if vid == layout.TAG_OUT:
            return self._leave(where, direction, data, Outcome.OUT)
        if vid in (layout.TAG_OUT_LAN, layout.TAG_OUT_WAN):
            towards = Side.WAN if vid == layout.TAG_OUT_LAN else Side.LAN
            return self._leave(where, towards, data, Outcome.OUT)
        frame = self._frame(data, where, now, direction)
        index, rest = self._continue(frame)
        asked = vid is not None and 0 < vid < layout.MAX_HOPS
        if not asked and not rest and not self._ambiguous(where, direction):
            # Nothing to decide: no rule is looked at.
            frame.bad_tag = vid not in (None, layout.TAG_NEXT)
            return self._out(frame, None, Outcome.OUT)
        self._learn(frame)
        if vid not in (None, layout.TAG_NEXT):
            frame.rule = None if index is None else self.policy.rules[index]
            wanted = self._choose(frame, (vid,), None, None, None) if asked and vid != where.hop else 0
            if wanted:
                return self._enter(frame, wanted, index)
            frame.bad_tag = not frame.overloaded
        if index is None or not rest:
            return self._out(frame, index, Outcome.OUT)
        hop = self._walk(frame, self.policy.rules[index], rest)
        if not hop and frame.overloaded and self.policy.rules[index].flags & layout.RULE_EXCESS_BLOCK:
            return self._end(frame, Decision(Outcome.EXCESS, Verdict.DROP, None, index))
        return self._enter(frame, hop, index) if hop else self._out(frame, index, Outcome.OUT)

    # -- which rule ---------------------------------------------------------------------------------------------------

    def _classify(self, frame: _Frame) -> int | None:
        for index in self.policy.chains.get(frame.where.segment, ()):
            if self._matches(self.policy.rules[index].match, frame.data):
                return index
        return None

    def _position(self, rule: CompiledRule, hop: int) -> int | None:
        """Where the rule's path holds the hop, by itself or in a group."""
        return next((at for at, item in enumerate(rule.path) if hop in self.policy.ids(item)), None)

    def _behind(self, rule: CompiledRule, position: int, direction: Side) -> list[int]:
        """Positions behind this one, in the order the frame meets them."""
        if direction is Side.LAN:
            return list(range(position + 1, len(rule.path)))
        return list(range(position - 1, -1, -1))

    def _candidates(self, where: Where, direction: Side) -> list[tuple[int, list[int]]]:
        """Rules that hold the hop the frame comes from, each with what is left of its path."""
        found = []
        for index in self.policy.chains.get(where.segment, ()):
            position = self._position(self.policy.rules[index], where.hop)
            if position is not None:
                found.append((index, self._behind(self.policy.rules[index], position, direction)))
        return found

    def _ambiguous(self, where: Where, direction: Side) -> bool:
        return len({self._rest(*candidate) for candidate in self._candidates(where, direction)}) > 1

    def _rest(self, index: int, positions: Sequence[int]) -> tuple[tuple[Item, int], ...]:
        return tuple(self.policy.rules[index].path[position] for position in positions)

    def _continue(self, frame: _Frame) -> tuple[int | None, list[int]]:
        """The rule a frame from a hop follows, and what of its path is left."""
        found = self._candidates(frame.where, frame.direction)
        if not found:
            frame.returned_unmatched = True
            return None, []
        if not self._ambiguous(frame.where, frame.direction):
            return found[0]  # all go on alike: the frame may have been changed at will
        matched = self._classify(frame)
        for index, rest in found:
            if index == matched:
                return index, rest
        frame.returned_unmatched = True
        return found[0]

    # -- which hop ----------------------------------------------------------------------------------------------------

    def _walk(self, frame: _Frame, rule: CompiledRule, order: Sequence[int]) -> int:
        """The first hop on the path that may have the frame; 0 none, or the rule blocks what exceeds a hop."""
        frame.rule = rule
        frame.overloaded = False
        for position in order:
            kind, number = rule.path[position]
            if kind is Item.HOP:
                hop = self._choose(frame, (number,), position, None, None)
            else:
                group = self._groups[number]
                bucket = (frame.flow.hash_l3 if group.flags & layout.GROUP_L3 else frame.hash) % layout.BUCKETS
                members = [self.policy.hops[name].id for name in group.orders[bucket]]
                hop = self._choose(frame, members, position, group, bucket)
            if hop or (frame.overloaded and rule.flags & layout.RULE_EXCESS_BLOCK):
                return hop
        return 0

    def _choose(
        self,
        frame: _Frame,
        members: Sequence[int],
        position: int | None,
        group: CompiledGroup | None,
        bucket: int | None,
    ) -> int:
        """The first of these that may have the frame; one that is only held down if there is no other."""
        held = 0
        frame.overloaded = False
        for hop in members:
            reason = self._judge(frame, hop, group.hold_down if group else 0)
            frame.steps.append(Step(hop, reason, position, group.id if group else None, bucket))
            if reason is Reason.TAKEN:
                return hop
            if reason is Reason.OVERLOADED:
                frame.overloaded = True
                return 0
            if reason is Reason.HELD and not held:
                held = hop
        if held:
            frame.steps.append(Step(held, Reason.TAKEN, position, group.id if group else None, bucket))
        return held

    def _judge(self, frame: _Frame, hop: int, hold_down: int) -> Reason:
        """May this hop have the frame?"""
        state, now = self.state, frame.now
        if state.supervisor_until <= now:
            return Reason.SUPERVISOR
        lease = state.leases.get(hop, Lease())
        longest = state.longest.get(slot(hop, frame.where.segment, frame.direction))
        if lease.until <= now or longest is None:
            return Reason.UNAVAILABLE
        if lease.draining and not self._established(frame, hop):
            return Reason.DRAINING
        known = self._hops.get(hop)
        if self._limit and len(frame.data) + 4 * (known is not None and known.tags) > longest:
            return Reason.OVERSIZE
        frame.available = True
        if known is not None and known.accept.strip() and not self._matches(known.accept, frame.data):
            return Reason.NOT_ACCEPTED
        if self._exceeds(frame, slot(hop, frame.where.segment, frame.direction)):
            return Reason.OVERLOADED
        if hold_down and lease.recovered and now < lease.recovered + hold_down:
            return Reason.HELD
        return Reason.TAKEN

    def _exceeds(self, frame: _Frame, place: int) -> bool:
        """Whether the frame is more than an overloaded hop is handed there."""
        gate = self.state.gates.get(place)
        if gate is None:
            return False
        gate.used = max(gate.used, frame.now)
        if gate.used - frame.now > layout.GATE_BURST_NS:
            return True
        gate.used += gate.cost
        return frame.rule is not None and bool(frame.rule.flags & layout.RULE_OVERLOAD_BYPASS)

    # -- flows --------------------------------------------------------------------------------------------------------

    def _frame(self, data: bytes, where: Where, now: int, direction: Side) -> _Frame:
        flow = flows.flow_of(data)
        return _Frame(data, where, now, direction, flow, flow.hash)

    def _learn(self, frame: _Frame) -> None:
        """All fragments of a datagram get the hash of the one that came first; a first fragment knows the ports."""
        flow = frame.flow
        if flow.datagram is None:
            return
        known = self.state.fragments.get(flow.datagram)
        if known is not None and frame.now - known[1] < layout.FRAGMENT_NS and not (flow.fragment == 1 and known[2]):
            frame.hash = known[0]
        else:
            self.state.fragments[flow.datagram] = (flow.hash, frame.now, flow.fragment == 1)

    def _established(self, frame: _Frame, hop: int) -> bool:
        """Does the hop know the flow? A new connection on a closed flow's endpoints is a new flow."""
        known = self.state.flows.get((frame.hash, hop))
        if known is None:
            return False
        seen, fin = known
        if fin == CLOSED:
            opens = frame.flow.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
            return not opens and frame.now - seen < layout.FLOW_CLOSED_NS
        return True

    def _track(self, frame: _Frame, hop: int) -> None:
        key, flags = (frame.hash, hop), frame.flow.tcp_flags
        known = self.state.flows.get(key)
        if flags & TCP_RST:
            self.state.flows.pop(key, None)
        elif known is None or (known[1] == CLOSED and flags & (TCP_SYN | TCP_ACK) == TCP_SYN):
            self.state.flows[key] = (frame.now, 0)
        elif known[1] == CLOSED:
            pass  # its last frames do not keep it
        elif flags & TCP_FIN:
            self.state.flows[key] = (frame.now, known[1] | 1 << frame.direction)
        elif frame.now - known[0] > layout.FLOW_REFRESH_NS:
            self.state.flows[key] = (frame.now, known[1])

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _enter(self, frame: _Frame, hop: int, index: int | None) -> Decision:
        """To the hop, by the tap of the side the frame comes from."""
        known = self._hops.get(hop)
        if known is not None and known.tracked:
            self._track(frame, hop)
        if known is not None and known.tags:
            ours = layout.ETH_TAG.to_bytes(2, "big") + layout.TAG_NEXT.to_bytes(2, "big")
            frame.data = frame.data[:12] + ours + frame.data[12:]
        place = slot(hop, frame.where.segment, frame.direction)
        return self._end(frame, Decision(Outcome.TO_HOP, Verdict.HOP, place, index))

    def _out(self, frame: _Frame, index: int | None, outcome: Outcome) -> Decision:
        left = self._leave(frame.where, frame.direction, frame.data, outcome)
        return self._end(frame, Decision(left.outcome, left.verdict, left.slot, index))

    def _end(self, frame: _Frame, decision: Decision) -> Decision:
        return Decision(
            decision.outcome,
            decision.verdict,
            decision.slot,
            decision.rule,
            tuple(frame.steps),
            frame.data,
            frame.returned_unmatched,
            frame.bad_tag,
        )

    def _leave(self, where: Where, direction: Side, data: bytes, outcome: Outcome) -> Decision:
        """By the port the frame travels to."""
        port = slot(0, where.segment, direction ^ 1)
        longest = self.state.longest.get(port)
        if longest is None:
            return Decision(Outcome.NO_DEVICE, Verdict.DROP, port, frame=data)
        if self._limit and len(data) > longest:
            return Decision(Outcome.OVERSIZE, Verdict.DROP, port, frame=data)
        return Decision(outcome, Verdict.PORT, port, frame=data)
