# SPDX-License-Identifier: GPL-2.0-only
"""The datapath's decisions in plain Python: what the kernel does with a frame, written for readers.

Tests compare it with the kernel on every kind of frame; `bypass explain --backend model` runs it. It shares with the
datapath only what user space computes anyway (`Policy`, the bucket tables) and the parsing of flows (`flow`).

In short: a frame from a port follows the path of the first matching rule of its segment, forward from LAN to WAN and
backward from WAN to LAN; the first hop that may have the frame gets it. A frame from a hop continues after that hop, in
its direction. When no hop is left, it leaves by the port it travels to. The frame carries no mark, so where it goes on
after a hop follows from the tap it comes from and, where rules differ, from its contents *now*.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from appliance.frames import flow as flows
from appliance.frames import headers
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import GroupHash, Item, Outcome, Reason, Reset, Role, Side, Verdict, slot
from appliance.steering.kernel.shunted_flow import ShuntedFlow, flow_of
from appliance.steering.policy import CompiledGroup, CompiledHop, CompiledRule, Policy

Matches = Callable[[str, bytes, tuple[str, ...]], bool]  # filter, frame, what the filter looks through
TCP_FIN, TCP_SYN, TCP_RST, TCP_ACK = 1, 2, 4, 16
SHORTEST = 60  # of a frame on Ethernet, without its checksum
LINK_LOCAL = bytes.fromhex("0180c20000")  # and one more byte, below 16


@dataclass
class Lease:
    """What user space has set for a hop (struct lease)."""

    until: int = 0
    recovered: int = 0
    draining: bool = False


@dataclass(frozen=True)
class Datagram:
    """What is known of a datagram in fragments (struct fragment). `rule`: that of its first fragment, in `policy`."""

    hash: int
    seen: int
    first: bool
    policy: Policy
    rule: int | None = None
    protocol: int = 0
    ends: tuple[int, int] = (0, 0)


@dataclass
class Gate:
    """How many frames a hop is handed at one tap while it is overloaded (struct gate)."""

    cost: int
    used: int = 0


@dataclass
class Shunt:
    """A flow that a hop has shunted (struct shunt). Times in ns; `directions`: bits, of the sides frames come from."""

    since: int
    until: int
    seen: int
    idle: int
    directions: int = 3
    fin: int = 0


@dataclass
class ShuntLimit:
    """What a hop may shunt by tags (struct shunt_limit). `most`: flows at the same time."""

    time: int
    idle: int
    cost: int
    most: int
    used: int = 0


@dataclass
class State:
    """What a decision depends on beside policy and frame; times in ns."""

    supervisor_until: int = 0
    leases: dict[int, Lease] = field(default_factory=dict)  # by hop id
    longest: dict[int, int] = field(default_factory=dict)  # by slot: longest frame; slots that are not here are empty
    gates: dict[int, Gate] = field(default_factory=dict)  # by slot; none: no limit
    keys: dict[int, int] = field(default_factory=dict)  # by hop id: of its heartbeats; none: nothing is a heartbeat
    flows: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)  # (hash, hop) -> seen, marks
    new_flows: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)  # not established
    fragments: dict[tuple[int, int, int, int], Datagram] = field(default_factory=dict)
    shunts: dict[tuple[int, ShuntedFlow], Shunt] = field(default_factory=dict)  # by hop id
    shunt_limits: dict[int, ShuntLimit] = field(default_factory=dict)  # by hop id
    resets: dict[int, int] = field(default_factory=dict)  # by segment: up to which time the allowed ones are used


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
    """One hop that was considered. `group` and `bucket`: None for a hop that is in the path itself."""

    hop: int
    reason: Reason
    position: int | None  # in the rule's path; None: asked for by a tag
    group: int | None = None
    bucket: int | None = None


@dataclass(frozen=True)
class Decision:
    """What happens to the frame. `rule`: index of the rule whose path it follows."""

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
    """The frame being decided about."""

    data: bytes
    where: Where
    now: int
    direction: Side  # named by the side it comes from
    flow: flows.Flow
    hash: int
    protocol: int
    ends: tuple[int, int]
    steps: list[Step] = field(default_factory=list)
    available: bool = False  # some hop of the path was
    learned: bool = False  # its flow and datagram were looked up
    datagram_rule: int | None = None  # of a later fragment
    wanted: bool = False  # some hop that was asked accepts the frame, be it available or not
    rule: CompiledRule | None = None
    overloaded: bool = False  # the hop last looked at is, and must not have the frame
    exceeds: bool = False  # so was a hop of the path
    reset: Reset = Reset.NO
    ahead: bool = False  # a hop is looked at for `require` only: the frame does not count there yet
    returned_unmatched: bool = False
    bad_tag: bool = False
    shunted: bool = False  # a hop was skipped because it has shunted the flow
    shunts: ShuntedFlow | None = None  # as the shunts of hops in the path know it


class Model:
    """One appliance. `matches` says whether a pcap filter takes a frame (libpcap's answer)."""

    def __init__(self, policy: Policy, state: State, matches: Matches, *, copying: bool = True) -> None:
        """`copying`: the devices are attached by tc, so mirrors get copies."""
        self.policy, self.state, self._matches, self._copying = policy, state, matches, copying
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
            if (where.hop, where.segment) in self.policy.mirrors:
                return Decision(Outcome.MIRROR, Verdict.DROP, frame=data)
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
        if self._kept_out(frame):
            return self._out(frame, None, Outcome.LINK_LOCAL)
        if rule.path[0][0] is not Item.NONE:
            self._learn(frame)
        order = range(len(rule.path)) if frame.direction is Side.LAN else range(len(rule.path) - 1, -1, -1)
        return self._along(frame, index, order, Outcome.BYPASSED)

    def _along(self, frame: _Frame, index: int, order: Sequence[int], otherwise: Outcome) -> Decision:
        """Along what is left of the rule's path; `otherwise`: what becomes of a frame that passes without a hop."""
        rule = self.policy.rules[index]
        hop, missing, at = self._walk(frame, rule, order)
        only_mirrors = rule.path[0][0] is Item.NONE
        if frame.where.role is Role.PORT and frame.where.segment in self.policy.dry_run:
            # What the rule would do is only counted.
            return self._out(frame, index, Outcome.STRAIGHT if only_mirrors else Outcome.DRY_RUN)
        if self._copying:
            self._mirror(frame, rule, order[: order.index(at) + 1] if hop and not missing else order)
        if frame.reset:
            return self._reset(frame, index)
        if frame.exceeds and rule.flags & layout.RULE_EXCESS_BLOCK:
            return self._end(frame, Decision(Outcome.EXCESS, Verdict.DROP, None, index))
        if hop and not missing:
            return self._enter(frame, hop, index)
        blocked = missing if rule.flags & layout.RULE_ALL else frame.where.role is Role.PORT and not frame.available
        if blocked and rule.flags & layout.RULE_BLOCK:
            return self._end(frame, Decision(Outcome.BLOCKED, Verdict.DROP, None, index))
        if only_mirrors:
            return self._out(frame, index, Outcome.STRAIGHT)
        shunted = frame.shunted and frame.where.role is Role.PORT
        return self._out(frame, index, Outcome.SHUNTED if shunted else otherwise)

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
        if vid in (layout.TAG_SHUNT, layout.TAG_SHUNT_ONE):
            self._shunt(frame, layout.FLOW_CLOSED if vid == layout.TAG_SHUNT else 1 << direction)
            vid = layout.TAG_NEXT
        index, rest = self._continue(frame)
        asked = vid is not None and 0 < vid < layout.MAX_HOPS
        if not asked and self._kept_out(frame):
            return self._out(frame, None, Outcome.OUT)
        if not asked and not rest and not self._ambiguous(where, direction):
            # Nothing to decide: no rule is looked at.
            frame.bad_tag |= vid not in (None, layout.TAG_NEXT)
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
        return self._along(frame, index, rest, Outcome.OUT)

    def _kept_out(self, frame: _Frame) -> bool:
        """A link-local control frame, in a segment that lets none into a hop."""
        local = frame.data[:5] == LINK_LOCAL and frame.data[5] < 16
        return local and frame.where.segment in self.policy.link_local

    # -- which rule ---------------------------------------------------------------------------------------------------

    def _classify(self, frame: _Frame) -> int | None:
        chain = self.policy.chains.get(frame.where.segment, ())
        rules = self.policy.rules
        found = next(
            (index for index in chain if self._matches(rules[index].match, frame.data, rules[index].through)), None
        )
        if frame.where.segment not in self.policy.fragments or not headers.maybe_fragment(frame.data):
            return found
        # A datagram's later fragments match also the rule that its first one matched; the first rule wins.
        self._learn(frame, found, classified=True)
        both = [index for index in (found, frame.datagram_rule) if index is not None]
        return min(both, default=None)

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

    def _rest(self, index: int, positions: Sequence[int]) -> tuple[object, ...]:
        """What distinguishes one rule's remaining path from another's."""
        rule = self.policy.rules[index]
        copies = [(positions.index(at), mirror) for at, mirror in rule.mirrors if at in positions]
        return (*(rule.path[position] for position in positions), rule.strictness if positions else 0, *copies)

    def _continue(self, frame: _Frame) -> tuple[int | None, list[int]]:
        """The rule that a frame from a hop follows, and the rest of its path."""
        found = self._candidates(frame.where, frame.direction)
        if not found:
            frame.returned_unmatched = True
            return None, []
        if not self._ambiguous(frame.where, frame.direction):
            return found[0]  # all continue alike, so it does not matter how the hop changed the frame
        matched = self._classify(frame)
        for index, rest in found:
            if index == matched:
                return index, rest
        frame.returned_unmatched = True
        return found[0]

    # -- which hop ----------------------------------------------------------------------------------------------------

    def _walk(self, frame: _Frame, rule: CompiledRule, order: Sequence[int]) -> tuple[int, bool, int]:
        """The first hop that may have the frame, 0 none; whether one that is required is missing; its position."""
        first, at = 0, 0
        frame.rule = rule
        if rule.shunts:
            frame.shunts = flow_of(frame.data, frame.where.segment, frame.direction)
        for position in order:
            frame.wanted, frame.overloaded, frame.ahead = False, False, first != 0
            kind, number = rule.path[position]
            if kind is Item.NONE:
                continue
            if kind is Item.HOP:
                hop = self._choose(frame, (number,), position, None, None)
            else:
                group = self._groups[number]
                bucket = _told_apart(frame, group.hash) % layout.BUCKETS
                members = [self.policy.hops[name].id for name in group.orders[bucket]]
                none = self._too_few(frame, members, position, group, bucket)
                none = none or self._knows_failed(frame, members, position, group, bucket)
                hop = 0 if none else self._choose(frame, members, position, group, bucket)
            if frame.reset:
                return 0, False, at
            if frame.overloaded:
                frame.exceeds = True
                if rule.flags & layout.RULE_EXCESS_BLOCK:
                    break
                continue
            first, at = (first, at) if first else (hop, position)
            if hop and not rule.flags & layout.RULE_ALL:
                break
            if not hop and frame.wanted and rule.flags & layout.RULE_ALL:
                return first, True, at
        return first, False, at

    def _mirror(self, frame: _Frame, rule: CompiledRule, passed: Sequence[int]) -> None:
        """Copies for the mirrors beside these positions."""
        for position, hop in rule.mirrors:
            if position not in passed:
                continue
            place = slot(hop, frame.where.segment, frame.direction)
            longest = self.state.longest.get(place)
            if longest is None:
                reason = Reason.UNAVAILABLE
            elif len(frame.data) > longest:
                reason = Reason.OVERSIZE
            elif not self._accepts(frame, hop):
                reason = Reason.NOT_ACCEPTED
            else:
                reason = Reason.OVERLOADED if self._exceeds(frame, place) else Reason.MIRRORED
            frame.steps.append(Step(hop, reason, position))

    def _too_few(self, frame: _Frame, members: Sequence[int], position: int, group: CompiledGroup, bucket: int) -> bool:
        """Whether fewer members than the group's minimum are available, be they draining or not."""
        state, now = self.state, frame.now
        if group.minimum < 2 or state.supervisor_until <= now:
            return False
        there = sum(
            state.leases.get(hop, Lease()).until > now
            and slot(hop, frame.where.segment, frame.direction) in state.longest
            for hop in members
        )
        if there >= group.minimum:
            return False
        for hop in members:
            frame.wanted |= self._accepts(frame, hop)
            frame.steps.append(Step(hop, Reason.TOO_FEW, position, group.id, bucket))
        return True

    def _knows_failed(
        self, frame: _Frame, members: Sequence[int], position: int, group: CompiledGroup, bucket: int
    ) -> bool:
        """Whether a member that is not available knows the flow, which therefore goes to none of the group.

        Members are asked in order, up to the first that would get the frame.
        """
        state, now = self.state, frame.now
        if not group.flags & (layout.GROUP_KEEP | layout.GROUP_RESET) or state.supervisor_until <= now:
            return False
        for hop in members:
            lease = state.leases.get(hop, Lease())
            there = lease.until > now and slot(hop, frame.where.segment, frame.direction) in state.longest
            if there and lease.draining and not self._established(frame, hop):
                continue
            if there and not (group.hold_down and lease.recovered and now < lease.recovered + group.hold_down):
                return False
            reason = self._fate(frame, hop, group.flags, held=there)
            if reason is not Reason.TAKEN:
                frame.wanted |= self._accepts(frame, hop)
                frame.steps.append(Step(hop, reason, position, group.id, bucket))
                return True
        return False

    def _accepts(self, frame: _Frame, hop: int) -> bool:
        known = self._hops.get(hop)
        return known is None or not known.accept.strip() or self._matches(known.accept, frame.data, ())

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
            if reason is Reason.SHUNTED:  # for the others of the group, too: they do not know the flow
                frame.shunted, frame.available, frame.wanted = True, True, False
                return 0
            if reason is Reason.HELD and not held:
                held = hop
        if held:
            frame.steps.append(Step(held, Reason.TAKEN, position, group.id if group else None, bucket))
        return held

    def _judge(self, frame: _Frame, hop: int, hold_down: int) -> Reason:
        """May this hop have the frame?"""
        state, now = self.state, frame.now
        known = self._hops.get(hop)
        accepts = self._accepts(frame, hop)
        frame.wanted |= accepts
        lease = state.leases.get(hop, Lease())
        longest = state.longest.get(slot(hop, frame.where.segment, frame.direction))
        there = state.supervisor_until > now and lease.until > now and longest is not None
        kept = frame.rule is not None and frame.rule.shunts & layout.SHUNTS_KEPT
        if known is not None and known.shunts and (there or kept) and self._has_shunted(frame, hop, lease):
            return Reason.SHUNTED
        if state.supervisor_until <= now:
            return Reason.SUPERVISOR
        if lease.until <= now or longest is None:
            return Reason.UNAVAILABLE
        if lease.draining and not self._established(frame, hop):
            return Reason.DRAINING
        if len(frame.data) + 4 * (known is not None and known.tags) > longest:
            return Reason.OVERSIZE
        frame.available = True
        if not accepts:
            return Reason.NOT_ACCEPTED
        if not frame.ahead and self._exceeds(frame, slot(hop, frame.where.segment, frame.direction)):
            return Reason.OVERLOADED
        if hold_down and lease.recovered and now < lease.recovered + hold_down:
            return Reason.HELD
        return Reason.TAKEN

    def _fate(self, frame: _Frame, hop: int, flags: int, *, held: bool) -> Reason:
        """What becomes of a flow that a member knows which is not available; TAKEN: it may go to another member."""
        key, tcp, closed = (frame.hash, hop), frame.flow.tcp_flags, layout.FLOW_CLOSED
        keep = bool(flags & layout.GROUP_KEEP)
        known = self.state.flows.get(key)
        if known is None or not (keep or (flags & layout.GROUP_RESET and frame.flow.tcp and not frame.ahead)):
            return Reason.TAKEN
        seen, marks = known
        idle = frame.now - seen
        if idle >= layout.FLOW_IDLE_NS or (marks & closed == closed and idle >= layout.FLOW_CLOSED_NS):
            return Reason.TAKEN
        recovered = self.state.leases.get(hop, Lease()).recovered
        if held and not marks & layout.FLOW_FAILED and seen + layout.COARSE_NS >= recovered:
            return Reason.TAKEN  # known from after its return
        if not frame.flow.quoted and _opens(frame):
            del self.state.flows[key]
            return Reason.TAKEN
        if keep:
            if not frame.flow.quoted:
                self._follow(frame, key, held=held)
            return Reason.KEPT
        frame.reset = Reset.NONE
        if tcp & TCP_RST:  # it closes the flow itself
            frame.reset = Reset.ON
            del self.state.flows[key]
        elif tcp & TCP_ACK and self._may_reset(frame):
            mark = layout.FLOW_RESET << frame.direction
            frame.reset = Reset.BACK if marks & mark else Reset.ON
            self.state.flows[key] = (seen, marks | mark | layout.FLOW_FAILED)
        return Reason.RESET

    def _follow(self, frame: _Frame, key: tuple[int, int], *, held: bool) -> None:
        """A flow goes around the member that knows it: see it end."""
        (seen, marks), tcp = self.state.flows[key], frame.flow.tcp_flags
        if tcp & TCP_RST:
            del self.state.flows[key]
            return
        marks |= layout.FLOW_FAILED
        if tcp & TCP_FIN:
            marks |= 1 << frame.direction
        if not held and (tcp & TCP_FIN or frame.now - seen > layout.FLOW_REFRESH_NS):
            seen = frame.now
        self.state.flows[key] = (seen, marks)

    def _may_reset(self, frame: _Frame) -> bool:
        """Whether one more reset is allowed now."""
        used = max(self.state.resets.get(frame.where.segment, 0), frame.now)
        if used - frame.now > layout.RESET_BURST_NS:
            return False
        self.state.resets[frame.where.segment] = used + layout.RESET_NS
        return True

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
        return _Frame(data, where, now, direction, flow, flow.hash, flow.protocol, flow.ends)

    def _learn(self, frame: _Frame, rule: int | None = None, *, classified: bool = False) -> None:
        """All fragments of a datagram get the hash of the one that came first; a first fragment knows ports and rule.

        A later one that overtakes its first goes by the last datagram in fragments between the same ends.
        """
        flow, fragments = frame.flow, self.state.fragments
        if flow.datagram is None or frame.learned:
            return
        frame.learned = True
        source, destination, number, protocol = flow.datagram
        protocol |= frame.where.segment << layout.FRAGMENT_SEGMENT_SHIFT
        datagram = (source, destination, number, protocol)
        pair = (source, destination, 0, protocol | layout.FRAGMENT_PAIR)
        known = _fresh(fragments.get(datagram), frame.now, layout.FRAGMENT_NS)
        like = known or _fresh(fragments.get(pair), frame.now, layout.FRAGMENT_PAIR_NS)
        if flow.fragment == 1:
            if not classified:
                rule = known.rule if known is not None and known.policy is self.policy else None
            fragments[pair] = _datagram(frame, self.policy, rule, first=True)
            if known is not None and not known.first:
                frame.hash, frame.protocol, frame.ends = known.hash, known.protocol, known.ends
            first = known is None or known.first
            fragments[datagram] = _datagram(frame, self.policy, rule, first=first)
            return
        if like is not None:
            frame.hash, frame.protocol, frame.ends = like.hash, like.protocol, like.ends
            frame.datagram_rule = like.rule if like.policy is self.policy else None
        if known is None:
            fragments[datagram] = _datagram(frame, self.policy, frame.datagram_rule, first=False)

    def _established(self, frame: _Frame, hop: int) -> bool:
        """Does the hop know the flow? A new connection on a closed flow's endpoints is a new flow."""
        key = (frame.hash, hop)
        known = self.state.flows.get(key) or self.state.new_flows.get(key)
        if known is None:
            return False
        seen, marks = known
        if marks & layout.FLOW_CLOSED == layout.FLOW_CLOSED:
            return not _opens(frame) and frame.now - seen < layout.FLOW_CLOSED_NS
        return True

    def _track(self, frame: _Frame, hop: int) -> None:
        """A flow is established by a frame that is none of the handshake, once both ends have sent."""
        key, flags = (frame.hash, hop), frame.flow.tcp_flags
        table = self.state.flows if key in self.state.flows else self.state.new_flows
        known = table.get(key)
        marks = layout.FLOW_FRAME << frame.direction
        if flags & TCP_RST:
            table.pop(key, None)
            return
        if known is None or (known[1] & layout.FLOW_CLOSED == layout.FLOW_CLOSED and _opens(frame)):
            table.pop(key, None)
            self.state.new_flows[key] = (frame.now, marks)
            return
        seen, marked = known
        if marked & layout.FLOW_CLOSED == layout.FLOW_CLOSED:
            return  # its last frames do not keep it
        if flags & TCP_FIN:
            marks |= 1 << frame.direction
        if flags & TCP_FIN or frame.now - seen > layout.FLOW_REFRESH_NS:
            seen = frame.now
        table[key] = (seen, marked | marks)
        both = (marked | marks) & layout.FLOW_BOTH == layout.FLOW_BOTH
        if table is self.state.new_flows and both and not flags & TCP_SYN:
            self.state.flows[key] = table.pop(key)

    # -- shunts -------------------------------------------------------------------------------------------------------

    def _has_shunted(self, frame: _Frame, hop: int, lease: Lease) -> bool:
        """Has the hop said that it does not need the flow? The frame may end that."""
        if frame.shunts is None:
            return False
        shunt, flags, now = self.state.shunts.get((hop, frame.shunts)), frame.flow.tcp_flags, frame.now
        if shunt is None or now >= min(shunt.until, shunt.seen + shunt.idle) or shunt.since < lease.recovered:
            return False
        if _opens(frame):
            shunt.until = 0  # another connection, which the hop has not seen
            return False
        if flags & TCP_RST:
            shunt.until = 0
        elif flags & TCP_FIN:
            shunt.fin |= 1 << frame.direction
            if shunt.fin == layout.FLOW_CLOSED:
                shunt.until = min(shunt.until, now + layout.FLOW_CLOSED_NS)
        if now > shunt.seen + layout.FLOW_REFRESH_NS:
            shunt.seen = now
        return bool(shunt.directions >> frame.direction & 1)

    def _shunt(self, frame: _Frame, directions: int) -> None:
        """A hop asks for it by a tag; within its limits."""
        hop, now = frame.where.hop, frame.now
        known, limit = self._hops.get(hop), self.state.shunt_limits.get(hop)
        if known is None or not known.shunts or limit is None:
            frame.bad_tag = True
            return
        flow = flow_of(frame.data, frame.where.segment, frame.direction)
        if flow is None:
            return
        old = self.state.shunts.get((hop, flow))
        fresh = old is not None and now < min(old.until, old.since + layout.FLOW_REFRESH_NS)
        if fresh and old is not None and old.directions == directions:
            return
        limit.used = max(limit.used, now)
        if limit.used - now > layout.SHUNT_BURST_NS:
            return
        limit.used += limit.cost
        if old is None and sum(owner == hop for owner, _ in self.state.shunts) >= limit.most:
            return
        self.state.shunts[hop, flow] = Shunt(now, now + limit.time, now, limit.idle, directions)

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _enter(self, frame: _Frame, hop: int, index: int | None) -> Decision:
        """To the hop, by the tap of the side the frame comes from."""
        known = self._hops.get(hop)
        if known is not None and known.tracked and not frame.flow.quoted:
            self._track(frame, hop)
        if known is not None and known.tags:
            ours = layout.ETH_TAG.to_bytes(2, "big") + layout.TAG_NEXT.to_bytes(2, "big")
            frame.data = frame.data[:12] + ours + frame.data[12:]
        place = slot(hop, frame.where.segment, frame.direction)
        return self._end(frame, Decision(Outcome.TO_HOP, Verdict.HOP, place, index))

    def _reset(self, frame: _Frame, index: int) -> Decision:
        """The frame becomes a TCP reset, to the end that it is for or back to its sender, or is dropped."""
        if frame.reset is Reset.NONE:
            return self._end(frame, Decision(Outcome.RESET, Verdict.DROP, None, index))
        back = frame.reset is Reset.BACK
        assert frame.flow.tcp is not None
        frame.data = _as_reset(frame.data, *frame.flow.tcp, back=back)
        port = slot(0, frame.where.segment, frame.direction ^ (not back))
        if port not in self.state.longest:
            return self._end(frame, Decision(Outcome.NO_DEVICE, Verdict.DROP, port, index))
        return self._end(frame, Decision(Outcome.RESET, Verdict.PORT, port, index))

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
        if len(data) > longest:
            return Decision(Outcome.OVERSIZE, Verdict.DROP, port, frame=data)
        return Decision(outcome, Verdict.PORT, port, frame=data)


def _datagram(frame: _Frame, policy: Policy, rule: int | None, *, first: bool) -> Datagram:
    return Datagram(frame.hash, frame.now, first, policy, rule, frame.protocol, frame.ends)


def _fresh(datagram: Datagram | None, now: int, most: int) -> Datagram | None:
    return datagram if datagram is not None and now - datagram.seen < most else None


def _told_apart(frame: _Frame, by: GroupHash) -> int:
    """The number by which a group chooses its member; the same for both directions of a flow.

    A frame to the WAN has its source at the LAN, and one that quotes another the other way round.
    """
    lan, wan = frame.ends
    if (frame.direction is Side.WAN) is not frame.flow.quoted:
        lan, wan = wan, lan
    match by:
        case GroupHash.FIVE:
            return frame.hash
        case GroupHash.THREE:
            return flows.finish(lan + wan + flows.fold(frame.protocol))
        case GroupHash.TWO:
            return flows.finish(lan + wan)
        case GroupHash.SOURCE:
            return flows.finish(lan)
        case GroupHash.DESTINATION:
            return flows.finish(wan)


def _as_reset(data: bytes, ip_at: int, tcp_at: int, *, back: bool) -> bytes:
    """The frame as a TCP reset without options or data; `back`: to its sender."""
    six = tcp_at - ip_at == 40
    to, came, ip = data[:6], data[6:12], bytearray(data[ip_at:tcp_at])
    source, destination, sequence, acknowledged = struct.unpack_from("!HHII", data, tcp_at)
    flags = TCP_RST | data[tcp_at + 13] & TCP_ACK
    size = 16 if six else 4
    at = 8 if six else 12
    if back:
        to, came = came, to
        ip[at : at + 2 * size] = ip[at + size :] + ip[at : at + size]
        source, destination, sequence, acknowledged, flags = destination, source, acknowledged, 0, TCP_RST
    if six:
        ip[4:6], ip[7] = struct.pack("!H", 20), 64
    else:
        ip[2:4], ip[8], ip[10:12] = struct.pack("!H", 40), 64, bytes(2)
        ip[10:12] = _checksum(bytes(ip))
    tcp = struct.pack("!HHIIBBHHH", source, destination, sequence, acknowledged, 0x50, flags, 0, 0, 0)
    tcp = tcp[:16] + _checksum(bytes(ip[at:]) + struct.pack("!HH", headers.TCP, 20) + tcp) + tcp[18:]
    made = to + came + data[12:ip_at] + bytes(ip) + tcp
    return made + bytes(max(min(len(data), SHORTEST) - len(made), 0))


def _checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", total ^ 0xFFFF)


def _opens(frame: _Frame) -> bool:
    """The first segment of a TCP connection."""
    return frame.flow.tcp_flags & (TCP_SYN | TCP_ACK) == TCP_SYN
