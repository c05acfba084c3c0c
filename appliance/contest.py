# SPDX-License-Identifier: GPL-2.0-only
"""When what we set right again and again is no accident any more: somebody else wants it otherwise. Pure."""

from __future__ import annotations

WINDOW_NS = 60_000_000_000
OFTEN = 3
"""So many repairs within the window are accidents; one more is a contest, until a window without one has passed."""


class Contest:
    """The repairs of one thing."""

    def __init__(self) -> None:
        self._times: list[int] = []

    def repaired(self, now: int) -> int:
        """It was set right. The number of repairs within the window if that is too often, else 0."""
        recent = [when for when in self._times if now - when < WINDOW_NS]
        self._times = [*recent[-OFTEN:], now]
        return len(self._times) if len(self._times) > OFTEN else 0

    def going_on(self, now: int) -> bool:
        """Whether it is too soon to trust the peace."""
        return bool(self._times) and now - self._times[-1] < WINDOW_NS
