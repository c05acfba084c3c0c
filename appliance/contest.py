# SPDX-License-Identifier: GPL-2.0-only
"""Tells accidental changes of a setting from another program that keeps changing it, by how often we repair it."""

from __future__ import annotations

WINDOW_NS = 60_000_000_000
OFTEN = 3
"""This many repairs within the window are accidents; one more is a contest, until a window passes without one."""


class Contest:
    """The repairs of one thing."""

    def __init__(self) -> None:
        self._times: list[int] = []

    def repaired(self, now: int) -> int:
        """Count a repair. Returns the number of repairs within the window if they are too many, else 0."""
        recent = [when for when in self._times if now - when < WINDOW_NS]
        self._times = [*recent[-OFTEN:], now]
        return len(self._times) if len(self._times) > OFTEN else 0

    @property
    def until(self) -> int:
        """When a window without a repair will have passed; 0 if nothing was repaired."""
        return self._times[-1] + WINDOW_NS if self._times else 0

    def going_on(self, now: int) -> bool:
        """Whether the last repair was less than a window ago."""
        return now < self.until
