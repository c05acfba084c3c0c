# SPDX-License-Identifier: GPL-2.0-only
"""How long traffic was affected by a fault: from the fault to the first frame that bypassed the hop.

The fault itself is not observed. It lies between the last proof that the hop worked (the time at which the newest
heartbeat that came back was sent) and its detection, so two times are kept: `at_most` from the last proof, and
`detected` from the detection. The end is exact: the datapath records when a frame first bypasses the hop (steer.h,
`lease.skipped`). Without traffic there is no first frame; if the hop recovers before one arrives, nothing is measured.
Pure; the object lives as long as bypassd, its measurements longer (`dump`, `restore`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from appliance.api.schema.guests import Bypassed
from appliance.causes import Cause
from appliance.health.latency_limit import percentile

KEPT = 512


@dataclass(frozen=True)
class Fault:
    """A hop failed. Times in ns of CLOCK_MONOTONIC; `proof` = the last time at which it was proved to work."""

    cause: Cause
    proof: int | None
    detected: int


@dataclass(frozen=True)
class Measured:
    """One measurement, in ns; `at_most` None: the hop had never been proved to work."""

    cause: str
    at_most: int | None
    detected: int


@dataclass
class BypassLatency:
    """The measurements of one hop."""

    kept: deque[Measured] = field(default_factory=lambda: deque(maxlen=KEPT))
    pending: Fault | None = None

    def fell(self, fault: Fault) -> None:
        """The hop lost its traffic. A second cause of the same failure does not count."""
        if self.pending is None:
            self.pending = fault

    def back(self) -> None:
        """The hop may have traffic again."""
        self.pending = None

    def first_frame(self, at: int) -> Measured | None:
        """The first frame bypassed the hop at `at` (0: none yet). Returns the measurement, once per failure."""
        fault = self.pending
        if fault is None or at == 0 or (fault.proof is not None and at < fault.proof):
            return None  # a frame from before the fault bypassed the hop for another reason
        self.pending = None
        at_most = None if fault.proof is None else at - fault.proof
        found = Measured(fault.cause.value, at_most, max(at - fault.detected, 0))
        self.kept.append(found)
        return found

    def summary(self) -> list[Bypassed]:
        """By cause: number of faults and percentiles, as the API shows them."""
        rows = []
        for cause in sorted({one.cause for one in self.kept}):
            ours = [one for one in self.kept if one.cause == cause]
            bounds = [one.at_most for one in ours if one.at_most is not None]
            noticed = [one.detected for one in ours]
            rows.append(
                Bypassed(
                    cause=cause,
                    runs=len(ours),
                    at_most_p50_ms=_ms(bounds, 0.5),
                    at_most_p99_ms=_ms(bounds, 0.99),
                    at_most_max_ms=_ms(bounds, 1.0),
                    detected_p50_ms=_ms(noticed, 0.5),
                    detected_p99_ms=_ms(noticed, 0.99),
                    detected_max_ms=_ms(noticed, 1.0),
                )
            )
        return rows

    def dump(self) -> list[tuple[str, int | None, int]]:
        """The measurements, to be written to a file."""
        return [(one.cause, one.at_most, one.detected) for one in self.kept]

    def restore(self, rows: Iterable[tuple[str, int | None, int]]) -> None:
        """Restore what `dump` returned to an earlier bypassd."""
        self.kept.extend(Measured(*row) for row in rows)


def _ms(values: list[int], share: float) -> float | None:
    """A percentile of nanoseconds, in milliseconds."""
    value = percentile(values, share)
    return None if value is None else round(value / 1e6, 3)
