# SPDX-License-Identifier: GPL-2.0-only
"""Rate limits: how many events at once, and how many a second on average. Pure; times are passed in.

The only implementation of the limits on what a guest, a user or a network peer can cause.
"""

from __future__ import annotations

from collections.abc import Hashable

MANY_SOURCES = 1000
"""At most this many are kept: those whose bucket is full again are dropped first, and then the oldest."""


class TokenBucket:
    """One budget. `rate` is per the caller's unit of time, whatever that is."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst, self._tokens, self._at = rate, burst, burst, now

    def take(self, now: float, count: int = 1) -> float:
        """Take `count` tokens, in advance if need be; returns the time to wait until they are there (0 = now)."""
        self._tokens = self.left(now) - count
        self._at = now
        return max(0.0, -self._tokens / self._rate)

    def allow(self, now: float) -> bool:
        """Take one token if there is one; returns whether there was."""
        if self.left(now) < 1:
            return False
        self.take(now)
        return True

    def left(self, now: float) -> float:
        """The tokens now available."""
        return min(self._burst, self._tokens + (now - self._at) * self._rate)


class Quota:
    """A budget for each source. Times are nanoseconds, `rate` is per second."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate / 1e9, burst
        self._buckets: dict[Hashable, TokenBucket] = {}

    def allow(self, now: int, source: Hashable) -> bool:
        """Whether the source may do it once more now; if so, it is counted."""
        bucket = self._buckets.get(source)
        if bucket is None:
            if len(self._buckets) >= MANY_SOURCES:
                self._buckets = {each: kept for each, kept in self._buckets.items() if kept.left(now) < self._burst}
                while len(self._buckets) >= MANY_SOURCES:
                    del self._buckets[next(iter(self._buckets))]  # the oldest
            bucket = self._buckets[source] = TokenBucket(self._rate, self._burst, now)
        return bucket.allow(now)
