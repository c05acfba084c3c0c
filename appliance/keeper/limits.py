# SPDX-License-Identifier: GPL-2.0-only
"""The keeper's time limits: for bypassd, a relay, the watchdog and itself. Nanoseconds."""

from __future__ import annotations

from typing import NamedTuple

MS = 1_000_000
SECOND = 1000 * MS
FAR = 1 << 62  # later than anything


class Limits(NamedTuple):
    """The keeper's time limits in nanoseconds."""

    checkin: int = SECOND  # bypassd may be silent this long; time spent waiting for a processor does not count
    looping: int = 5 * SECOND  # processor time that a silent bypassd may use before it is killed
    silent: int = 15 * SECOND  # after this it is killed in any case; time in which the keeper stood still not counted
    # A start lasts until the first check-in that is not "hold". It is killed if, without progress, bypassd has neither
    # run nor waited for a processor for `starting_idle`, or has used `starting` of processor time, or in any case after
    # `starting_longest`. All three double after each start that was killed, up to `starting_most` times their value:
    # with fixed limits, a machine that is too slow for them would never come up.
    starting_idle: int = 60 * SECOND
    starting: int = 120 * SECOND
    starting_longest: int = 900 * SECOND
    starting_most: int = 8
    grace: int = 30 * SECOND  # the relay is held this long after the last check-in that asked for a position
    # (at least `checkin` while bypassd serves: check-ins are not continuous)
    ending: int = 5 * SECOND  # an orderly stop of bypassd
    backoff_first: int = 100 * MS  # before bypassd is restarted; doubles
    backoff_last: int = 30 * SECOND
    healthy: int = 10 * SECOND  # after serving this long the back-off starts from its first value
    retry: int = SECOND  # between attempts to open a missing watchdog or relay line
    stall: int = 200 * MS  # if our own step is later than this, nobody else is blamed for being late
    verify: int = SECOND  # between two reads of the relay line
    answer: int = 2 * SECOND  # a relay may take this long to carry out an order; bypassd waits for 3 s
    watchdog_start_ms: int = 10_000  # until bypassd has sent the configured timeout
    watchdog_stop_ms: int = 60_000  # an orderly stop or reboot of the machine may take this long from the keeper's end
