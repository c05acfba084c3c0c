# SPDX-License-Identifier: GPL-2.0-only
"""Green health with zero returned traffic: heartbeats come back, and not one of the frames of the link does. Pure.

A far end that joins the two tunnels for what it knows as heartbeats, or whose application drops everything, looks
healthy. So the frames themselves are counted: those that were sent to the remote, and those that came back.
"""

from __future__ import annotations

LEAST_FRAMES = 32
"""So many frames at least must have been sent and lost before a remote is blamed: a scan that is blocked has fewer."""


class Returned:
    """One remote's count. `timeout`: ns; 0: never judged. Times are ns of CLOCK_MONOTONIC."""

    def __init__(self, timeout: int) -> None:
        self._timeout = timeout
        self._since: int | None = None  # when the oldest frame was sent that nothing came back after
        self._sent_then = 0
        self._last: tuple[int, int] | None = None

    def step(self, now: int, sent: int, returned: int) -> str:
        """The counters now, both since the datapath was loaded; why the remote is at fault, "" if it is not."""
        last, self._last = self._last, (sent, returned)
        if not self._timeout or last is None or returned != last[1] or sent < last[0]:
            self._since = None
            return ""
        if self._since is None:
            if sent > last[0]:
                self._since, self._sent_then = now, last[0]
            return ""
        lost = sent - self._sent_then
        if now - self._since < self._timeout or lost < LEAST_FRAMES:
            return ""
        seconds = (now - self._since) / 1e9
        return f"{lost} frames were sent to it in {seconds:.0f} s, and none came back, although its checks pass"

    def forget(self) -> None:
        """It gets frames anew: what was lost before does not count."""
        self._since, self._last = None, None
