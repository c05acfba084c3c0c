# SPDX-License-Identifier: GPL-2.0-only
"""What operators request of a segment: bypass, disconnect, inline and maintenance for a time; what outlasts what."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from appliance.causes import Cause
from appliance.config.schema.model import Segment
from appliance.errors import RefusedError
from appliance.hardware.board import Board, Relay
from appliance.hardware.links import Links, Port
from appliance.keeper.client import KeeperState, RelayState
from appliance.segment.machine import SECOND, State
from appliance.segment.manager import Segments
from appliance.segment.show import row
from appliance.telemetry.transitions import Transitions

MAIN = Segment(name="main", lan="lan0", wan="wan0")
RELAY = Relay(ports=("lan0", "wan0"), options={"line": "r"})
CUTTING = Relay(ports=("lan0", "wan0"), options={"line": "r", "disconnect": "d"})


class Ports:
    """Both ports are there; `link` is theirs."""

    def __init__(self) -> None:
        self.ports = {name: Port(name, name, n, "", True, True) for n, name in enumerate(("lan0", "wan0"), 1)}
        self.downed: set[str] = set()
        self.missing: dict[str, str] = {}
        self.contested: dict[str, str] = {}
        self.unreadable = ""

    def set_down(self, port: str, down: bool) -> None: ...

    def forgive(self, port: str) -> None: ...

    def link(self, up: bool) -> None:
        for port in self.ports.values():
            port.link = up


class World:
    """One segment, a keeper that does what is asked, and a clock."""

    def __init__(self, file: Path | None = None, relay: Relay = RELAY, config: Segment = MAIN) -> None:
        self.links, self.said = Ports(), list[str]()
        self.faults: dict[Cause, str] = {}
        self.now = 100 * SECOND
        board = Board(name="x", relay=(relay,))
        links, ledger = cast(Links, self.links), cast(Transitions, self)
        self.segments = Segments((config,), board, links, ledger, file)
        self.segments.begin(self.now, self.keeper(), lambda name: self.faults, intact=False, first=True)
        self.run(5)

    def record(self, *_: object, detail: str = "") -> None:
        self.said.append(detail)

    def keeper(self) -> KeeperState:
        want, cause = self.segments.wants()["r"]
        return KeeperState({"r": RelayState("bypass" if want == "hold" else want, cause, True)}, True, 2000)

    def run(self, seconds: float) -> None:
        end = self.now + int(seconds * SECOND)
        while self.now < end:
            self.now += SECOND // 2
            self.segments.update(self.now, self.keeper(), lambda name: self.faults)

    def ask(self, mode: str, seconds: int = 0) -> None:
        self.segments.ask("main", mode, self.now + seconds * SECOND if seconds else 0)
        self.run(4)

    @property
    def state(self) -> tuple[State, Cause]:
        machine = self.segments.units["main"].machine
        return machine.state, machine.cause

    @property
    def also(self) -> list[str]:
        found = row(self.segments.units["main"], cast(Links, self.links), self.now).also
        assert isinstance(found, list)
        return found


def test_inline_overrides_what_does_not_keep_frames_from_crossing_for_a_time() -> None:
    world = World()
    world.faults = {Cause.WATCHDOG_MISSING: "none", Cause.CRASH_HOLD: "held"}
    world.run(2)
    assert world.state == (State.BYPASS, Cause.CRASH_HOLD)
    world.ask("inline", 60)
    assert world.state[0] is State.INLINE
    assert [line.partition(":")[0] for line in world.also] == ["operator", "watchdog_missing", "crash_hold"]
    world.run(58)
    assert world.state == (State.BYPASS, Cause.CRASH_HOLD), "the time is over"
    assert "the request for inline has ended" in world.said


@pytest.mark.parametrize("cause", [Cause.RELAY_FAULT, Cause.DATAPATH_FAULT, Cause.PORT_SET_DOWN, Cause.STOPPING])
def test_inline_does_not_override_what_keeps_frames_from_crossing(cause: Cause) -> None:
    """Link first: an order for inline never makes the link dead."""
    world = World()
    world.ask("inline", 600)
    world.faults = {cause: "so"}
    world.run(2)
    assert world.state == (State.BYPASS, cause)
    world.faults = {}
    world.run(10)
    assert world.state[0] is State.INLINE


def test_inline_stays_without_a_link() -> None:
    """In auto lost links lead to bypass; an order for inline has them reported only."""
    world = World()
    world.links.link(False)
    world.run(5)
    assert world.state[0] is not State.INLINE
    world.ask("inline", 600)
    world.run(60)
    assert world.state == (State.INLINE, Cause.LINKS_DOWN)


def test_maintenance_is_bypass_for_a_time_and_leaves_the_operators_order_alone() -> None:
    world = World()
    world.ask("maintenance", 60)
    assert world.state == (State.BYPASS, Cause.MAINTENANCE)
    world.ask("bypass")
    assert world.state == (State.BYPASS, Cause.OPERATOR)
    assert world.also == ["maintenance: in maintenance"]
    world.run(120)
    assert world.state == (State.BYPASS, Cause.OPERATOR), "maintenance has ended, the order has not"
    assert "maintenance has ended" in world.said
    assert world.also == []
    world.ask("auto")
    assert world.state[0] is State.INLINE


def test_maintenance_ends_by_itself_or_with_auto() -> None:
    world = World()
    world.ask("maintenance", 60)
    world.run(70)
    assert world.state[0] is State.INLINE
    world.ask("maintenance", 600)
    world.ask("auto")
    assert world.state[0] is State.INLINE


def test_maintenance_is_refused_while_inline_was_requested() -> None:
    world = World()
    world.ask("inline", 600)
    with pytest.raises(RefusedError, match="inline was requested"):
        world.ask("maintenance", 60)


def test_a_drill_shows_beside_other_reasons() -> None:
    world = World()
    world.segments.drill("main", True)
    world.faults = {Cause.DATAPATH_FAULT: "refused"}
    world.run(2)
    assert world.state == (State.BYPASS, Cause.DRILL)
    assert world.also == ["datapath_fault: refused"]


def test_orders_for_a_time_outlast_bypassd(tmp_path: Path) -> None:
    file = tmp_path / "segments.json"
    world = World(file)
    world.ask("maintenance", 60)
    again = World(file)
    assert again.state == (State.BYPASS, Cause.MAINTENANCE)
    again.run(70)
    assert again.state[0] is State.INLINE
    again.ask("inline", 30)
    third = World(file)
    assert third.segments.units["main"].asked == "inline"
    third.run(300)
    assert third.segments.units["main"].asked == ""


def test_what_a_damaged_memory_says_about_an_order_for_inline_is_not_believed(tmp_path: Path) -> None:
    """Without its end it would never end."""
    file = tmp_path / "segments.json"
    file.write_text('{"main": {"asked": "inline"}}')
    assert World(file).segments.units["main"].asked == ""


def test_disconnect_needs_a_board_that_can() -> None:
    with pytest.raises(RefusedError, match="no disconnect"):
        World().ask("disconnect")
    world = World(relay=CUTTING)
    world.ask("disconnect")
    assert world.state == (State.DISCONNECT, Cause.OPERATOR)
    world.ask("auto")
    assert world.state[0] is State.INLINE
