# SPDX-License-Identifier: GPL-2.0-only
"""The time at which a message that is read now was sent, at the earliest. Pure.

An agent's heartbeats carry no time, and wait in the socket while bypassd does not run (stopped, or busy). Read
afterwards, the heartbeats of a guest that has hung in the meantime would look fresh. Each message is therefore dated to
the last time at which nothing can have been waiting. As long as the event loop is on time, that is now. After a delay,
everything that is read within one heartbeat interval counts as sent when the loop last ran on time; a guest that is
alive sends another heartbeat in that interval.
"""

from __future__ import annotations

LATE_NS = 50_000_000
"""A tick that is later than this shows a delayed loop. bypassd allows any piece of work as much (loop_watch.py)."""


class Receipt:
    """The receipt of one channel. `interval`: between two messages (ns). Times are nanoseconds of CLOCK_MONOTONIC."""

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self._ran: int | None = None
        self._due = 0
        self._old_until = 0  # what is read before this may have been sent ...
        self._sent = 0  # ... as early as this

    def tick(self, now: int, due: int) -> None:
        """The loop runs at `now`; it is expected again at `due`."""
        if self._delayed(now):
            assert self._ran is not None
            if now >= self._old_until:
                self._sent = self._ran
            self._old_until = now + self.interval
        self._ran, self._due = now, due

    def sent(self, now: int) -> int:
        """The earliest time at which a message that is read now can have been sent."""
        if now < self._old_until:
            return self._sent
        if self._delayed(now):
            assert self._ran is not None
            return self._ran
        return now

    def _delayed(self, now: int) -> bool:
        return self._ran is not None and now > self._due + LATE_NS
