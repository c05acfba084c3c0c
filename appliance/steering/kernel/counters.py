# SPDX-License-Identifier: GPL-2.0-only
"""The datapath's counters as plain data. Every frame is in exactly one outcome of the device it came from.

An outcome is a decision. A frame that should have been sent but was not also counts as lost, twice: under the device
where it arrived, so that frames in = frames out + dropped by cause; and under the device that did not send it, where
the cause is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from appliance.steering.kernel.layout import (
    DROPS,
    DeviceCounterValue,
    HopCounterValue,
    Loss,
    LossCounterValue,
    Outcome,
    Reason,
    RuleCounterValue,
    Side,
)


@dataclass(frozen=True)
class DeviceCount:
    """Frames and bytes received on one device, by outcome.

    `lost`: those that another device should have sent but did not. `unsent`: frames from other devices that this one
    should have sent.
    """

    frames: dict[Outcome, int]
    octets: dict[Outcome, int]
    lost: dict[Loss, int] = field(default_factory=dict)
    unsent: dict[Loss, int] = field(default_factory=dict)

    @classmethod
    def of(cls, values: list[DeviceCounterValue], losses: Sequence[LossCounterValue] = ()) -> DeviceCount:
        """Sum over the CPUs."""
        return cls(
            {outcome: sum(value.outcome[outcome].frames for value in values) for outcome in Outcome},
            {outcome: sum(value.outcome[outcome].bytes for value in values) for outcome in Outcome},
            {loss: sum(value.came[loss] for value in losses) for loss in Loss},
            {loss: sum(value.unsent[loss] for value in losses) for loss in Loss},
        )

    @property
    def total(self) -> int:
        """Frames received."""
        return sum(self.frames.values())

    @property
    def dropped(self) -> int:
        """Frames received that never left, each for a named reason."""
        return sum(self.frames[outcome] for outcome in DROPS) + sum(self.lost.values())


@dataclass(frozen=True)
class RuleCount:
    """Frames from ports that a rule matched, by result."""

    frames: int
    octets: int
    to_hop: int
    bypassed: int
    blocked: int
    excess: int
    shunted: int = 0

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
            sum(v.shunted for v in values),
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
    copies: int = 0  # frames copied to it as a mirror
    copied_octets: int = 0
    uncopied: int = 0  # of which the kernel could make no copy

    @classmethod
    def of(cls, values: list[HopCounterValue], taps: dict[tuple[str, Side], DeviceCount]) -> HopCount:
        """Sum over the CPUs."""
        return cls(
            sum(v.to.frames for v in values),
            sum(v.to.bytes for v in values),
            {
                reason: sum(v.skipped[reason] for v in values)
                for reason in Reason
                if reason not in (Reason.TAKEN, Reason.MIRRORED)
            },
            sum(v.bad_tag for v in values),
            sum(v.returned_unmatched for v in values),
            taps,
            sum(v.copies.frames for v in values),
            sum(v.copies.bytes for v in values),
            sum(v.uncopied for v in values),
        )

    @property
    def unsent(self) -> dict[Loss, int]:
        """Frames for it that its taps did not deliver."""
        return {loss: sum(tap.unsent.get(loss, 0) for tap in self.taps.values()) for loss in Loss}

    @property
    def shunted(self) -> int:
        """Frames that skipped it because it has shunted their flows."""
        return self.skipped.get(Reason.SHUNTED, 0)

    @property
    def from_frames(self) -> int:
        """Frames that came out of it. Heartbeats are excluded, as in the frames sent to it."""
        return sum(tap.total - tap.frames.get(Outcome.HEARTBEAT, 0) for tap in self.taps.values())


@dataclass(frozen=True)
class Counters:
    """All counters, read at about the same time (the datapath keeps running)."""

    ports: dict[tuple[str, Side], DeviceCount]
    hops: dict[str, HopCount]
    rules: dict[str, RuleCount]
    unknown: DeviceCount  # devices that carry the program and are not (any more) ours
