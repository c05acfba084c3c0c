# SPDX-License-Identifier: GPL-2.0-only
"""Tells a guest that is dead from one that gets more frames than it can handle, and finds how many it may get. Pure.

Heartbeats share a guest's queues with the traffic, so a healthy guest loses heartbeats in a flood. One `Overload`
judges one direction through the guest, at each heartbeat and between them while one is missing:

- *If nothing comes out of a guest, it is dead*, whatever it is offered: its evidence expires as usual.
- *If frames come out, it is alive*, for now: where a heartbeat is missing, frames that came out between two looks are
  evidence for the time of the first look.
- But frames alone are not enough. Heartbeats missing or late twice in a row, or a tap with a full queue, mean
  *overloaded*. From then on a limit holds back the excess (steer.h, `struct gate`), so that the guest's queues stay
  short and the heartbeats get through. It is lowered while they are missing or late, and raised while they are on time.
- *If the limit is at its lowest*, what was queued before has come out, and still no heartbeat has, then load is not the
  cause. Part of the guest hangs, and its evidence expires.

Times are nanoseconds of CLOCK_MONOTONIC. An object lives as long as one run of the guest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from appliance.health.detector import Limits

FLOOR = 50
"""The lowest limit, in frames a second: a few, so that the guest's queues run empty."""
LEAST = 2
"""Frames that count as evidence: a guest whose application hangs still sends one of its own now and then."""
TARGET_NS = 20_000_000
"""A heartbeat that takes this much longer than the fastest has waited in a queue that is too long. A check with a
longer window allows more: a delay far within its window may come from other load on the machine."""
DRAIN_NS = 5_000_000_000
"""For this long, frames queued before the limit reached its lowest value explain missing heartbeats."""
QUIET_NS = 10_000_000_000
"""An overload is over when the traffic has not been too much for this long."""


@dataclass(frozen=True)
class Sample:
    """Frames in one direction, counted since the tap was made."""

    taken: int  # by the guest, out of its tap's queue
    lost: int  # the queue was full
    came: int  # out of the guest at the far side, without heartbeats
    over: int  # beyond the limit


class Load(Protocol):
    """One direction through a guest, as the datapath sees it (steering/load.py)."""

    def sample(self) -> Sample | None:
        """The counters now; None when they cannot be read."""
        ...

    def limit(self, frames_per_s: int) -> None:
        """Limit the frames handed to the guest; 0: no limit."""
        ...


@dataclass(frozen=True)
class Look:
    """State of the heartbeats: the last one sent is not back (`waiting`), or the tap refused it; how long they take."""

    waiting: bool
    refused: bool = False
    latency: int | None = None


@dataclass
class Overload:
    """See the module. `target`: how long heartbeats may take (ns); `limits`: how their check is judged."""

    limits: Limits
    target: int = TARGET_NS
    rate: int = 0  # the limit, in frames a second; 0: there is none
    carries: int = 0  # the guest's observed capacity, in frames a second
    _before: Sample | None = field(default=None, repr=False)
    _at: int = 0
    _pressed: bool = False  # at the last look, its queue was full
    _missed: bool = False  # ... a heartbeat was missing or late
    _peak: int = 0  # the highest recent rate of frames out of the guest, per second
    _fastest: int = 1 << 62
    _since: tuple[int, Sample] | None = field(default=None, repr=False)  # since when frames count as evidence
    _excusable: bool = True  # frames may stand for heartbeats
    _cut: int = 0
    _lowest: int = 0  # since when the limit is at its lowest
    _much: int = 0  # when it was last too much

    @property
    def active(self) -> bool:
        """Whether the guest is overloaded."""
        return self.rate > 0

    @property
    def excuses(self) -> bool:
        """Whether late heartbeats are no evidence against the guest: the limit can still be lowered."""
        return self.rate > FLOOR

    def proof(self, now: int, sample: Sample | None) -> int | None:
        """The time at which frames that came out since prove that the guest forwarded; None: they prove nothing."""
        if sample is None:
            return None
        since = self._since
        if since is not None and sample.came - since[1].came < LEAST:
            return None
        self._since = now, sample
        return since[0] if since is not None and self._excusable else None

    def look(self, now: int, sample: Sample | None, look: Look) -> None:
        """One look, at a heartbeat. `rate` is the new limit."""
        before, at = self._before, self._at
        self._before, self._at = sample, now
        if sample is None or before is None or now <= at:
            return
        span = now - at
        taken, came = sample.taken - before.taken, sample.came - before.came
        self._peak = max(came * 10**9 // span, self._peak * 49 // 50)
        outside = look.refused or sample.lost > before.lost or sample.over > before.over
        late = look.latency is not None and look.latency > self._fastest + self.target and came >= LEAST
        if look.latency is not None:
            self._fastest = min(self._fastest, look.latency)
        missed, again = late or (look.waiting and came >= LEAST), self._missed
        pressed, self._pressed, self._missed = self._pressed, outside, missed
        if outside or missed:
            self._much = now
        if not self.active:
            if (outside and (pressed or missed)) or (missed and again):
                self.carries = self._peak
                self._set(now, came * 10**9 // span * 4 // 5)
            return
        drains = came > 2 * FLOOR * span // 10**9 + LEAST and now - self._lowest < DRAIN_NS
        self._excusable = self.rate > FLOOR or not look.waiting or drains
        if self.rate == FLOOR and late and not look.waiting and now - self._lowest > DRAIN_NS and look.latency:
            self._fastest = look.latency  # slow with hardly a frame to forward: that is its normal latency
        self._steer(now, look, taken * 10**9 // span, over=sample.over > before.over, late=late)
        if self.active and now - self._much > QUIET_NS:
            self.rate = 0

    def _steer(self, now: int, look: Look, served: int, *, over: bool, late: bool) -> None:
        """Lower the limit while heartbeats are not on time; raise it while they are and frames are held back."""
        if look.waiting:
            self._set(now, self.rate // 2)
        elif late:
            assert look.latency is not None
            if now - self._cut > look.latency + self.limits.interval:  # only then does the last cut show an effect
                self.carries = min(served, self.rate)
                self._set(now, self.carries * 4 // 5)
        elif over and served * 2 >= self.rate:  # else it did not get all that it may (rules may bypass it altogether)
            near = self.rate * 10 >= self.carries * 7
            self._set(now, self.rate + max(self.rate // (20 if near else 2), 1))

    def _set(self, now: int, rate: int) -> None:
        if rate < self.rate:
            self._cut = now
        if rate <= FLOOR and self.rate != FLOOR:
            self._lowest = now
        self.rate = max(rate, FLOOR)
