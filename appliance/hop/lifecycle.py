# SPDX-License-Identifier: GPL-2.0-only
"""The life of a hop (a guest or a remote) as one table: its states, what can happen, and what follows.

Pure. `Hop` (hop.py) takes the moves; the rule for all such tables is in transition.py.
"""

from __future__ import annotations

from enum import Enum

from appliance.transition import Table


class HopState(Enum):
    """Where a hop is in its life. Only those in `SERVING`, and `DRAINING` for established flows, have a lease."""

    DEFINED = "defined"  # in the configuration, never started
    STARTING = "starting"  # being started, or waiting for its turn or its next attempt
    PROVING = "proving"  # up, but has not passed its checks yet
    AVAILABLE = "available"  # passed its checks: gets traffic while its lease lasts
    OVERLOADED = "overloaded"  # works, but gets more frames than it can handle: the excess is held back
    SUSPECT = "suspect"  # was available, then a check failed: gets no traffic until it passes them again
    DRAINING = "draining"  # gets no new flows, by order; also while it is being stopped
    STOPPED = "stopped"  # not running, by order or because it may end on its own and did
    FAILED = "failed"  # cannot be started, or ended too often: needs an operator


class HopEvent(Enum):
    """What can happen to a hop."""

    START = "start"  # by order, or when bypassd starts
    WAIT = "wait"  # other hops start first
    RUNNING = "running"  # it runs and answers (newly started or adopted)
    REFUSED = "refused"  # it cannot be started
    PROVED = "proved"  # every check has passed for long enough
    FELL = "fell"  # a check failed
    OVERLOAD = "overload"  # it gets more frames than it can handle
    RELIEF = "relief"  # ... no longer
    RESET = "reset"  # it restarted by itself
    ENDED = "ended"  # it is gone
    GIVE_UP = "give up"  # it ended too often, or must not be started again
    REST = "rest"  # it shut down in good order and stays down
    DRAIN = "drain"  # by order
    STOP = "stop"  # by order


TABLE: Table[HopState, HopEvent] = Table(
    "a hop",
    {
        (HopState.DEFINED, HopEvent.START): HopState.STARTING,
        (HopState.DEFINED, HopEvent.STOP): HopState.STOPPED,
        (HopState.STARTING, HopEvent.WAIT): HopState.STARTING,
        (HopState.STARTING, HopEvent.RUNNING): HopState.PROVING,
        (HopState.STARTING, HopEvent.REFUSED): HopState.FAILED,
        (HopState.STARTING, HopEvent.ENDED): HopState.STARTING,
        (HopState.STARTING, HopEvent.GIVE_UP): HopState.FAILED,
        (HopState.STARTING, HopEvent.STOP): HopState.STOPPED,
        (HopState.STARTING, HopEvent.REST): HopState.STOPPED,
        (HopState.PROVING, HopEvent.PROVED): HopState.AVAILABLE,
        (HopState.PROVING, HopEvent.RESET): HopState.PROVING,
        (HopState.PROVING, HopEvent.ENDED): HopState.STARTING,
        (HopState.PROVING, HopEvent.DRAIN): HopState.DRAINING,
        (HopState.PROVING, HopEvent.STOP): HopState.DRAINING,
        (HopState.AVAILABLE, HopEvent.FELL): HopState.SUSPECT,
        (HopState.AVAILABLE, HopEvent.RESET): HopState.PROVING,
        (HopState.AVAILABLE, HopEvent.ENDED): HopState.STARTING,
        (HopState.AVAILABLE, HopEvent.DRAIN): HopState.DRAINING,
        (HopState.AVAILABLE, HopEvent.STOP): HopState.DRAINING,
        (HopState.AVAILABLE, HopEvent.OVERLOAD): HopState.OVERLOADED,
        (HopState.OVERLOADED, HopEvent.RELIEF): HopState.AVAILABLE,
        (HopState.OVERLOADED, HopEvent.FELL): HopState.SUSPECT,
        (HopState.OVERLOADED, HopEvent.RESET): HopState.PROVING,
        (HopState.OVERLOADED, HopEvent.ENDED): HopState.STARTING,
        (HopState.OVERLOADED, HopEvent.DRAIN): HopState.DRAINING,
        (HopState.OVERLOADED, HopEvent.STOP): HopState.DRAINING,
        (HopState.SUSPECT, HopEvent.PROVED): HopState.AVAILABLE,
        (HopState.SUSPECT, HopEvent.RESET): HopState.PROVING,
        (HopState.SUSPECT, HopEvent.ENDED): HopState.STARTING,
        (HopState.SUSPECT, HopEvent.DRAIN): HopState.DRAINING,
        (HopState.SUSPECT, HopEvent.STOP): HopState.DRAINING,
        (HopState.DRAINING, HopEvent.START): HopState.PROVING,  # the drain is cancelled
        (HopState.DRAINING, HopEvent.FELL): HopState.DRAINING,  # its established flows lose it
        (HopState.DRAINING, HopEvent.PROVED): HopState.DRAINING,
        (HopState.DRAINING, HopEvent.RESET): HopState.DRAINING,
        (HopState.DRAINING, HopEvent.STOP): HopState.DRAINING,
        # A hop that ends while it is drained stays stopped: somebody is working on it.
        (HopState.DRAINING, HopEvent.ENDED): HopState.STOPPED,
        (HopState.STOPPED, HopEvent.START): HopState.STARTING,
        (HopState.FAILED, HopEvent.START): HopState.STARTING,
        (HopState.FAILED, HopEvent.STOP): HopState.STOPPED,
    },
)

SERVING = frozenset({HopState.AVAILABLE, HopState.OVERLOADED})
"""States in which a hop has traffic, including new flows."""

ALIVE = SERVING | {HopState.PROVING, HopState.SUSPECT, HopState.DRAINING}
"""States in which a hop runs and has answered at least once."""


move = TABLE.after
allowed = TABLE.allows
