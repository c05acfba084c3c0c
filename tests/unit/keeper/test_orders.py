# SPDX-License-Identifier: GPL-2.0-only
"""The keeper's core under every order of events up to a bound: what it promises holds after each step.

A state is what the core knows, with times counted from now. States that were reached before are not searched again, so
the search is complete up to its depth. From every state but those of the last step, once nothing is broken any more and
bypassd asks for inline, the relay must get there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from appliance.causes import Cause
from appliance.keeper.core import KeeperCore
from appliance.keeper.lifecycle import Lifecycle
from appliance.keeper.limits import FAR, MS, SECOND, Limits
from appliance.keeper.messages import (
    BYPASS,
    HOLD,
    INLINE,
    Action,
    Ask,
    CheckIn,
    CloseRelay,
    CloseWatchdog,
    Drive,
    Event,
    Exit,
    Exited,
    Feed,
    Kill,
    LinkLost,
    Look,
    OpenRelay,
    OpenWatchdog,
    ReadRelay,
    RelayReport,
    SetWatchdog,
    Spawn,
    Started,
    Stop,
    Tick,
    WatchdogReport,
)
from appliance.keeper.relays import Relays
from appliance.keeper.silence import Looked

RELAY = "relay"
GRACE = 3 * SECOND
DEPTH = 6


class Node:
    """The core, and a world that is as small as it can be."""

    def __init__(self) -> None:
        self.core = KeeperCore(Limits(grace=GRACE, watchdog_start_ms=1000))
        self.now = 100 * SECOND
        self.line = BYPASS
        self.process = self.link = False
        self.missing = self.stuck = self.no_watchdog = self.done = False
        self.asked: tuple[int, str] | None = None  # the last check-in that asked for a position
        self.way: tuple[str, ...] = ()
        self.feed(Started((RELAY,)))

    def fork(self) -> Node:
        node = copy.copy(self)
        node.core = core = copy.copy(self.core)
        core.bypassd, core.relays = copy.copy(core.bypassd), copy.copy(core.relays)
        core.watchdog, core._agenda = copy.copy(core.watchdog), copy.copy(core._agenda)
        core._agenda.due = dict(core._agenda.due)
        core.bypassd._silence = copy.copy(core.bypassd._silence)
        core.bypassd._startup = copy.copy(core.bypassd._startup)
        core.relays.states = {name: copy.copy(relay) for name, relay in core.relays.states.items()}
        return node

    def key(self) -> object:
        """Everything that later steps can depend on."""
        core, now = self.core, self.now

        def ago(when: int | None) -> int | None:
            return None if when is None else min(now - when, 20 * SECOND)

        life, relays, watchdog = core.bypassd, core.relays, core.watchdog
        silence = life._silence
        relay = relays.states[RELAY]
        return (
            (life.phase, core.stopping, life._backoff, relays.grace, self.line),
            (watchdog.timeout_ms, watchdog._was_late),
            (self.process, self.link, self.missing, self.stuck, self.no_watchdog, self.done),
            (relay.usable, relay.position, relay.target, relay.cause, relay.want, relay.want_cause),
            tuple(sorted((what, when - now) for what, when in core._agenda.due.items())),
            (ago(life._since), ago(relays._position_asked), ago(self.asked[0]) if self.asked else None),
            (ago(silence._last), ago(silence._began), silence._asked, silence._idle, silence._next - now),
            life._kill_at - now if life.phase == "ending" else 0,
        )

    # -- the world

    def feed(self, event: Event) -> None:
        late = self.now - self.core.deadline() if self.core.relays.states else 0
        events = [event]
        while events:
            first = isinstance(events[0], Tick)
            for action in self.core.step(self.now, events.pop(0)):
                assert not (isinstance(action, Feed) and first and late > self.core.watchdog.timeout_ms * MS), (
                    "fed although late"
                )
                events += self._perform(action)
        self._check()

    def _perform(self, action: Action) -> list[Event]:
        match action:
            case OpenWatchdog(timeout) | SetWatchdog(timeout):
                return [WatchdogReport(error="gone") if self.no_watchdog else WatchdogReport(timeout)]
            case Feed() if self.no_watchdog:
                return [WatchdogReport(error="gone")]
            case OpenRelay() | ReadRelay() | Drive() if self.missing:
                self.line = BYPASS
                return [RelayReport(RELAY, error="gone")]
            case OpenRelay():
                return [RelayReport(RELAY, self.line)]
            case ReadRelay(_, expected):
                return [RelayReport(RELAY, self.line, expected=expected)]
            case Drive(_, position):
                self.line = self.line if self.stuck else position
                return [RelayReport(RELAY, self.line, expected=position)]
            case CloseRelay():
                self.line = BYPASS
            case Spawn():
                assert not self.process, "a second bypassd"
                self.process = self.link = True
            case Kill():
                assert self.process, "nobody to kill"
            case Look():
                return [Looked({1: (0, 0)}, "S")]
            case CloseWatchdog():
                assert self.line == BYPASS or self.stuck, "the watchdog is stopped before the relay closed"
            case Exit():
                self.done = True
        return []

    def _check(self) -> None:
        core, relay = self.core, self.core.relays.states[RELAY]
        if self.line == INLINE and self.stuck:
            return  # it was told, and can do no more
        if self.line == INLINE:
            assert not self.done, "gone, and the relay is driven"
            assert self.asked is not None, "driven, and nobody ever asked"
            at, want = self.asked
            held = max(GRACE, core.limits.checkin) if core.bypassd.phase == "serving" else GRACE
            assert want == INLINE, "driven although bypassd asked for bypass"
            assert self.now - at < held, "driven without a supervisor for longer than the grace"
        else:
            assert relay.cause not in ("", Cause.NONE, Cause.HEALTHY), f"in bypass, cause {relay.cause!r}"
        if not self.done:
            assert core.deadline() > self.now, "it would spin"
            assert self.process == (core.bypassd.phase != "down"), "it does not know whether bypassd lives"
            if self.process:
                assert core.deadline() < FAR, "nobody would notice a bypassd that hangs"

    # -- what may happen

    def tick(self) -> None:
        self.now = max(self.now, self.core.deadline())
        self.feed(Tick())

    def stand_still(self) -> None:
        """The whole machine stands still until every deadline has passed."""
        self.now = max(self.now, self.core.deadline()) + 4 * SECOND
        self.feed(Tick())

    def pass_time(self) -> None:
        """A second passes, with every step on time."""
        end = self.now + SECOND
        while self.core.deadline() <= end and not self.done:
            self.tick()
        self.now = end

    def check_in(self, want: str) -> None:
        if want != HOLD and self.core.bypassd.phase in ("starting", "serving"):
            self.asked = (self.now, want)
        self.feed(CheckIn({RELAY: Ask(want, "healthy" if want == INLINE else "configured")}))

    def exit(self) -> None:
        self.process = self.link = False
        self.feed(Exited("killed by signal 9"))

    def lose_link(self) -> None:
        self.link = False
        self.feed(LinkLost("closed its keeper link"))

    def flip(self, what: str) -> None:
        setattr(self, what, not getattr(self, what))

    def moves(self) -> Iterator[tuple[str, Callable[[Node], object]]]:
        """Everything that may happen now."""
        if self.done:
            return
        yield "tick", Node.tick
        yield "a second", Node.pass_time
        yield "stand still", Node.stand_still
        if self.link:
            yield "asks for inline", lambda node: node.check_in(INLINE)
            yield "asks for bypass", lambda node: node.check_in(BYPASS)
            yield "holds", lambda node: node.check_in(HOLD)
            yield "loses its link", Node.lose_link
        if self.process:
            yield "exits", Node.exit
        for what in ("missing", "stuck", "no_watchdog"):
            yield what, lambda node, what=what: node.flip(what)  # type: ignore[misc]
        if not self.core.stopping:
            yield "stop", lambda node: node.feed(Stop())

    def recovers(self) -> bool:
        """Nothing is broken any more, and bypassd does what it should: is the relay inline within ten seconds?"""
        self.missing = self.stuck = self.no_watchdog = False
        if self.process and not self.link:
            self.exit()
        end = self.now + 10 * SECOND
        while self.now < end and self.line != INLINE:
            if self.core.bypassd.phase in ("starting", "serving"):
                self.check_in(INLINE)
            elif self.core.bypassd.phase == "ending":
                self.exit()
            self.now = min(max(self.core.deadline(), self.now), self.now + 100 * MS)
            self.feed(Tick())
        return self.line == INLINE


def search(depth: int) -> int:
    """Try every order of `depth` events; the number of states. AssertionError names the events that led to it."""
    nodes, known = [Node()], set[Any]()
    for left in reversed(range(depth)):
        reached = []
        for node in nodes:
            for name, move in node.moves():
                after = node.fork()
                after.way = (*node.way, name)
                try:
                    move(after)
                    if (key := after.key()) in known:
                        continue
                    known.add(key)
                    if left and not after.core.stopping:
                        assert after.fork().recovers(), "the relay does not come back"
                except Exception as error:
                    raise AssertionError(f"{', '.join(after.way)}: {error!r}") from error
                reached.append(after)
        nodes = reached
    return len(known)


def test_every_order_of_events() -> None:
    """Six events in any order, of everything that may happen: no promise is broken, and the relay comes back."""
    assert search(DEPTH) > 40_000


@pytest.mark.parametrize(
    ("rules", "method", "says"),
    [
        (Lifecycle, "exited", "it does not know whether bypassd lives"),
        (Relays, "_lost", "does not come back|in bypass, cause|it would spin"),
        (Lifecycle, "judge", "it would spin"),
        (KeeperCore, "_run_due", "it would spin"),
    ],
)
def test_the_search_finds_what_is_left_out(
    monkeypatch: pytest.MonkeyPatch, rules: type, method: str, says: str
) -> None:
    """A core that ignores one kind of event does not pass."""
    monkeypatch.setattr(rules, method, lambda *_: None)
    with pytest.raises(AssertionError, match=says):
        search(4)


def test_the_search_finds_a_grace_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Relays, "_held_for", lambda self, serving: FAR)
    with pytest.raises(AssertionError, match="longer than the grace"):
        search(5)
