# SPDX-License-Identifier: GPL-2.0-only
"""The life of a guest as one table: states, events, and what may follow what.

Pure. A guest takes its moves by `move` and records every change; the rule for all such tables is in transition.py.
Back-off between restarts and the crash-loop limit are here too, as a function of when the guest ended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

from appliance.config.schema import model
from appliance.telemetry.subject import Change
from appliance.transition import Table


class State(Enum):
    """Where a guest is in its life. Only `AVAILABLE`, and `DRAINING` for established flows, have a lease."""

    DEFINED = "defined"  # in the configuration, never started
    STARTING = "starting"  # its process is being started, or waits for its turn or its restart
    PROVING = "proving"  # runs, has not shown yet that it works
    AVAILABLE = "available"  # proved: gets traffic while its lease lasts
    SUSPECT = "suspect"  # was available, a check failed; gets no traffic until it proved itself again
    DRAINING = "draining"  # gets no new traffic, by order; also while it is being stopped
    STOPPED = "stopped"  # not running, by order or because it powered itself off
    FAILED = "failed"  # cannot be started, or ended too often: an operator must look


class Event(Enum):
    """What can happen to a guest."""

    START = "start"  # by order, or at start of bypassd
    WAIT = "wait"  # for guests that come before it
    RUNNING = "running"  # its process runs and answers on QMP (newly started or adopted)
    REFUSED = "refused"  # it cannot be started: image, memory, tap, QEMU's arguments
    PROVED = "proved"  # every check passes, for long enough
    FELL = "fell"  # a check failed
    RESET = "reset"  # the guest rebooted itself
    ENDED = "ended"  # its process ended
    GIVE_UP = "give up"  # it ended too often, or is not to be started again
    REST = "rest"  # it powered itself off, and is let
    DRAIN = "drain"  # by order
    STOP = "stop"  # by order


TABLE: Table[State, Event] = Table(
    "a guest",
    {
        (State.DEFINED, Event.START): State.STARTING,
        (State.DEFINED, Event.STOP): State.STOPPED,
        (State.STARTING, Event.WAIT): State.STARTING,
        (State.STARTING, Event.RUNNING): State.PROVING,
        (State.STARTING, Event.REFUSED): State.FAILED,
        (State.STARTING, Event.ENDED): State.STARTING,
        (State.STARTING, Event.GIVE_UP): State.FAILED,
        (State.STARTING, Event.STOP): State.STOPPED,
        (State.STARTING, Event.REST): State.STOPPED,
        (State.PROVING, Event.PROVED): State.AVAILABLE,
        (State.PROVING, Event.RESET): State.PROVING,
        (State.PROVING, Event.ENDED): State.STARTING,
        (State.PROVING, Event.DRAIN): State.DRAINING,
        (State.PROVING, Event.STOP): State.DRAINING,
        (State.AVAILABLE, Event.FELL): State.SUSPECT,
        (State.AVAILABLE, Event.RESET): State.PROVING,
        (State.AVAILABLE, Event.ENDED): State.STARTING,
        (State.AVAILABLE, Event.DRAIN): State.DRAINING,
        (State.AVAILABLE, Event.STOP): State.DRAINING,
        (State.SUSPECT, Event.PROVED): State.AVAILABLE,
        (State.SUSPECT, Event.RESET): State.PROVING,
        (State.SUSPECT, Event.ENDED): State.STARTING,
        (State.SUSPECT, Event.DRAIN): State.DRAINING,
        (State.SUSPECT, Event.STOP): State.DRAINING,
        (State.DRAINING, Event.START): State.PROVING,  # taken back into service
        (State.DRAINING, Event.FELL): State.DRAINING,  # its established flows lose it
        (State.DRAINING, Event.PROVED): State.DRAINING,
        (State.DRAINING, Event.RESET): State.DRAINING,
        (State.DRAINING, Event.STOP): State.DRAINING,
        # A drained guest that ends stays stopped: somebody is at work on it.
        (State.DRAINING, Event.ENDED): State.STOPPED,
        (State.STOPPED, Event.START): State.STARTING,
        (State.FAILED, Event.START): State.STARTING,
        (State.FAILED, Event.STOP): State.STOPPED,
    },
)

ALIVE = frozenset({State.PROVING, State.AVAILABLE, State.SUSPECT, State.DRAINING})
"""States in which a process runs and answered at least once."""


move = TABLE.after
allowed = TABLE.allows

_CHANGES = {
    State.AVAILABLE: Change.GUEST_AVAILABLE,
    State.SUSPECT: Change.GUEST_SUSPECT,
    State.FAILED: Change.GUEST_FAILED,
}


def change(state: State) -> Change:
    """What it means for the ledger that a guest reached `state`."""
    return _CHANGES.get(state, Change.GUEST_OTHER)


@dataclass(frozen=True)
class Again:
    """Start it again, `after` nanoseconds from now."""

    after: int


@dataclass(frozen=True)
class Rest:
    """Leave it stopped: it powered itself off, and the policy lets it."""


@dataclass(frozen=True)
class GiveUp:
    """Leave it failed; `loop` = it ended too often, else the policy says so."""

    loop: bool


@dataclass
class Restarts:
    """When to start a guest again after it ended. Times in nanoseconds of CLOCK_MONOTONIC."""

    policy: model.Restart = field(default_factory=model.Restart)
    count: int = 0
    _short_runs: deque[int] = field(default_factory=deque)

    def ended(self, now: int, ran_since: int, *, in_order: bool = False) -> Again | Rest | GiveUp:
        """What follows an end. `in_order` = the guest powered itself off. The waits double from one to the next."""
        if self.policy.policy == "on-failure" and in_order:
            return Rest()
        if self.policy.policy == "never":
            return Rest() if in_order else GiveUp(loop=False)
        if now - ran_since >= self.policy.steady:
            self._short_runs.clear()
        self._short_runs.append(now)
        if len(self._short_runs) >= self.policy.attempts:
            return GiveUp(loop=True)
        self.count += 1
        return Again(min(self.policy.first << min(len(self._short_runs) - 1, 40), self.policy.longest))

    def forgive(self) -> None:
        """An operator started it: earlier ends count no more."""
        self._short_runs.clear()
