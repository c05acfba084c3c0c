# SPDX-License-Identifier: GPL-2.0-only
"""The invariants. The first one that is violated ends a run."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from appliance.causes import DESCRIPTION, Cause
from appliance.hardware.links import UNANSWERED_S
from appliance.segment.evidence import LAG, SPAN, Kept
from appliance.segment.machine import State
from appliance.segment.show import Link
from appliance.segment.unit import Unit
from tests.simulate.clock import MINUTE, SECOND

if TYPE_CHECKING:
    from appliance.telemetry.transitions import Entry
    from tests.simulate.world import World

INVARIANTS = {
    "link": "the relay is driven only while frames cross, or a named cause says why not",
    "cause": "every state and every change of state has a cause, and none leaves inline for one that is not there",
    "flap": "no relay moves faster than the back-off",
    "commit": "an acknowledged commit is never lost",
    "recovery": "after the last fault everything becomes healthy again within a bound",
    "lease": "a guest has no lease without evidence",
    "inspection": "a guest that forwards its frames keeps its traffic",
    "packet": "what bypassd sends, the keeper can use",
    "watchdog": "the watchdog does not bite while the keeper runs",
    "bug": "no exception that nobody expects",
}

CROSSES_NS = 5 * SECOND
"""A driven relay over which nothing crosses must have a named cause by then, while a supervisor serves."""
UNSENT_NS = 10 * SECOND
"""... when a port does not send, which only its counters show: each reading of them later by what threads are slow."""
UNWATCHED_NS = 20 * SECOND
"""... and without one, so long after the grace."""
SILENCE_NS = MINUTE
"""So long a port may be blamed for what it did not send: several samples of its counters, taken by slow threads."""
FLAP_NS = 10 * MINUTE
MOVES, MOVES_A_FAULT = 16, 4
"""How often a relay may go inline within ten minutes: with a back-off that doubles from 2 s to a minute, and for each
fault that struck in that time."""

NO_CAUSE = ("", Cause.NONE, Cause.HEALTHY)


class Violation(NamedTuple):
    """A violated invariant; `at` in ns since the run began."""

    invariant: str
    at: int
    what: str


class Watcher:
    """Checks a world after each of its steps, and is notified of its events."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.broken_since = 0  # the relay is driven and no frame crosses; 0: not so
        self.unnamed_since = 0  # ... and while a supervisor serves, no cause is named
        self._silent_at = -SILENCE_NS  # when a port was last known to send nothing
        self._explained_at = 0  # when the console last said why
        self._slowest = 0  # ... the longest that a thread took more than usual
        self._mute = False  # ... the kernel did not answer
        self._hidden = False  # ... only a port's counters showed it, for a time
        self._inline: deque[int] = deque()
        self._struck: deque[int] = deque()
        self.silent_states: dict[str, int] = {}  # by state without a cause: since when

    def fail(self, invariant: str, what: str) -> None:
        """Record a violation; the run ends after this step."""
        world = self._world
        if world.violation is None:
            world.violation = Violation(invariant, world.clock.now - world.began, what)

    def step(self) -> None:
        """After every step."""
        world = self._world
        if not world.relay.inline or world.crosses:
            self.broken_since = self.unnamed_since = 0
            return
        now = world.clock.now
        if any(port.silent for port in world.ports.values()):
            self._silent_at = now
        if not self.broken_since:
            self.broken_since = now
            return
        unit = world.unit if world.serves else None
        explained = unit is not None and self._explained(unit)
        if explained:
            self._explained_at = now
        if unit is None or explained:
            self.unnamed_since = self._slowest = 0
            self._mute = self._hidden = False
        elif not self.unnamed_since:
            self.unnamed_since = now
        self._slowest = max(self._slowest, world.thread_delay)
        self._mute |= not world.kernel.answers
        self._hidden |= world.kernel.steered and all(port.carrier for port in world.ports.values())
        if unit is not None and self.unnamed_since and now - self.unnamed_since > self._allowed():
            span = f"no frame for {(now - self.broken_since) / 1e9:.1f} s with the relay driven"
            self.fail("link", f"{span}: the segment is {unit.machine.state}, cause {unit.machine.cause}")
        elif unit is None and now - max(self.broken_since, self._explained_at) > world.grace + UNWATCHED_NS:
            self.fail("link", f"no frame for {(now - self.broken_since) / 1e9:.1f} s, and no supervisor")

    def _allowed(self) -> int:
        if self._mute:
            return CROSSES_NS + UNANSWERED_S * SECOND  # that is a cause of its own by then
        return UNSENT_NS + (SPAN + LAG + 1) * self._slowest if self._hidden else CROSSES_NS

    def _explained(self, unit: Unit) -> bool:
        """Whether the console says why nothing crosses: by the segment's cause, by the one port without a link, or by a
        driver whose counters say nothing; or nobody can know of it."""
        if unit.machine.cause not in NO_CAUSE:
            return True
        if any(port.kept is Kept.UNCOUNTED for port in unit.evidence.ports.values()):
            return True
        if all(port.silent for port in self._world.ports.values()):
            return True  # no frame comes in: a line on which nobody speaks looks the same
        segments = self._world.segments
        assert segments is not None
        links = [segments.link(port) for port in (unit.config.lan, unit.config.wan)]
        return (Link.UP in links and links != [Link.UP, Link.UP]) or Link.HELD_DOWN in links

    def relay_moved(self) -> None:
        world = self._world
        if not world.relay.inline:
            return
        now = world.clock.now
        self._inline.append(now)
        for times in (self._inline, self._struck):
            while times and times[0] < now - FLAP_NS:
                times.popleft()
        allowed = MOVES + MOVES_A_FAULT * len(self._struck)
        if len(self._inline) > allowed:
            why = f"{len(self._struck)} faults struck in that time"
            self.fail("flap", f"the relay went inline {len(self._inline)} times within ten minutes, and {why}")

    def struck(self) -> None:
        self._struck.append(self._world.clock.now)

    def transition(self, entry: Entry) -> None:
        """An entry of the ledger."""
        if entry.cause in ("", Cause.NONE) or (entry.cause not in DESCRIPTION and entry.subject.kind != "system"):
            self.fail("cause", f"{entry.subject}: {entry.old} -> {entry.new} has no cause ({entry.cause!r})")
        blamed = entry.cause == Cause.NOT_SENT and entry.old == State.INLINE != entry.new
        if blamed and self._world.clock.now - self._silent_at > SILENCE_NS:
            self.fail("cause", f"{entry.subject} goes to {entry.new} for {entry.cause}, and all ports send")
        if entry.subject.kind == "guest" and entry.old in ("available", "overloaded") and entry.new == "suspect":
            self.guest_fell(entry.subject.name, entry.detail)

    def renewed(self, hop: str, until: int) -> None:
        """A lease was written."""
        world = self._world
        now = world.clock.now
        qemu = world.qemus.running.get(hop)
        truth = qemu.truth() if qemu is not None else 0
        if until > now and until > truth:
            what = f"for {(until - now) / 1e6:.1f} ms, and what was seen of it holds for {(truth - now) / 1e6:.1f} ms"
            self.fail("lease", f"guest {hop} gets a lease {what}")

    def guest_fell(self, name: str, why: str) -> None:
        """A guest that had traffic lost it for a failed check."""
        world = self._world
        qemu = world.qemus.running.get(name)
        settled = world.clock.now - max(world.disturbed_at, qemu.ill_until if qemu is not None else 0) > 5 * SECOND
        if qemu is not None and qemu.works and not qemu.app_failed and qemu.deaf is None and settled:
            self.fail("inspection", f"guest {name} works, and its traffic bypasses it: {why}")

    def states(self) -> None:
        """From time to time: every state that is shown has a cause. Momentary states are not checked."""
        world = self._world
        found: dict[str, str] = {}
        if world.keeper is not None:
            for name, relay in world.keeper.core.relays.states.items():
                if relay.position != "inline" and relay.cause in NO_CAUSE:
                    found[f"keeper {name}"] = f"relay {name} is in {relay.position}, cause {relay.cause!r}"
        if world.serves and (unit := world.unit) is not None:
            machine = unit.machine
            if machine.state in (State.BYPASS, State.REARMING, State.DISCONNECT) and machine.cause in NO_CAUSE:
                found["segment"] = f"the segment is {machine.state}, cause {machine.cause!r}"
        for guest in world.guests:
            if guest.hop.cause in ("", Cause.NONE) and guest.hop.state.value != "defined":
                found[f"guest {guest.name}"] = f"guest {guest.name} is {guest.hop.state.value}, without a cause"
        now = world.clock.now
        self.silent_states = {what: self.silent_states.get(what, now) for what in found}
        for what, since in self.silent_states.items():
            if now - since > 5 * SECOND:
                self.fail("cause", found[what])
