# SPDX-License-Identifier: GPL-2.0-only
"""A guest that is too slow has failed: compares a percentile of its latencies over a span of time with a limit. Pure.

Returns evidence for a detector: `Good` while the percentile over the last `span` is within the limit, `Bad` when it
exceeds the limit persistently: the span is full, and it has late frames at least a third of it apart. With few frames
in a span the 99th percentile is the slowest of them, and one stall of a processor delays several in a row; neither one
late frame nor one such burst fails the check. A failed check stays failed until the percentile is within the limit
again. One object per check; it is reset with the guest.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance.health.detector import Bad, Good, milliseconds

MOST = 4096
"""Latencies kept at most; a faster heartbeat over a longer span is judged by its newest ones."""
LEAST = 2
"""Latencies kept at least: where the span is one interval, the second newest is slightly older than the span."""
APART = 3
"""Late frames at least this fraction of the span apart (a third) are more than a single stall."""


def percentile(values: Sequence[int], share: float) -> int | None:
    """The smallest value that at least `share` of the values do not exceed (nearest rank); None without values."""
    if not values:
        return None
    rank = math.ceil(share * len(values) - 1e-9)  # 0.07 * 100 is a little more than 7
    return sorted(values)[max(rank, 1) - 1]


@dataclass
class LatencyLimit:
    """`limit` and `span` in nanoseconds, `share` of 1."""

    limit: int
    share: float
    span: int
    _seen: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=MOST), repr=False)
    _since: int | None = None
    _slow: bool = False

    def add(self, now: int, sent: int, latency: int) -> Good | Bad | None:
        """One heartbeat came back; None: the percentile is over the limit, but the span is not full yet."""
        if self._seen and now - self._seen[-1][0] > 2 * self.span:
            self.forget()  # nothing of the span is left
        if self._since is None:
            self._since = now
        self._seen.append((now, latency))
        while len(self._seen) > LEAST and self._seen[0][0] < now - self.span:
            self._seen.popleft()
        value = percentile([latency for _, latency in self._seen], self.share)
        assert value is not None
        if value <= self.limit:
            self._slow = False
            return Good(sent, value)
        if now - self._since < self.span * 3 // 4:
            return None
        self._slow = self._slow or self._stays(now)
        if not self._slow:
            return Good(sent, value)
        return Bad(
            f"{self.share:.0%} of the frames take up to {milliseconds(value)} "
            f"(over the last {milliseconds(self.span)}), the limit is {milliseconds(self.limit)}"
        )

    def _stays(self, now: int) -> bool:
        late = [at for at, latency in self._seen if latency > self.limit]
        known = self.span if len(self._seen) < MOST else now - self._seen[0][0]
        return (late[-1] - late[0]) * APART >= known

    def forget(self) -> None:
        """Forget all latencies: the guest restarted."""
        self._seen.clear()
        self._since = None
        self._slow = False
