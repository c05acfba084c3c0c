# SPDX-License-Identifier: GPL-2.0-only
"""All segments of the appliance: gathers the facts, runs each segment's machine, knows what to ask of the keeper.

Passive: `begin` is called once, and `update` at every pulse and at every change, with `now`. It owns the machines, for
the life of bypassd, and what the operator asked for, which is kept in the volatile state (`segments.json`) so that it
survives a restart of bypassd.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from appliance.api.schema import state
from appliance.causes import Cause
from appliance.config.schema.model import Segment
from appliance.errors import NotFoundError, RefusedError
from appliance.hardware.board import Board
from appliance.hardware.links import Links
from appliance.keeper.client import KeeperState
from appliance.segment.machine import Machine, Move, State, Times
from appliance.segment.policy import Asked, Facts, link_loss
from appliance.system import files
from appliance.telemetry.subject import Change
from appliance.telemetry.transitions import Transitions

log = logging.getLogger(__name__)

LINK_SETTLE_NS = 3_000_000_000
"""After a relay or a port of ours moved, links are given this long to come up before a missing one counts as lost."""

_CHANGES = {
    State.INLINE: Change.SEGMENT_INLINE,
    State.BYPASS: Change.SEGMENT_BYPASSED,
    State.DISCONNECT: Change.SEGMENT_BYPASSED,
}


class Link(StrEnum):
    """The link of a port, in the words of the API."""

    UP = "up"
    DOWN = "down"
    HELD_DOWN = "held down"  # by us: on_link_loss = "propagate"
    MISSING = "missing"


@dataclass
class Unit:
    """One segment at run time."""

    config: Segment
    relay: str  # the keeper's name for it; "" = the board has no relay for these ports
    has_disconnect: bool
    machine: Machine
    asked: str = ""  # by the operator; "" = nothing, the configuration counts
    settle_until: int = 0
    faults: Mapping[Cause, str] = field(default_factory=dict)


def times_of(segment: Segment) -> Times:
    """The machine's times as a segment's configuration has them."""
    delay = int(segment.rearm_delay)
    return Times(rearm_delay=delay, rearm_max=max(Times().rearm_max, delay))


def hardware_faults(relay: str, ports: tuple[str, str], keeper: KeeperState | None) -> dict[Cause, str]:
    """The reasons to bypass that follow from what the keeper reported. Pure."""
    if not relay:
        return {Cause.RELAY_MISSING: f"board.toml has no relay for {ports[0]} and {ports[1]}"}
    if keeper is None:
        return {Cause.RELAY_MISSING: "bypassd runs without the keeper: start bypass-keeper instead"}
    faults: dict[Cause, str] = {}
    state = keeper.relays.get(relay)
    if state is None:
        faults[Cause.RELAY_MISSING] = f"the keeper has no relay {relay}: it read another board.toml"
    elif not state.usable:
        named = (Cause.RELAY_FAULT, Cause.RELAY_UNSUPPORTED)
        cause = next((cause for cause in named if cause == state.cause), Cause.RELAY_MISSING)
        faults[cause] = state.error or "the keeper has not taken the line yet"
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
    ) -> None:
        self._links, self._transitions, self._memory = links, transitions, memory
        self._board = board
        self.begun = False
        self.units: dict[str, Unit] = {segment.name: self._unit(segment) for segment in segments}

    def _unit(self, segment: Segment) -> Unit:
        relay = self._board.find_relay(segment.lan, segment.wan) if self._board else None
        unit = Unit(segment, relay.line if relay else "", bool(relay and relay.disconnect), Machine(times_of(segment)))
        unit.asked = self._remembered().get(segment.name, "")
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
        """The parts are up and the keeper has spoken: leave `starting`. `faults`: the supervisor's own, by segment.

        `intact` and `first`: see `Machine.begin`.
        """
        self.begun = True
        for name, unit in self.units.items():
            state = keeper.relays.get(unit.relay) if keeper else None
            facts = self._facts(unit, keeper, faults(name))
            self._note(unit, unit.machine.begin(now, facts, state.relay if state else "bypass", intact, first))
            unit.settle_until = now + LINK_SETTLE_NS

    def update(self, now: int, keeper: KeeperState | None, faults: Callable[[str], Mapping[Cause, str]]) -> None:
        """Look at everything again."""
        if not self.begun:
            return
        for name, unit in self.units.items():
            machine = unit.machine
            self._note(unit, machine.facts(now, self._facts(unit, keeper, faults(name))))
            state = keeper.relays.get(unit.relay) if keeper else None
            if state:
                before = machine.relay
                self._note(unit, machine.keeper(now, state.relay, state.cause))
                if state.relay != before:
                    unit.settle_until = now + LINK_SETTLE_NS
            self._note(unit, machine.tick(now))
            self._follow_links(now, unit)

    def wants(self) -> dict[str, tuple[str, str]]:
        """What the keeper is asked for, by relay."""
        hold = ("hold", str(Cause.STARTING))
        return {
            unit.relay: (unit.machine.want, str(unit.machine.cause)) if self.begun else hold
            for unit in self.units.values()
            if unit.relay
        }

    def deadline(self) -> int | None:
        """When `update` has something to do although nothing changed."""
        return min((due for unit in self.units.values() if (due := unit.machine.deadline()) is not None), default=None)

    # -- another configuration

    def leave(self, segments: tuple[Segment, ...]) -> list[str]:
        """Let go of what is not among `segments` any more, has other ports or another MTU; the relays that close now.

        The keeper closes a relay that nobody asks for. Its ports may be taken away when it has said so.
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
        """Be as `segments` say: new ones begin, the others go on with their new values. `leave` comes first."""
        units: dict[str, Unit] = {}
        for segment in segments:
            unit = units[segment.name] = self.units.get(segment.name) or self._unit(segment)
            if segment.name in self.units:
                unit.config = segment
                unit.machine.retime(times_of(segment))
            elif self.begun:
                state = keeper.relays.get(unit.relay) if keeper else None
                facts = self._facts(unit, keeper, faults(segment.name))
                relay = state.relay if state else "bypass"
                self._note(unit, unit.machine.begin(now, facts, relay, intact=False, first=True))
                unit.settle_until = now + LINK_SETTLE_NS
        self.units = units
        self.update(now, keeper, faults)

    # -- for operators

    def ask(self, name: str, asked: str) -> Unit:
        """Take an operator's order (bypass, auto, disconnect); then call `update`. NotFoundError, RefusedError."""
        unit = self.units.get(name)
        if unit is None:
            there = ", ".join(self.units) or "none"
            raise NotFoundError(f'there is no segment "{name}"; there is: {there}')
        if asked == "disconnect" and not unit.has_disconnect:
            raise RefusedError(f"segment {name}: this board's relay has no disconnect: use bypass")
        unit.asked = asked
        self._remember()
        return unit

    def link(self, port: str) -> Link:
        """The link of a port."""
        known = self._links.ports.get(port)
        if known is None:
            return Link.MISSING
        if port in self._links.downed:
            return Link.HELD_DOWN
        return Link.UP if known.link else Link.DOWN

    def show(self) -> list[state.Segment]:
        """All segments, as the API shows them."""
        return [
            state.Segment(
                name=name,
                relay=unit.machine.relay or "unknown",
                state=unit.machine.state,
                want=unit.machine.want,
                cause=unit.machine.cause,
                detail=unit.machine.detail,
                also=[f"{cause}: {text}" for cause, text in unit.faults.items() if cause is not unit.machine.cause],
                mode=unit.asked or unit.config.mode,
                lan=unit.config.lan,
                lan_link=self.link(unit.config.lan),
                wan=unit.config.wan,
                wan_link=self.link(unit.config.wan),
                on_link_loss=unit.config.on_link_loss,
                rearm_delay_ms=unit.machine.delay // 1_000_000,
                since_mono_ns=unit.machine.since,
            )
            for name, unit in self.units.items()
        ]

    # -- inside

    def _facts(self, unit: Unit, keeper: KeeperState | None, more: Mapping[Cause, str]) -> Facts:
        config = unit.config
        faults = hardware_faults(unit.relay, (config.lan, config.wan), keeper)
        gone = [
            self._links.missing.get(port, f"{port} is not a port of this board: board.toml has the names")
            for port in (config.lan, config.wan)
            if port not in self._links.ports
        ]
        if gone:
            faults[Cause.PORT_MISSING] = "; ".join(gone)
        faults.update(more)
        unit.faults = faults
        asked: Asked = "auto"
        cause = Cause.CONFIGURED
        word = unit.asked or config.mode
        if word == "bypass":
            asked = "bypass"
        elif word == "disconnect":
            asked = "disconnect" if unit.has_disconnect else "bypass"
        if unit.asked:
            cause = Cause.OPERATOR
        return Facts(asked, cause, faults)

    def _follow_links(self, now: int, unit: Unit) -> None:
        config, links = unit.config, self._links
        lan, wan = links.ports.get(config.lan), links.ports.get(config.wan)
        inline = unit.machine.state is State.INLINE
        if lan is None or wan is None or (inline and now < unit.settle_until):
            return
        names = {"lan": config.lan, "wan": config.wan}
        down = frozenset(side for side, port in names.items() if port in links.downed)
        answer = link_loss(config.on_link_loss, inline, lan.link, wan.link, down)
        if answer.bypass:
            self._note(unit, unit.machine.trip(now, Cause.LINK_DOWN, answer.bypass))
        for side, port in names.items():
            if (side in down) != (side in answer.down):
                other = names["wan" if side == "lan" else "lan"]
                links.set_down(port, side in answer.down)
                unit.settle_until = now if side in answer.down else now + LINK_SETTLE_NS
                if side in answer.down:
                    change, old, new, detail = Change.PORT_DOWN, "up", "down", f"{other} lost its link"
                else:
                    change, old, new, detail = Change.PORT_UP, "down", "up", f"{other} has its link again"
                self._transitions.record(change, port, old, new, Cause.LINK_DOWN, detail=detail)

    def _note(self, unit: Unit, moves: list[Move]) -> None:
        for move in moves:
            change = _CHANGES.get(move.new, Change.SEGMENT_OTHER)
            self._transitions.record(change, unit.config.name, move.old, move.new, move.cause, detail=move.detail)

    def _remembered(self) -> dict[str, str]:
        try:
            data = json.loads(self._memory.read_text(encoding="utf-8")) if self._memory else {}
        except (OSError, ValueError):
            return {}
        known = ("auto", "bypass", "disconnect")
        return {str(k): v for k, v in data.items() if v in known} if isinstance(data, dict) else {}

    def _remember(self) -> None:
        if self._memory is None:
            return
        words = {name: unit.asked for name, unit in self.units.items() if unit.asked}
        try:
            files.replace(self._memory, json.dumps(words), synced=False)
        except OSError as error:
            log.error("the operator's order will not survive a restart of bypassd: %s", error)
