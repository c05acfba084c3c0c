# SPDX-License-Identifier: GPL-2.0-only
"""The datapath's counters as plain data. Every frame is in exactly one outcome of the device it came from."""

from __future__ import annotations

from dataclasses import dataclass, field

from appliance.steering.kernel.layout import (
    DROPS,
    DeviceCounterValue,
    HopCounterValue,
    Outcome,
    Reason,
    RuleCounterValue,
    Side,
)


@dataclass(frozen=True)
class DeviceCount:
    """Frames and bytes that came in by one device, by what became of them."""

    frames: dict[Outcome, int]
    octets: dict[Outcome, int]

    @classmethod
    def of(cls, values: list[DeviceCounterValue]) -> DeviceCount:
        """Sum over the CPUs."""
        return cls(
            {outcome: sum(value.outcome[outcome].frames for value in values) for outcome in Outcome},
            {outcome: sum(value.outcome[outcome].bytes for value in values) for outcome in Outcome},
        )

    @property
    def total(self) -> int:
        """Frames that came in."""
        return sum(self.frames.values())

    @property
    def dropped(self) -> int:
        """Frames that ended here, each for a named reason."""
        return sum(self.frames[outcome] for outcome in DROPS)


@dataclass(frozen=True)
class RuleCount:
    """Frames from ports that a rule matched, and what came of it."""

    frames: int
    octets: int
    to_hop: int
    bypassed: int
    blocked: int
    excess: int

    @classmethod
    def of(cls, values: list[RuleCounterValue]) -> RuleCount:
        """Sum over the CPUs."""
        return cls(
            sum(v.matched.frames for v in values),
            sum(v.matched.bytes for v in values),
            sum(v.to_hop for v in values),
            sum(v.bypassed for v in values),
            sum(v.blocked for v in values),
            sum(v.excess for v in values),
        )


@dataclass(frozen=True)
class HopCount:
    """Frames sent to a hop, frames that came back (by its taps), and how often it was skipped, and why."""

    to_frames: int
    to_octets: int
    skipped: dict[Reason, int]
    bad_tag: int
    returned_unmatched: int
    taps: dict[tuple[str, Side], DeviceCount] = field(default_factory=dict)  # by segment and side

    @classmethod
    def of(cls, values: list[HopCounterValue], taps: dict[tuple[str, Side], DeviceCount]) -> HopCount:
        """Sum over the CPUs."""
        return cls(
            sum(v.to.frames for v in values),
            sum(v.to.bytes for v in values),
            {reason: sum(v.skipped[reason] for v in values) for reason in Reason if reason is not Reason.TAKEN},
            sum(v.bad_tag for v in values),
            sum(v.returned_unmatched for v in values),
            taps,
        )

    @property
    def from_frames(self) -> int:
        """Frames that came out of it, heartbeats included."""
        return sum(tap.total for tap in self.taps.values())


@dataclass(frozen=True)
class Counters:
    """All of them, read at about one time (the datapath goes on meanwhile)."""

    ports: dict[tuple[str, Side], DeviceCount]
    hops: dict[str, HopCount]
    rules: dict[str, RuleCount]
    unknown: DeviceCount  # devices that carry the program and are not (any more) ours
