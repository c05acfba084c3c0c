# SPDX-License-Identifier: GPL-2.0-only
"""All segments of the appliance: gathers the facts, runs each segment's machine, knows what to request from the keeper.

Passive: `begin` is called once, and `update` at every pulse and at every change, with `now`. It owns the machines, for
the life of bypassd, and the operator's orders. Orders and back-off are kept in the volatile state (`segments.json`) for
the next bypassd.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.api.schema import state
from appliance.causes import Cause
from appliance.config.schema.model import Segment
from appliance.errors import NotFoundError, RefusedError
from appliance.hardware.board import Board, Relay
from appliance.hardware.links import Links
from appliance.keeper.client import KeeperState
from appliance.segment.carrier import SIDES, Meaning, Ports, Side
from appliance.segment.evidence import Sample
from appliance.segment.link_down import LinkDown
from appliance.segment.machine import Machine, Move, State, Times
from appliance.segment.memory import Memory
from appliance.segment.policy import Asked, Facts
from appliance.segment.show import Link, link, row
from appliance.segment.unit import Unit
from appliance.telemetry.subject import Change
from appliance.telemetry.transitions import Transitions

_CHANGES = {
    State.INLINE: Change.SEGMENT_INLINE,
    State.BYPASS: Change.SEGMENT_BYPASSED,
    State.DISCONNECT: Change.SEGMENT_BYPASSED,
}

_RELAY_CAUSES = (Cause.RELAY_FAULT, Cause.RELAY_BUS_ERROR, Cause.RELAY_NO_ANSWER, Cause.RELAY_UNSUPPORTED)


def times_of(segment: Segment, relay: Relay | None) -> Times:
    """The machine's times from a segment's configuration and its relay."""
    delay, moves = int(segment.rearm_delay), relay.moves_ns if relay else 0
    return Times(rearm_delay=delay, rearm_max=max(Times().rearm_max, delay), confirm=Times().confirm + moves)


def hardware_faults(relay: str, ports: tuple[str, str], keeper: KeeperState | None) -> dict[Cause, str]:
    """The reasons to bypass that follow from what the keeper reported. Pure."""
    if not relay:
        return {Cause.RELAY_MISSING: f"board.toml has no relay for {ports[0]} and {ports[1]}"}
    if keeper is None:
        return {Cause.RELAY_MISSING: "bypassd runs without the keeper: start bypass-keeper instead"}
    faults: dict[Cause, str] = {}
    state = keeper.relays.get(relay)
    if state is None:
        faults[Cause.RELAY_MISSING] = f"the keeper has no relay {relay}: it read a different board.toml"
    elif not state.usable:
        cause = next((cause for cause in _RELAY_CAUSES if cause == state.cause), Cause.RELAY_MISSING)
        faults[cause] = state.error or "the keeper has not opened the line yet"
    if keeper.watchdog_present and not keeper.watchdog_ms:
        faults[Cause.WATCHDOG_MISSING] = keeper.watchdog_error or "the keeper has not opened it yet"
    return faults


class Segments:
    """The segments; see the module."""

    def __init__(
        self,
        segments: tuple[Segment, ...],
        board: Board | None,
        links: Links,
        transitions: Transitions,
        memory: Path | None = None,
        *,
        lacking: Callable[[str], str] = lambda segment: "",
    ) -> None:
        """`lacking`: what a rule of the segment with link-down lacks now; empty: nothing."""
        self._lacking = lacking
        self._links, self._transitions, self._memory = links, transitions, Memory(memory)
        self._board = board
        self.begun = False
        self.units: dict[str, Unit] = {segment.name: self._unit(segment) for segment in segments}

    def _relay(self, segment: Segment) -> Relay | None:
        return self._board.find_relay(segment.lan, segment.wan) if self._board else None

    def _unit(self, segment: Segment) -> Unit:
        relay = self._relay(segment)
        machine = Machine(times_of(segment, relay))
        unit = Unit(segment, relay.line if relay else "", bool(relay and relay.disconnect), machine)
        known = self._memory.recall().get(segment.name, {})
        until, maintenance = known.get("inline_until"), known.get("maintenance_until")
        if known.get("asked") in ("auto", "bypass", "disconnect") or (
            known.get("asked") == "inline" and isinstance(until, int)
        ):
            unit.asked = str(known["asked"])
            unit.inline_until = until if isinstance(until, int) else 0
        if isinstance(maintenance, int):
            unit.maintenance_until = maintenance
        unit.machine.recall(known)
        if known.get("held") is True:  # they are still down, and must not come up just because bypassd was restarted
            unit.link_down = LinkDown(held=True)
            for port in (segment.lan, segment.wan):
                self._links.set_down(port, True)
        return unit

    # -- called by the supervisor

    def begin(
        self,
        now: int,
        keeper: KeeperState | None,
        faults: Callable[[str], Mapping[Cause, str]],
        *,
        intact: bool,
        first: bool,
    ) -> None:
        """The parts are up and the keeper has reported: leave `starting`. `faults`: the supervisor's own, by segment.

        `intact` and `first`: see `Machine.begin`.
        """
        self.begun = True
        for name, unit in self.units.items():
            state = keeper.relays.get(unit.relay) if keeper else None
            facts = self._facts(unit, keeper, faults(name))
            self._note(unit, unit.machine.begin(now, facts, state.relay if state else "bypass", intact, first))
            unit.carrier.moved(now)
            unit.link_down.begin(now)

    def update(self, now: int, keeper: KeeperState | None, faults: Callable[[str], Mapping[Cause, str]]) -> None:
        """Evaluate everything again."""
        if not self.begun:
            return
        for name, unit in self.units.items():
            machine = unit.machine
            self._end_orders(now, unit)
            self._note(unit, machine.facts(now, self._facts(unit, keeper, faults(name))))
            state = keeper.relays.get(unit.relay) if keeper else None
            if state:
                before = machine.relay
                self._note(unit, machine.keeper(now, state.relay, state.cause))
                if state.relay != before:
                    unit.carrier.moved(now)
            self._note(unit, machine.tick(now))
            self._follow_ports(now, unit)

    def counted(self, name: str, sample: Sample) -> None:
        """Take a sample of frames in and frames sent, about once a second; `update` draws the conclusion."""
        unit = self.units.get(name)
        if unit is not None:
            unit.evidence.add(sample)

    def wants(self) -> dict[str, tuple[str, str]]:
        """What is requested from the keeper, by relay."""
        hold = ("hold", str(Cause.STARTING))
        return {
            unit.relay: (unit.machine.want, str(unit.machine.cause)) if self.begun else hold
            for unit in self.units.values()
            if unit.relay
        }

    def deadline(self) -> int | None:
        """When to call `update` even if nothing changed."""
        units = self.units.values()
        times = [
            due
            for unit in units
            for due in (unit.machine.deadline(), unit.carrier.deadline, unit.link_down.deadline)
            if due is not None
        ]
        times += [due for unit in units for due in (unit.inline_until, unit.maintenance_until) if due]
        return min(times, default=None)

    # -- another configuration

    def leave(self, segments: tuple[Segment, ...]) -> list[str]:
        """Drop segments that are not in `segments`, or have other ports or another MTU; returns the relays that close.

        The keeper closes a relay that is not requested any more. Its ports may be removed once it has reported that.
        """
        kept = {segment.name: (segment.lan, segment.wan, segment.mtu) for segment in segments}
        relays = []
        for name, unit in list(self.units.items()):
            ports = (unit.config.lan, unit.config.wan)
            if kept.get(name) == (*ports, unit.config.mtu):
                continue
            for port in ports:
                if port in self._links.downed:
                    self._links.set_down(port, False)
            del self.units[name]
            self._transitions.record(Change.SEGMENT_OTHER, name, unit.machine.state, "removed", Cause.CONFIGURED)
            relays += [unit.relay] if unit.relay else []
        return relays

    def arrive(
        self,
        now: int,
        segments: tuple[Segment, ...],
        keeper: KeeperState | None,
        faults: Callable[[str], Mapping[Cause, str]],
    ) -> None:
        """Apply `segments`: new ones begin, the others continue with their new values. Call `leave` first."""
        units: dict[str, Unit] = {}
        for segment in segments:
            unit = units[segment.name] = self.units.get(segment.name) or self._unit(segment)
            if segment.name in self.units:
                unit.config = segment
                unit.machine.retime(times_of(segment, self._relay(segment)))
            elif self.begun:
                state = keeper.relays.get(unit.relay) if keeper else None
                facts = self._facts(unit, keeper, faults(segment.name))
                relay = state.relay if state else "bypass"
                self._note(unit, unit.machine.begin(now, facts, relay, intact=False, first=True))
                unit.carrier.moved(now)
        self.units = units
        self.update(now, keeper, faults)

    # -- for operators

    def ask(self, name: str, asked: str, until: int = 0) -> Unit:
        """Take an operator's order (bypass, auto, disconnect, inline, maintenance); then call `update`. `until`: when
        the last two end. NotFoundError, RefusedError.

        "auto" also ends maintenance, and a wait that back-off has lengthened: the operator has presumably repaired
        something. Maintenance leaves every other order as it is.
        """
        unit = self.units.get(name)
        if unit is None:
            there = ", ".join(self.units) or "none"
            raise NotFoundError(f'there is no segment "{name}"; there is: {there}')
        if asked == "disconnect" and not unit.has_disconnect:
            raise RefusedError(f"segment {name}: this board's relay has no disconnect: use bypass")
        if asked == "maintenance":
            if unit.asked == "inline":
                raise RefusedError(f"segment {name}: inline was requested: `segment {name} auto` ends that first")
            unit.maintenance_until = until
        else:
            unit.asked = asked
            unit.inline_until = until if asked == "inline" else 0
        if asked in ("auto", "inline"):
            unit.maintenance_until = 0
            unit.machine.forgive()
            for port in (unit.config.lan, unit.config.wan):
                self._links.forgive(port)
        self._memory.keep(self.units.values())
        return unit

    def drill(self, name: str, on: bool) -> None:
        """Put a segment into bypass for a drill, or end that; then call `update`. Not kept for the next bypassd, and
        never instead of what an operator requests."""
        if (unit := self.units.get(name)) is not None:
            unit.drill = on

    def link(self, port: str) -> Link:
        """The link of a port."""
        return link(self._links, port)

    def show(self, now: int) -> list[state.Segment]:
        """All segments, as the API shows them."""
        return [row(unit, self._links, now) for unit in self.units.values()]

    # -- internal

    def _end_orders(self, now: int, unit: Unit) -> None:
        """Requests that were made for a time end by themselves; the configuration applies again."""
        ended = []
        if unit.inline_until and now >= unit.inline_until:
            unit.asked, unit.inline_until = "", 0
            ended.append("the request for inline has ended")
        if unit.maintenance_until and now >= unit.maintenance_until:
            unit.maintenance_until = 0
            ended.append("maintenance has ended")
        for said in ended:
            state = unit.machine.state
            name = unit.config.name
            self._transitions.record(Change.SEGMENT_OTHER, name, state, state, Cause.OPERATOR, detail=said)
        if ended:
            self._memory.keep(self.units.values())

    @staticmethod
    def _orders(unit: Unit) -> dict[Cause, str]:
        """Everything that was requested, the strongest first."""
        orders: dict[Cause, str] = {}
        if unit.asked not in ("", "auto"):
            orders[Cause.OPERATOR] = f"{unit.asked} was requested"
        elif not unit.asked and unit.config.mode != "auto":
            orders[Cause.CONFIGURED] = f'mode = "{unit.config.mode}"'
        if unit.maintenance_until:
            orders[Cause.MAINTENANCE] = "in maintenance"
        if unit.drill:
            orders[Cause.DRILL] = "a drill is under way"
        return orders

    def _facts(self, unit: Unit, keeper: KeeperState | None, more: Mapping[Cause, str]) -> Facts:
        config = unit.config
        ports = (config.lan, config.wan)
        faults = hardware_faults(unit.relay, ports, keeper)
        gone = [
            self._links.missing.get(port, f"{port} is not a port of this board: board.toml has the names")
            for port in ports
            if port not in self._links.ports
        ]
        if gone:
            faults[Cause.PORT_MISSING] = "; ".join(gone)
        if self._links.unreadable:
            faults[Cause.LINKS_UNREADABLE] = self._links.unreadable
        contested = [f"{port} {said}" for port in ports if (said := self._links.contested.get(port))]
        if contested:
            faults[Cause.PORT_SET_DOWN] = "; ".join(contested)
        faults.update(more)
        unit.faults = faults
        asked: Asked = "auto"
        cause = Cause.CONFIGURED
        word = unit.asked or config.mode
        unit.orders = self._orders(unit)
        if word == "bypass":
            asked = "bypass"
        elif word == "inline":
            asked = "inline"
        elif word == "disconnect":
            asked = "disconnect" if unit.has_disconnect else "bypass"
        if unit.asked:
            cause = Cause.OPERATOR
        if unit.maintenance_until and asked == "auto":
            asked, cause = "bypass", Cause.MAINTENANCE
        if unit.drill and asked == "auto":
            asked, cause = "bypass", Cause.DRILL
        return Facts(asked, cause, faults)

    def _follow_ports(self, now: int, unit: Unit) -> None:
        """Leave inline, or report a fault, for what can only be observed there: links, and frames that leave."""
        machine = unit.machine
        ports = self._ports(unit)
        if ports is None:
            return
        inline = machine.state is State.INLINE
        attempt = machine.tripped in (Cause.LINK_DOWN, Cause.LINKS_DOWN)
        limit = int(unit.config.link_loss_limit)
        policy = unit.config.on_link_loss
        was_held = unit.link_down.held
        held = unit.link_down.look(
            now, self._lacking(unit.config.name), inline=inline, hold=int(unit.config.rearm_delay)
        )
        meaning = unit.carrier.look(now, ports, inline=inline, policy=policy, limit=limit, attempt=attempt)
        if meaning.returned and attempt:
            machine.hasten(now)
        self._hold_down(now, unit, ports, meaning, was_held=was_held)
        if held is not was_held:
            self._memory.keep(self.units.values())
        if not (inline and ports.lan and ports.wan):
            unit.evidence.forget()
        found = unit.evidence.verdict()
        forced = unit.asked == "inline"  # what only shows inline is reported, and is no reason to leave it
        if meaning.bypass and not forced:
            self._note(unit, machine.trip(now, meaning.cause, meaning.detail))
        elif found.bypass and not forced:
            self._note(unit, machine.trip(now, found.cause, found.detail))
        elif held:
            self._note(unit, machine.remark(Cause.HOPS_MISSING, unit.link_down.detail))
        elif meaning.cause is not Cause.HEALTHY:
            self._note(unit, machine.remark(meaning.cause, meaning.detail))
        else:
            self._note(unit, machine.remark(found.cause, found.detail))

    def _hold_down(self, now: int, unit: Unit, ports: Ports, meaning: Meaning, *, was_held: bool) -> None:
        held = unit.link_down.held and not meaning.bypass
        wanted = frozenset(SIDES) if held else meaning.down
        for side in SIDES:
            if (side in ports.down) == (side in wanted):
                continue
            port, other = ports.name(side), ports.name(SIDES[1 - SIDES.index(side)])
            self._links.set_down(port, side in wanted)
            cause = Cause.LINK_DOWN
            if held:
                cause, change, old, new, detail = (
                    Cause.HOPS_MISSING,
                    Change.PORT_DOWN,
                    "up",
                    "down",
                    unit.link_down.detail,
                )
            elif side in wanted:
                change, old, new, detail = Change.PORT_DOWN, "up", "down", f"{other} lost its link"
            else:
                unit.carrier.moved(now, side)
                change, old, new, detail = Change.PORT_UP, "down", "up", f"{other} has its link again"
                if unit.machine.state is not State.INLINE or meaning.bypass:
                    detail = "the relay is not inline"
                elif was_held:
                    cause, detail = Cause.HOPS_MISSING, "the hops are available again"
            self._transitions.record(change, port, old, new, cause, detail=detail)

    def _ports(self, unit: Unit) -> Ports | None:
        """The state of both ports; None if one is missing, which is a fault of its own."""
        names: dict[Side, str] = {"lan": unit.config.lan, "wan": unit.config.wan}
        lan, wan = (self._links.ports.get(name) for name in names.values())
        if lan is None or wan is None:
            return None
        down = frozenset(side for side, name in names.items() if name in self._links.downed)
        return Ports(lan.link, wan.link, down, names["lan"], names["wan"])

    def _note(self, unit: Unit, moves: list[Move]) -> None:
        for move in moves:
            change = _CHANGES.get(move.new, Change.SEGMENT_OTHER)
            self._transitions.record(change, unit.config.name, move.old, move.new, move.cause, detail=move.detail)
        if moves:
            self._memory.keep(self.units.values())
