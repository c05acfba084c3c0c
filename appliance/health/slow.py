# SPDX-License-Identifier: GPL-2.0-only
"""Slow is failed: a percentile of a guest's latencies over a span of time, against a limit. Pure.

Answers with evidence for a detector: `Good` while the percentile of the last `span` is within the limit, `Bad` when it
is over it and the span is filled, so that one late frame after a quiet start is not a verdict. One object a check; it
starts over with the guest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance.health.detector import Bad, Good, milliseconds

MOST = 4096
"""Latencies kept at most; a faster heartbeat over a longer span is judged by its newest ones."""


def percentile(values: Sequence[int], share: float) -> int | None:
    """The smallest value that `share` of the values do not exceed; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


@dataclass
class Slowness:
    """`limit` and `span` in nanoseconds, `share` of 1."""

    limit: int
    share: float
    span: int
    _seen: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=MOST), repr=False)
    _since: int | None = None

    def add(self, now: int, sent: int, latency: int) -> Good | Bad | None:
        """One heartbeat came back; None: it is over the limit, and the span is not filled yet."""
        if self._since is None or (self._seen and now - self._seen[-1][0] > self.span):
            self._since = now  # after a gap as long as the span nothing of it is left
        self._seen.append((now, latency))
        while self._seen[0][0] < now - self.span:
            self._seen.popleft()
        value = percentile([latency for _, latency in self._seen], self.share)
        assert value is not None
        if value <= self.limit:
            return Good(sent, value)
        if now - self._since < self.span * 3 // 4:
            return None
        return Bad(
            f"{self.share:.0%} of the frames take up to {milliseconds(value)} "
            f"(over the last {milliseconds(self.span)}), the limit is {milliseconds(self.limit)}"
        )

    def forget(self) -> None:
        """The guest started over."""
        self._seen.clear()
        self._since = None
