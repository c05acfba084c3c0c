# SPDX-License-Identifier: GPL-2.0-only
"""A day of broken links under a simulated clock: how often the relay moves, and what is said meanwhile.

The segments are the real ones; links, relay and board are a model that jumps from event to event.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from appliance.causes import Cause
from appliance.config.schema.model import Segment
from appliance.hardware.board import parse
from appliance.hardware.links import Links, Port
from appliance.keeper.client import KeeperState, RelayState
from appliance.segment.carrier import APPEAR_NS, BOTH_NS, SETTLE_NS
from appliance.segment.machine import State
from appliance.segment.manager import Segments
from appliance.telemetry.transitions import Transitions
from appliance.units import Duration

MS = 1_000_000
SECOND = 1000 * MS
MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 24 * 3600 * SECOND
SWITCH = 20 * MS  # from the order to the relay's new position
NEGOTIATION = 4 * SECOND
BOARD = """
name = "test"
[[port]]
name = "lan0"
mac = "02:ff:ff:ff:ff:01"
[[port]]
name = "wan0"
mac = "02:ff:ff:ff:ff:02"
[[relay]]
ports = ["lan0", "wan0"]
line = "relay"
"""
MOST_IN_AN_HOUR, LATER_IN_AN_HOUR = 30, 12
"""Relay moves. First: waits of 4, 8 .. 1024 s are ten ways inline and back; a sign that the link is back, once in a
quarter of an hour, brings four more. Later: the same four, and one of the back-off's own."""


@dataclass(frozen=True)
class Weather:
    """Neighbours and cables: good or not at first, and those of `flapping` change after each `period`, or `once`."""

    lan: bool = True
    wan: bool = True
    flapping: str = ""
    period: int = DAY
    once: bool = False
    times: tuple[int, ...] = ()  # instead of a period: when they change

    def good(self, now: int) -> dict[str, bool]:
        turned = now >= self.period if self.once else now // self.period % 2 == 1
        if self.times:
            turned = bisect_right(self.times, now) % 2 == 1
        return {
            "lan0": self.lan ^ ("lan" in self.flapping and turned),
            "wan0": self.wan ^ ("wan" in self.flapping and turned),
        }

    def next(self, now: int) -> int:
        if self.times:
            return next(iter(self.times[bisect_right(self.times, now) :]), DAY)
        return (now // self.period + 1) * self.period


class World:
    """One segment on a board. `joined`: in bypass the board joins its own two ports with each other; "open": they see
    nothing; "as inline": they go on seeing the neighbours, as on virtual ports."""

    def __init__(self, weather: Weather, policy: str, limit: int, bypassed: str, own: tuple[bool, bool]) -> None:
        self.links = Links([], lambda: None)
        self.links.ports = {n: Port(n, n, i, "", up=True, link=True) for i, n in enumerate(("lan0", "wan0"), 1)}
        self.links.set_down = self._set_down  # type: ignore[method-assign]
        config = Segment(name="main", lan="lan0", wan="wan0", on_link_loss=policy, link_loss_limit=Duration(limit))  # type: ignore[arg-type]
        self.segments = Segments((config,), parse(BOARD), self.links, Transitions())
        self.machine = self.segments.units["main"].machine
        self.weather, self.bypassed, self.own = weather, bypassed, own
        self.now = 0
        self.relay, self.moving = "bypass", 0
        self.moved = -NEGOTIATION
        self.moves: list[int] = []
        self.up_since = {"lan0": 0, "wan0": 0}  # when each port was taken up
        self.downs = 0

    def _set_down(self, name: str, down: bool) -> None:
        (self.links._downed.add if down else self.links._downed.discard)(name)
        self.downs += down
        if not down:
            self.up_since[name] = self.now

    def keeper(self) -> KeeperState:
        return KeeperState({"relay": RelayState(self.relay, "", usable=True)})

    def run(self, until: int) -> Iterator[None]:
        """Go from event to event; the caller looks at the world after each."""
        self.see()
        self.segments.begin(self.now, self.keeper(), lambda _: {}, intact=False, first=True)
        while self.now < until:
            self.see()
            self.segments.update(self.now, self.keeper(), lambda _: {})
            want = self.machine.want
            if want in ("inline", "bypass") and want != self.relay and not self.moving:
                self.moving = self.now + SWITCH
            yield
            self.now = self.next(until)
            if self.moving and self.now >= self.moving:
                self.relay, self.moving = ("bypass", "inline")[self.relay == "bypass"], 0
                self.moved = self.now
                self.moves.append(self.now)

    def next(self, until: int) -> int:
        """The next moment at which something can happen."""
        times = [until, *(since + NEGOTIATION for since in (self.moved, *self.up_since.values()))]
        times += [due for due in (self.segments.deadline(), self.moving) if due]
        times.append(self.weather.next(self.now))
        return min((when for when in times if when > self.now), default=until)

    def see(self) -> None:
        good = self.weather.good(self.now)
        own = dict(zip(("lan0", "wan0"), self.own, strict=True))
        for name, port in self.links.ports.items():
            if self.relay == "bypass" and self.bypassed != "as inline":
                link = self.bypassed == "joined" and all(self.own)
            else:
                link = good[name] and own[name]
            virtual = self.bypassed == "as inline"
            fresh = max(self.moved, self.up_since[name]) if not virtual else self.up_since[name]
            port.link = link and name not in self.links.downed and self.now >= fresh + NEGOTIATION


def most_within(times: list[int], window: int) -> int:
    """The most of these within any window."""
    return max((sum(1 for other in times if when <= other < when + window) for when in times), default=0)


WEATHERS: dict[str, Weather] = {
    "both gone": Weather(lan=False, wan=False),
    "lan gone": Weather(lan=False),
    **{f"both flap {s} s": Weather(flapping="lan wan", period=s * SECOND) for s in (7, 45, 660)},
    **{f"wan flaps {s} s": Weather(flapping="wan", period=s * SECOND) for s in (62, 3660)},
}


@pytest.mark.parametrize("bypassed", ["joined", "open", "as inline"])
@pytest.mark.parametrize("policy", ["propagate", "bypass", "ignore"])
@pytest.mark.parametrize("weather", WEATHERS)
def test_the_relay_moves_seldom_and_everything_has_a_cause(weather: str, policy: str, bypassed: str) -> None:
    world = World(WEATHERS[weather], policy, 10 * SECOND, bypassed, (True, True))
    since = None
    for _ in world.run(DAY):
        links = all(port.link or port.name in world.links.downed for port in world.links.ports.values())
        if world.machine.state is not State.INLINE or links or world.machine.cause is not Cause.HEALTHY:
            since = None
        elif since is None:
            since = world.now
        assert since is None or world.now - since <= SETTLE_NS, "driven, no link, and no cause"
        if world.machine.state is not State.INLINE:
            assert world.machine.cause not in (Cause.NONE, Cause.HEALTHY) or world.machine.state is State.ENGAGING
    assert most_within(world.moves, HOUR) <= MOST_IN_AN_HOUR
    if "gone" in weather:
        later = [when for when in world.moves if when > 3 * HOUR]
        assert 1 <= most_within(later, HOUR) <= LATER_IN_AN_HOUR, "it goes on trying"


@pytest.mark.parametrize("seed", range(6))
def test_no_weather_moves_the_relay_more_often(seed: int) -> None:
    """Links that come and go at random, and hold for long enough to be trusted, or just not."""
    rng = random.Random(seed)
    up, down = rng.choice([5, 20, 120, 605, 1210, 1900]), rng.choice([1, 12, 60, 120, 300, 700])
    times, now = list[int](), 0
    while now < DAY:
        for typical in (up, down):
            now += int(typical * SECOND * rng.uniform(0.8, 1.5))
            times.append(now)
    policy, bypassed = rng.choice(["propagate", "bypass", "ignore"]), rng.choice(["joined", "open", "as inline"])
    weather = Weather(flapping=rng.choice(["lan wan", "wan"]), times=tuple(times))
    world = World(weather, policy, 10 * SECOND, bypassed, (True, True))
    for _ in world.run(DAY):
        pass
    assert 1 <= most_within(world.moves, HOUR) <= MOST_IN_AN_HOUR


@pytest.mark.parametrize("bypassed", ["joined", "open", "as inline"])
@pytest.mark.parametrize("own", [(False, True), (True, False), (False, False)])
def test_a_dead_port_of_our_own_costs_the_neighbours_less_and_less(own: tuple[bool, bool], bypassed: str) -> None:
    """In bypass the neighbours reach each other; each attempt takes them apart for no longer than a link needs."""
    world = World(Weather(), "propagate", 10 * SECOND, bypassed, own)
    inline, last, longest = 0, 0, 0
    reached = 0
    for _ in world.run(DAY):
        if world.relay == "inline":
            inline += world.now - last
            longest = max(longest, world.now - reached)
        else:
            reached = world.now
        last = world.now
    assert longest <= APPEAR_NS + BOTH_NS + 2 * SWITCH + 30 * SECOND
    assert inline <= DAY / 100
    assert world.moves[-1] > DAY - 2 * HOUR, "it still tries"


@pytest.mark.parametrize("bypassed", ["joined", "open", "as inline"])
@pytest.mark.parametrize("after", [MINUTE, HOUR, 5 * HOUR])
def test_inline_again_when_the_links_are_back(after: int, bypassed: str) -> None:
    """At the next attempt; where a port shows its link in bypass, within seconds."""
    world = World(Weather(False, False, "lan wan", after, once=True), "propagate", 10 * SECOND, bypassed, (True, True))
    back = None
    for _ in world.run(after + 2 * HOUR):
        if world.now >= after and world.machine.state is State.INLINE and world.machine.cause is Cause.HEALTHY:
            back = world.now if back is None else back
        elif back is not None and world.now > back + MINUTE:
            raise AssertionError(f"left again: {world.machine.cause}")
    assert back is not None
    assert back - after <= (15 * SECOND if bypassed == "as inline" else HOUR + MINUTE)
