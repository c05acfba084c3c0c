# SPDX-License-Identifier: GPL-2.0-only
"""All checks of one guest as one verdict, with its evidence.

A guest may have traffic while all of its checks pass, until the first piece of their evidence expires. A guest that
keeps failing must pass its checks for longer each time before it gets traffic again (hold-down), so that a flapping
guest does not make the traffic flap. A *veto* keeps traffic from the guest whatever the checks say: something that QEMU
or the guest itself reported (it panicked, its disk failed, it asked to be bypassed), for a time or until it is lifted.
Pure; lives as long as one run of the guest, the history of flips longer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from msgspec import UNSET

from appliance.api.schema.guests import Check
from appliance.causes import Cause
from appliance.health.detector import CheckState, Detector, Event, Extended, Fell, Rose, milliseconds

HOLD_FIRST_NS = 1_000_000_000
HOLD_LIMIT_NS = 60_000_000_000
FLAP_MEMORY_NS = 60_000_000_000
"""A fall within the last minute counts; from the second on, the hold-down is 1 s and doubles up to 60 s."""


@dataclass(frozen=True)
class Available:
    """The guest may have traffic until `until` (ns), unless new evidence says otherwise."""

    until: int


@dataclass(frozen=True)
class Unavailable:
    """A check that passed now fails: `check` is its label, `why` is for display.

    `proof` (ns) is the last time at which that check proved that the guest works; None: there is no such time.
    """

    check: str
    why: str
    cause: Cause = Cause.HEARTBEAT_LOST
    proof: int | None = None


@dataclass(frozen=True)
class Overloaded:
    """The guest works but gets more frames than it can handle: the excess is held back. `why` is for display."""

    why: str


@dataclass(frozen=True)
class Relieved:
    """The guest is no longer overloaded."""


@dataclass(frozen=True)
class WouldFall:
    """A check that decides nothing (dry run) fails, and would bypass the guest. `why` "": it would not any more."""

    why: str
    cause: Cause = Cause.NONE


Decision = Available | Unavailable | Overloaded | Relieved | WouldFall


@dataclass(frozen=True)
class Flip:
    """One change of a check's state. `at` in nanoseconds of CLOCK_MONOTONIC."""

    at: int
    check: str
    to: str
    why: str


def hold_down(falls: int) -> int:
    """How long (ns) all checks must pass before traffic returns, after `falls` falls within the last minute."""
    if falls < 2:
        return 0
    return min(HOLD_FIRST_NS << min(falls - 2, 16), HOLD_LIMIT_NS)


@dataclass
class History:
    """Falls and flips of a hop, kept over its restarts."""

    flips: deque[Flip] = field(default_factory=lambda: deque(maxlen=50))
    falls: deque[int] = field(default_factory=lambda: deque(maxlen=64))
    count: int = 0

    def recent_falls(self, now: int) -> int:
        """How many times the guest became unavailable within the last minute."""
        return sum(1 for at in self.falls if now - at < FLAP_MEMORY_NS)


@dataclass(frozen=True)
class Veto:
    """A reason against the guest that is not a check. Times in ns; `until` None: until it is lifted."""

    why: str
    cause: Cause
    since: int
    until: int | None = None


class Verdict:
    """Holds the detectors and vetoes of one guest and decides from all of them."""

    def __init__(self, detectors: list[Detector], history: History, hold: int = 0, told: Collection[str] = ()) -> None:
        """`hold`: how long (ns) every check must pass before the guest has traffic, the first time and after a fall.

        `told`: labels of checks that decide nothing (dry run); what they would have decided is told and counted.
        """
        self.detectors = {detector.label: detector for detector in detectors}
        self._told = frozenset(told)
        self._counting = self._deciding()
        if not self._counting:
            raise ValueError("a verdict needs at least one check")
        self.would_falls = 0
        self._would_serve, self._would_fall = False, False
        self.history = history
        self.vetoes: dict[str, Veto] = {}
        self.available = False
        self._hold, self._known = hold, False
        self._passing_since: int | None = None

    @property
    def dry_run(self) -> bool:
        """Whether there are checks that decide nothing."""
        return bool(self._told)

    def _deciding(self) -> list[Detector]:
        return [detector for label, detector in self.detectors.items() if label not in self._told]

    def shorten_proof(self) -> None:
        """The guest was proved to work before bypassd restarted: one good answer per check is enough, and no hold."""
        self._known = True
        for detector in self.detectors.values():
            detector.shorten_proof()

    def _needed(self, now: int) -> int:
        # A guest that was available before bypassd restarted had passed its hold-down already and has not fallen since.
        return 0 if self._known else max(self._hold, hold_down(self.history.recent_falls(now)))

    def forget(self) -> None:
        """The guest restarted: earlier evidence no longer counts."""
        for check, old in list(self.detectors.items()):
            self.detectors[check] = Detector(check, old.limits, old.cause, falls=old.falls)
        self._counting = self._deciding()
        self.vetoes.clear()
        self.available, self._known, self._passing_since = False, False, None
        self._would_serve = False

    @property
    def until(self) -> int:
        """When (ns) the first piece of evidence expires: no lease may be longer. 0 = some check has never succeeded."""
        return min(detector.expires or 0 for detector in self._counting)

    @property
    def proof(self) -> int | None:
        """The last time (ns) at which any check proved that the guest works; None: never."""
        return max((one.last_good for one in self.detectors.values() if one.last_good is not None), default=None)

    def step(self, now: int, check: str, event: Event) -> list[Decision]:
        """Process one event for one check."""
        if check in self._told:
            return self._tell(now, check, event)
        decisions: list[Decision] = []
        fresh = False
        for action in self.detectors[check].step(now, event):
            match action:
                case Rose():
                    self._note(now, check, CheckState.PASSING, "")
                case Fell(why=why):
                    self._note(now, check, CheckState.FAILING, why)
                    detector = self.detectors[check]
                    decisions += self._fall(now, Unavailable(check, why, detector.cause, detector.last_good))
                case Extended():
                    fresh = True
        if fresh and self._all_pass(now):
            if self._passing_since is None:
                self._passing_since = now
            if self.available or now - self._passing_since >= self._needed(now):
                self.available = True
                decisions.append(Available(self.until))
        return decisions

    def _tell(self, now: int, check: str, event: Event) -> list[Decision]:
        """An event for a check that decides nothing."""
        decisions: list[Decision] = []
        for action in self.detectors[check].step(now, event):
            match action:
                case Rose():
                    self._note(now, check, CheckState.PASSING, "")
                case Fell(why=why):
                    self._note(now, check, CheckState.FAILING, why)
                    if self._would_serve:
                        self._would_serve, self._would_fall = False, True
                        self.would_falls += 1
                        decisions.append(WouldFall(why, self.detectors[check].cause))
                case Extended():
                    pass
        if not self._would_serve and all(self.detectors[one].state is CheckState.PASSING for one in self._told):
            self._would_serve = True
            if self._would_fall:
                self._would_fall = False
                decisions.append(WouldFall(""))
        return decisions

    def _all_pass(self, now: int) -> bool:
        passing = all(detector.state is CheckState.PASSING for detector in self._counting)
        return passing and self.until > now and not self._vetoed(now)

    def _vetoed(self, now: int) -> bool:
        """Whether any veto is in force; expired ones are lifted."""
        over = [name for name, veto in self.vetoes.items() if veto.until is not None and veto.until <= now]
        for name in over:
            self.lift(now, name)
        return bool(self.vetoes)

    def _fall(self, now: int, fallen: Unavailable, *, counts: bool = True) -> list[Decision]:
        self._passing_since, self._known = None, False
        if not self.available:
            return []
        self.available = False
        if counts:
            self.history.falls.append(now)
        return [fallen]

    def veto(self, now: int, name: str, why: str, cause: Cause, hold: int | None = None) -> list[Decision]:
        """Veto traffic to the guest for `hold` ns (None: until lifted). A bypass that it asked for is not flapping."""
        if name not in self.vetoes:
            self._note(now, name, CheckState.FAILING, why)
        self.vetoes[name] = Veto(why, cause, now, None if hold is None else now + hold)
        return self._fall(now, Unavailable(name, why, cause, None), counts=cause is not Cause.GUEST_ASKED)

    def lift(self, now: int, name: str) -> None:
        """Lift a veto; the next evidence decides. Does nothing if there is none of this name."""
        if self.vetoes.pop(name, None) is not None:
            self._note(now, name, CheckState.PASSING, "")

    def _note(self, now: int, check: str, to: CheckState, why: str) -> None:
        self.history.count += 1
        self.history.flips.append(Flip(now, check, to.value, why))

    def reason(self, now: int) -> str:
        """Why the guest gets no traffic, for display; "" = it may have traffic."""
        if self.available:
            return ""
        against = [veto.why for veto in self.vetoes.values()]
        against += [detector.why for detector in self._counting if detector.state is not CheckState.PASSING]
        if against:
            return "; ".join(against)
        left = self._needed(now) - (now - (self._passing_since or now))
        falls = self.history.recent_falls(now)
        fallen = f" after {falls} falls within a minute" if falls > 1 else ""
        return f"passing, held down for another {milliseconds(max(left, 0))}{fallen}"

    def evidence(self, now: int) -> list[Check]:
        """Every check, and every veto against the guest, as the API shows them."""
        rows = [
            Check(
                check=detector.label,
                state=detector.state.value,
                why=detector.why,
                last_good_ms=_ago(now, detector.last_good),
                latency_ms=None if detector.last_latency is None else round(detector.last_latency / 1e6, 3),
                changed_ms=_ago(now, detector.changed),
                falls=detector.falls,
                late=detector.stale,
                dry_run=True if detector.label in self._told else UNSET,
            )
            for detector in self.detectors.values()
        ]
        rows += [
            Check(check=name, state=CheckState.FAILING.value, why=veto.why, changed_ms=_ago(now, veto.since))
            for name, veto in self.vetoes.items()
        ]
        return rows


def _ago(now: int, at: int | None) -> float | None:
    """How long ago (milliseconds) something was."""
    return None if at is None else round((now - at) / 1e6, 1)
