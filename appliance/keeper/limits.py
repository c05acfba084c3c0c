# SPDX-License-Identifier: GPL-2.0-only
"""The keeper's times: how long it waits for bypassd, a relay, the watchdog and itself. Nanoseconds."""

from __future__ import annotations

from typing import NamedTuple

MS = 1_000_000
SECOND = 1000 * MS
FAR = 1 << 62  # later than anything


class Limits(NamedTuple):
    """The keeper's times in nanoseconds."""

    checkin: int = SECOND  # bypassd may be silent this long, time in which it got no processor not counted
    looping: int = 5 * SECOND  # processor time that a silent bypassd may use before it is given up
    silent: int = 15 * SECOND  # it is given up at the latest, time in which the keeper stood still not counted
    # A start, up to the first check-in that is not "hold", is ended when it has made no progress while bypassd neither
    # ran nor waited for a processor for `starting_idle`, or used `starting` of processor time, or in any case for
    # `starting_longest`. All three double after a start that was ended so, up to `starting_most` times: a fixed limit
    # ended every start on a machine that was slower than the limit, again and again.
    starting_idle: int = 60 * SECOND
    starting: int = 120 * SECOND
    starting_longest: int = 900 * SECOND
    starting_most: int = 8
    grace: int = 30 * SECOND  # the relay is held this long after the last check-in that asked for a position
    # (at least `checkin` while bypassd serves: check-ins are not continuous)
    ending: int = 5 * SECOND  # an orderly end of bypassd
    backoff_first: int = 100 * MS  # before bypassd is started again; doubles
    backoff_last: int = 30 * SECOND
    healthy: int = 10 * SECOND  # served this long: the back-off starts again from its first value
    retry: int = SECOND  # a missing watchdog or relay line is tried again
    stall: int = 200 * MS  # our own step is later than this: nobody else is blamed for being late
    verify: int = SECOND  # the relay line is read back
    watchdog_start_ms: int = 10_000  # until bypassd has told the configured timeout
    watchdog_stop_ms: int = 60_000  # an orderly stop or reboot of the machine may take this long from the keeper's end
