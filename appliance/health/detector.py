# SPDX-License-Identifier: GPL-2.0-only
"""One check of one guest as a pure detector: evidence and time go in, actions come out.

A detector rises after `rises` pieces of good evidence, spread over as many intervals. It falls when the last good
evidence is older than its window, or after `misses` explicit failures in a row. Until it rises for the first time it is
`unknown`, which counts as not passing: the guest is bypassed until it is proved to work.

Evidence carries the time *for which* it holds: an in-band heartbeat that was sent at T and came back proves that the
guest forwarded frames at some time after T, however late we read it. A stalled reader therefore cannot make old
evidence look fresh. Nothing here reads a clock. A detector lives as long as one run of its guest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

from appliance.causes import Cause

LATENESS = 1_500_000
"""Time (ns) for which evidence holds at least beyond its intervals: the event loop's timers are up to 1 ms late,
because Python waits in whole milliseconds, and an answer takes its time. It counts for intervals below 6 ms."""


class CheckState(Enum):
    """What a check says about its guest."""

    UNKNOWN = "unknown"  # nothing proved yet
    PASSING = "passing"
    FAILING = "failing"


@dataclass(frozen=True)
class Limits:
    """How a check is judged. `interval` is in nanoseconds, `misses` and `rises` are counts."""

    interval: int
    misses: int
    rises: int

    @cached_property
    def margin(self) -> int:
        """Scheduling margin (ns): a quarter of the interval, for timers and reads that are slightly late."""
        return self.interval // 4

    @cached_property
    def window(self) -> int:
        """How long one good piece of evidence holds (ns): `misses` intervals and the margin, or `LATENESS`."""
        return self.interval * self.misses + max(self.margin, LATENESS)


@dataclass(frozen=True)
class Good:
    """The check succeeded. `at` = the time (ns) for which that is proved; `latency` in ns where there is one."""

    at: int
    latency: int | None = None


@dataclass(frozen=True)
class Bad:
    """The check was answered, and the answer is bad."""

    why: str


@dataclass(frozen=True)
class Carried:
    """Frames of the traffic passed through the guest at `at` (ns). Keeps a check passing, but cannot make it rise."""

    at: int


@dataclass(frozen=True)
class Tick:
    """Time passed."""


Event = Good | Bad | Carried | Tick


@dataclass(frozen=True)
class Rose:
    """The check passes from now on."""


@dataclass(frozen=True)
class Fell:
    """The check fails from now on; `why` is for display."""

    why: str


@dataclass(frozen=True)
class Extended:
    """Fresh evidence while passing: it holds until `until`."""

    until: int


Action = Rose | Fell | Extended


def milliseconds(span: int) -> str:
    """A time in nanoseconds, for display: "2.1 ms"."""
    return f"{span / 1e6:.1f} ms"


@dataclass
class Detector:
    """The state of one check. `label` says what is checked, for display; `cause` is the cause of its falls."""

    label: str
    limits: Limits
    cause: Cause = Cause.HEARTBEAT_LOST
    state: CheckState = CheckState.UNKNOWN
    last_good: int | None = None
    last_latency: int | None = None
    why: str = "no evidence yet"
    changed: int | None = None
    falls: int = 0
    stale: int = 0
    _goods: int = field(default=0, repr=False)
    _counted: int | None = field(default=None, repr=False)
    _bads: int = field(default=0, repr=False)

    @property
    def expires(self) -> int | None:
        """When the last good evidence expires; None = there is none."""
        return None if self.last_good is None else self.last_good + self.limits.window

    def overdue(self, now: int) -> bool:
        """Whether the last good evidence has expired: only then does time alone change anything."""
        return self.last_good is not None and now >= self.last_good + self.limits.window

    def shorten_proof(self) -> None:
        """Rise after one piece of good evidence: for a guest that was proved to work before bypassd restarted."""
        self._goods = max(self._goods, self.limits.rises - 1)

    def step(self, now: int, event: Event) -> list[Action]:
        """Process one event at time `now` (ns, never going backwards); returns the resulting actions."""
        match event:
            case Good():
                return self._good(now, event)
            case Bad():
                return self._bad(now, event)
            case Carried(at=at):
                return self._carried(now, at)
            case Tick():
                return self._expire(now)

    def _good(self, now: int, event: Good) -> list[Action]:
        if event.at + self.limits.window <= now:
            self.stale += 1
            age = milliseconds(now - event.at)
            return self._expire(now, f"{self.label}: answers arrive {age} late, after their evidence has expired")
        actions = self._expire(now)
        if self.last_good is not None and event.at <= self.last_good:
            return actions  # not newer than the last evidence: proves nothing new
        self.last_good, self.last_latency = event.at, event.latency
        self._bads = 0
        # Good answers that arrive within one interval count as one, whether they are a flood or were queued in a hung
        # guest: rising takes time, not volume.
        if self._counted is None or now - self._counted >= self.limits.interval - self.limits.margin:
            self._goods += 1
            self._counted = now
        if self.state is not CheckState.PASSING and self._goods >= self.limits.rises:
            self.state, self.changed, self.why = CheckState.PASSING, now, ""
            actions.append(Rose())
        if self.state is CheckState.PASSING:
            actions.append(Extended(event.at + self.limits.window))
        return actions

    def _carried(self, now: int, at: int) -> list[Action]:
        actions = self._expire(now)
        if self.state is CheckState.PASSING and self.last_good is not None and at > self.last_good:
            self.last_good = at
            actions.append(Extended(at + self.limits.window))
        return actions

    def _bad(self, now: int, event: Bad) -> list[Action]:
        actions = self._expire(now)
        self._bads += 1
        self._goods = 0
        if self.state is CheckState.PASSING and self._bads >= self.limits.misses:
            actions.append(self._fall(now, f"{self.label}: {event.why}"))
        elif self.state is not CheckState.PASSING:
            self.why = f"{self.label}: {event.why}"
        return actions

    def _expire(self, now: int, why: str = "") -> list[Action]:
        if not self.overdue(now):
            return []
        self._goods, self._counted = 0, None
        if self.state is not CheckState.PASSING:
            return []
        assert self.last_good is not None
        return [self._fall(now, why or f"{self.label}: nothing for {milliseconds(now - self.last_good)}")]

    def _fall(self, now: int, why: str) -> Fell:
        self.state, self.changed, self.why = CheckState.FAILING, now, why
        self.falls += 1
        self._goods, self._counted = 0, None
        return Fell(why)
