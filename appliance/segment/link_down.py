# SPDX-License-Identifier: GPL-2.0-only
"""`on_unavailable = "link-down"`: when the ports of a segment lose their carrier because a rule lacks hops.

Neighbours with another path (LACP, HSRP, OSPF) take it at once when a link is gone, while frames that are dropped
behind a link that is up are lost until their own timers run out. So both ports are held down, and taken up together
when the hops have been available without a break for the hold-down. Both come up without waiting for each other's
link: a neighbour that passes on the loss of its link waits for ours.

Pure: the time is passed in, ns of CLOCK_MONOTONIC. Lives as long as its segment.
"""

from __future__ import annotations

from typing import Final

SECOND: Final = 1_000_000_000
AFTER_NS: Final = SECOND
"""Hops are missing this long before the ports go down: a link takes seconds to come back."""
START_NS: Final = 10 * SECOND
"""After bypassd has started the guests need this long to show that they work. In between the rule blocks."""
FLAP_NS: Final = 600 * SECOND
"""Ports that go down again this soon stay down twice as long."""
MOST_NS: Final = 60 * SECOND
"""... but no longer than this, unless the hold-down itself is: there may be no other path."""


class LinkDown:
    """Whether a segment's ports are held down. `held`: an earlier bypassd left them down."""

    def __init__(self, *, held: bool = False) -> None:
        self.held = held
        self.detail = "hops were missing when bypassd started" if held else ""
        self.deadline: int | None = None  # when time alone may change it
        self._begun = 0
        self._missing: int | None = None  # since when hops are missing, or
        self._there: int | None = None  # ... are available
        self._released: int | None = None  # when the ports were last taken up
        self._doubled = 0

    def begin(self, now: int) -> None:
        """Guests have not been asked yet."""
        self._begun = now

    def look(self, now: int, missing: str, *, inline: bool, hold: int) -> bool:
        """Whether both ports are to be down. `missing`: what a rule lacks; empty: nothing. `hold`: the hold-down (ns).

        In bypass the neighbours are joined, and holding a port down would change nothing.
        """
        self.deadline = None
        if not inline:
            self.held, self._missing, self._there = False, None, None
            return False
        if missing:
            self._look_down(now, missing)
        else:
            self._look_up(now, hold)
        return self.held

    def _look_down(self, now: int, missing: str) -> None:
        self.detail, self._there = missing, None
        self._missing = now if self._missing is None else self._missing
        if self.held:
            return
        due = max(self._missing + AFTER_NS, self._begun + START_NS)
        if now < due:
            self.deadline = due
            return
        again = self._released is not None and now - self._released < FLAP_NS
        self._doubled = self._doubled + 1 if again else 0
        self.held = True

    def _look_up(self, now: int, hold: int) -> None:
        self._missing = None
        if not self.held:
            return
        self._there = now if self._there is None else self._there
        hold = max(hold, min(max(hold, SECOND) << min(self._doubled, 12), MOST_NS) if self._doubled else 0)
        due = max(self._there + hold, self._begun)
        if now < due:
            self.deadline = due
            return
        self.held, self.detail, self._there, self._released = False, "", None, now
