# SPDX-License-Identifier: GPL-2.0-only
"""All checks of one guest as one verdict, with its evidence.

A guest may have traffic while every one of its checks passes, and until the first of them would expire. A guest that
keeps falling must stay proved for longer each time before it gets traffic again (hold-down), so that a flapping guest
does not flap the traffic. Pure; lives as long as one run of the guest, the history of flips longer.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from appliance.health.detector import Detector, Event, Extended, Fell, Rose, State, milliseconds

HOLD_FIRST_NS = 1_000_000_000
HOLD_LIMIT_NS = 60_000_000_000
FLAP_MEMORY_NS = 60_000_000_000
"""A fall within the last minute counts; from the second on, the hold-down is 1 s and doubles up to 60 s."""


@dataclass(frozen=True)
class Available:
    """The guest may have traffic until `until`, unless fresh evidence says otherwise."""

    until: int


@dataclass(frozen=True)
class Unavailable:
    """A check that passed fails: `check` is its label, `why` for a person."""

    check: str
    why: str


Decision = Available | Unavailable


@dataclass(frozen=True)
class Flip:
    """One change of a check. `at` in nanoseconds of CLOCK_MONOTONIC."""

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
    """Falls and flips of a guest, kept over its restarts."""

    flips: deque[Flip] = field(default_factory=lambda: deque(maxlen=50))
    falls: deque[int] = field(default_factory=lambda: deque(maxlen=64))
    count: int = 0

    def recent_falls(self, now: int) -> int:
        """How many times the guest became unavailable within the last minute."""
        return sum(1 for at in self.falls if now - at < FLAP_MEMORY_NS)


class Verdict:
    """Holds the detectors of one guest and decides from all of them."""

    def __init__(self, detectors: list[Detector], history: History) -> None:
        if not detectors:
            raise ValueError("a verdict without a check would be without evidence")
        self.detectors = {detector.label: detector for detector in detectors}
        self.history = history
        self.available = False
        self._passing_since: int | None = None

    def forget(self) -> None:
        """The guest started over: what was proved before counts no more."""
        for check, old in list(self.detectors.items()):
            self.detectors[check] = Detector(check, old.limits, falls=old.falls)
        self.available, self._passing_since = False, None

    @property
    def until(self) -> int:
        """Until when all present evidence holds: the lease may never be longer. 0 = some check never succeeded."""
        return min(detector.expires or 0 for detector in self.detectors.values())

    def step(self, now: int, check: str, event: Event) -> list[Decision]:
        """One event for one check."""
        decisions: list[Decision] = []
        fresh = False
        for action in self.detectors[check].step(now, event):
            match action:
                case Rose():
                    self._note(now, check, State.PASSING, "")
                case Fell(why=why):
                    self._note(now, check, State.FAILING, why)
                    self._passing_since = None
                    if self.available:
                        self.available = False
                        self.history.falls.append(now)
                        decisions.append(Unavailable(check, why))
                case Extended():
                    fresh = True
        if fresh and all(detector.state is State.PASSING for detector in self.detectors.values()) and self.until > now:
            if self._passing_since is None:
                self._passing_since = now
            if self.available or now - self._passing_since >= hold_down(self.history.recent_falls(now)):
                self.available = True
                decisions.append(Available(self.until))
        return decisions

    def _note(self, now: int, check: str, to: State, why: str) -> None:
        self.history.count += 1
        self.history.flips.append(Flip(now, check, to.value, why))

    def reason(self, now: int) -> str:
        """Why the guest gets no traffic, for a person; "" = it may have traffic."""
        if self.available:
            return ""
        failing = [detector for detector in self.detectors.values() if detector.state is not State.PASSING]
        if failing:
            return "; ".join(detector.why for detector in failing)
        left = hold_down(self.history.recent_falls(now)) - (now - (self._passing_since or now))
        return f"passing, held down for another {milliseconds(max(left, 0))} after {len(self.history.falls)} falls"

    def evidence(self, now: int) -> list[dict[str, object]]:
        """One row a check, for `show guest NAME`. Ages and latencies in milliseconds."""
        rows: list[dict[str, object]] = []
        for detector in self.detectors.values():
            good, latency = detector.last_good, detector.last_latency
            rows.append(
                {
                    "check": detector.label,
                    "state": detector.state.value,
                    "why": detector.why,
                    "last_good_ms": None if good is None else round((now - good) / 1e6, 1),
                    "latency_ms": None if latency is None else round(latency / 1e6, 3),
                    "changed_ms": None if detector.changed is None else round((now - detector.changed) / 1e6, 1),
                    "falls": detector.falls,
                    "late": detector.stale,
                }
            )
        return rows
