# SPDX-License-Identifier: GPL-2.0-only
"""When the ports of a segment are held down for want of hops, and what else holds them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from appliance.causes import Cause
from appliance.config.schema.model import Config, Group, Member, Rule, Segment
from appliance.hardware.links import Links
from appliance.segment.carrier import APPEAR_NS, SETTLE_NS
from appliance.segment.link_down import AFTER_NS, FLAP_NS, MOST_NS, SECOND, START_NS, LinkDown
from appliance.segment.machine import State
from appliance.segment.manager import Segments
from appliance.steering.unavailable import lacking
from appliance.telemetry.subject import Change
from appliance.telemetry.transitions import Transitions

HOLD = 2 * SECOND
T0 = 1000 * SECOND
WHY = 'rule r: "a" is not available'


def look(decision: LinkDown, now: int, missing: str = "", *, inline: bool = True) -> bool:
    return decision.look(now, missing, inline=inline, hold=HOLD)


def test_down_after_a_second_and_up_after_the_hold_down() -> None:
    """A blink of the hops costs no link; what returns must last."""
    decision = LinkDown()
    assert not look(decision, T0, WHY)
    assert decision.deadline == T0 + AFTER_NS
    assert not look(decision, T0 + AFTER_NS - 1)
    assert not look(decision, T0 + AFTER_NS, WHY)
    now = T0 + 2 * AFTER_NS
    assert look(decision, now, WHY)
    assert decision.detail == WHY
    assert look(decision, now + 1)
    assert decision.deadline == now + 1 + HOLD
    assert look(decision, now + HOLD, WHY), "one look without them begins the wait anew"
    assert look(decision, now + HOLD + 1)
    assert not look(decision, now + 2 * HOLD + 1)
    assert decision.deadline is None


def test_guests_have_time_after_the_start() -> None:
    decision = LinkDown()
    decision.begin(T0)
    assert not look(decision, T0, WHY)
    assert not look(decision, T0 + START_NS - 1, WHY)
    assert look(decision, T0 + START_NS, WHY)


def test_in_bypass_no_port_is_held() -> None:
    """The neighbours are joined there; after it, everything begins anew."""
    decision = LinkDown(held=True)
    assert look(decision, T0, WHY)
    assert not look(decision, T0 + 1, WHY, inline=False)
    assert not look(decision, T0 + 2, WHY)
    assert look(decision, T0 + 2 + AFTER_NS, WHY)


def test_ports_that_flap_stay_down_longer() -> None:
    """Up to a minute; a time without trouble forgets it."""
    decision, now = LinkDown(), T0
    waits = []
    for _ in range(16):
        look(decision, now, WHY)
        now += AFTER_NS
        assert look(decision, now, WHY)
        look(decision, now)
        assert decision.deadline is not None
        waits.append(decision.deadline - now)
        now = decision.deadline
        assert not look(decision, now)
    assert waits[:4] == [HOLD, 2 * HOLD, 4 * HOLD, 8 * HOLD]
    assert waits[-1] == MOST_NS
    now += FLAP_NS
    look(decision, now, WHY)
    look(decision, now + AFTER_NS, WHY)
    look(decision, now + AFTER_NS)
    assert decision.deadline == now + AFTER_NS + HOLD


# -- which rules lack hops

GROUP = Group(name="g", balance=(Member(hop="a"), Member(hop="b")), spare=("c",), minimum=2)


@pytest.mark.parametrize(
    ("rule", "up", "said"),
    [
        ({"path": ("a", "x")}, "a", ""),
        ({"path": ("a", "x")}, "x", ""),
        ({"path": ("a", "x")}, "b", 'rule r: "a", "x" are not available'),
        ({"path": ("a", "x"), "require": "all"}, "a", 'rule r: "x" is not available'),
        ({"path": ("g",)}, "ac", ""),
        ({"path": ("g",)}, "c", 'rule r: "g" is not available'),
        ({"path": ("g", "x")}, "cx", ""),
        ({"path": ("g", "x"), "require": "all"}, "cx", 'rule r: "g" is not available'),
        ({"path": ("a",), "segment": "other"}, "", ""),
        ({"path": ("a",), "segment": "main"}, "", 'rule r: "a" is not available'),
        ({"path": ("a",), "on_unavailable": "block"}, "", ""),
        ({"path": ()}, "", ""),
    ],
)
def test_what_a_rule_lacks(rule: dict[str, Any], up: str, said: str) -> None:
    """As the datapath decides: one hop of the path, or all of it, and a group's minimum."""
    config = Config(group=(GROUP,), rule=(Rule(name="r", **{"on_unavailable": "link-down", **rule}),))
    assert lacking(config, "main", lambda hop: hop in up) == said


# -- with relay, links and their propagation


class Port:
    """A port, whose link follows what it is told."""

    link = True


class Ports:
    """The links of a board. A link takes 2 s to come up."""

    unreadable = ""

    def __init__(self) -> None:
        self.ports: dict[str, Any] = {"lan0": Port(), "wan0": Port()}
        self.missing: dict[str, str] = {}
        self.contested: dict[str, str] = {}
        self.downed: set[str] = set()
        self.cut: set[str] = set()  # cables
        self.up_at: dict[str, int] = {}
        self.now = 0

    def set_down(self, name: str, down: bool) -> None:
        (self.downed.add if down else self.downed.discard)(name)
        self.up_at[name] = self.now + 2 * SECOND

    def step(self, now: int) -> None:
        self.now = now
        for name, port in self.ports.items():
            port.link = name not in self.downed | self.cut and now >= self.up_at.get(name, 0)


class Ledger:
    def __init__(self) -> None:
        self.entries: list[tuple[Any, ...]] = []

    def record(self, change: Change, subject: str, old: str, new: str, cause: Cause, *, detail: str = "") -> None:
        self.entries.append((change, subject, cause))


class World:
    """One segment that is inline, with its ports, in steps of a tenth of a second."""

    def __init__(self, file: Path | None = None, **keys: Any) -> None:
        self.links, self.ledger, self.missing, self.now = Ports(), Ledger(), "", T0
        segment = msgspec.structs.replace(Segment(name="main", lan="lan0", wan="wan0"), **keys)
        self.segments = Segments(
            (segment,),
            None,
            cast(Links, self.links),
            cast(Transitions, self.ledger),
            file,
            lacking=lambda name: self.missing,
        )
        self.unit = self.segments.units["main"]
        self.segments.begun = True
        self.unit.machine.state, self.unit.machine.cause = State.INLINE, Cause.HEALTHY
        self.unit.machine.relay = "inline"
        self.run(30)

    def cause(self) -> Cause:
        return self.unit.machine.cause

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.now += SECOND // 10
            self.links.step(self.now)
            self.segments._follow_ports(self.now, self.unit)


BOTH = {"lan0", "wan0"}


@pytest.mark.parametrize("policy", ["propagate", "bypass", "ignore"])
def test_both_ports_go_down_and_come_back(policy: str) -> None:
    """The relay stays, with a cause; no link counts as lost, whatever on_link_loss says, however long it is."""
    world = World(on_link_loss=policy)
    world.missing = WHY
    world.run(2)
    assert world.links.downed == BOTH
    assert (world.unit.machine.state, world.cause()) == (State.INLINE, Cause.HOPS_MISSING)
    world.run(3600)
    assert world.unit.machine.state is State.INLINE
    world.missing = ""
    world.run(2.5)
    assert not world.links.downed
    world.run((SETTLE_NS + APPEAR_NS) / SECOND + 5)
    assert not world.links.downed
    assert (world.unit.machine.state, world.cause()) == (State.INLINE, Cause.HEALTHY)
    changes = [entry for entry in world.ledger.entries if entry[0] in (Change.PORT_DOWN, Change.PORT_UP)]
    assert changes == [
        (change, port, Cause.HOPS_MISSING)
        for change in (Change.PORT_DOWN, Change.PORT_UP)
        for port in ("lan0", "wan0")
    ]  # fmt: skip


@pytest.mark.parametrize("policy", ["propagate", "ignore"])
def test_a_cable_that_is_cut_meanwhile(policy: str) -> None:
    """Is found when the ports come up, and passed on as ever; its return frees both ports."""
    world = World(on_link_loss=policy, link_loss_limit=0)
    world.missing = WHY
    world.run(2)
    world.links.cut = {"wan0"}
    world.missing = ""
    world.run(20)
    assert world.links.downed == ({"lan0"} if policy == "propagate" else set())
    assert world.cause() is Cause.LINK_DOWN
    world.missing = WHY
    world.run(5)
    assert world.links.downed == BOTH
    world.links.cut, world.missing = set(), ""
    world.run(40)
    assert not world.links.downed
    assert world.cause() is Cause.HEALTHY


def test_the_hops_return_to_a_link_that_is_passed_on() -> None:
    """Lost link first, then the hops: neither waits for the other."""
    world = World(on_link_loss="propagate", link_loss_limit=0)
    world.links.cut = {"lan0"}
    world.run(2)
    assert world.links.downed == {"wan0"}
    world.missing = WHY
    world.run(3)
    assert world.links.downed == BOTH
    world.missing = ""
    world.run(4)
    assert not world.links.downed, "both have their time to come up"
    world.run(20)
    assert world.links.downed == {"wan0"}
    world.links.cut = set()
    world.run(20)
    assert not world.links.downed


def test_the_next_bypassd_leaves_them_down(tmp_path: Path) -> None:
    """They do not come up for the time of its start, and do when it finds the hops."""
    world = World(tmp_path / "segments.json")
    world.missing = WHY
    world.run(2)
    after = World(tmp_path / "segments.json")
    assert not after.links.downed, "it ran for 30 s with its hops available"
    world.run(1)
    fresh = Ports()
    made = Segments(
        (Segment(name="main", lan="lan0", wan="wan0"),), None, cast(Links, fresh), cast(Transitions, Ledger()),
        tmp_path / "held.json",
    )  # fmt: skip
    assert not fresh.downed
    (tmp_path / "held.json").write_text('{"main": {"held": true}}')
    made = Segments(
        (Segment(name="main", lan="lan0", wan="wan0"),), None, cast(Links, fresh), cast(Transitions, Ledger()),
        tmp_path / "held.json",
    )  # fmt: skip
    assert fresh.downed == BOTH
    assert made.units["main"].link_down.held
