# SPDX-License-Identifier: GPL-2.0-only
"""Is a guest that loses heartbeats dead, or does it get more frames than it carries? And how many may it get? Pure.

Heartbeats share the queues of a guest with the traffic, so a flood costs a healthy guest its heartbeats. One `Overload`
looks at one direction through the guest, at each heartbeat and between them while one is missing:

- *A guest from which nothing comes is dead*, whatever it is offered: its evidence ends as ever.
- *A guest from which frames come lives*, for now: where a heartbeat is missing, that frames came out between two looks
  is evidence for the time of the first.
- But frames alone are no excuse. Heartbeats missing or late two times in a row, or a tap whose queue is full, mean
  *overloaded*. From then on a limit holds back what exceeds the guest (steer.h, `struct gate`), so that its queues
  stay short and the heartbeats come through. It falls while they are missing or late, and rises while they are on time.
- *When the limit is as low as it can be*, what was queued before has come out, and still no heartbeat has come, then
  the guest does not lack room. Half of it hangs, and its evidence ends.

Times are nanoseconds of CLOCK_MONOTONIC. An object lives as long as one run of the guest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from appliance.health.detector import Limits

FLOOR = 50
"""Frames a second that a guest gets at least: a few, so that its queues run empty."""
LEAST = 2
"""Frames that prove something: a guest whose application hangs still sends one of its own now and then."""
TARGET_NS = 20_000_000
"""A heartbeat that takes so much longer than the fastest has waited in a queue that need not be so long. A check that
waits longer before it gives the guest up has more: what is far within its window may be the machine's other work."""
DRAIN_NS = 5_000_000_000
"""The longest time for which frames that were queued before the limit was lowest explain that no heartbeat comes."""
QUIET_NS = 10_000_000_000
"""So long nothing must have been too much before an overload is over."""


@dataclass(frozen=True)
class Sample:
    """Frames in one direction, counted since the tap was made."""

    taken: int  # by the guest, out of its tap's queue
    lost: int  # the queue was full
    came: int  # out of the guest at the far side, heartbeats left out
    over: int  # beyond the limit


class Load(Protocol):
    """One direction through a guest, as the datapath knows it (steering/load.py)."""

    def sample(self) -> Sample | None:
        """The counters now; None when they cannot be read."""
        ...

    def limit(self, frames_per_s: int) -> None:
        """Hand the guest no more than that; 0: as much as comes."""
        ...


@dataclass(frozen=True)
class Look:
    """What the heartbeats say: the last one sent is not back (`waiting`), or the tap refused it; how long they take."""

    waiting: bool
    refused: bool = False
    latency: int | None = None


@dataclass
class Overload:
    """See the module. `target`: how long heartbeats may take (ns); `limits`: how their check is judged."""

    limits: Limits
    target: int = TARGET_NS
    rate: int = 0  # the limit, in frames a second; 0: there is none
    carries: int = 0  # what the guest was seen to carry, in frames a second
    _before: Sample | None = field(default=None, repr=False)
    _at: int = 0
    _pressed: bool = False  # at the last look, its queue was full
    _missed: bool = False  # ... a heartbeat was missing or late
    _peak: int = 0  # the most that came out lately, in frames a second
    _fastest: int = 1 << 62
    _since: tuple[int, Sample] | None = field(default=None, repr=False)  # since when frames prove something
    _excusable: bool = True  # frames may stand for heartbeats
    _cut: int = 0
    _lowest: int = 0  # since when the limit is as low as it can be
    _much: int = 0  # when it was last too much

    @property
    def active(self) -> bool:
        """Whether the guest is overloaded."""
        return self.rate > 0

    @property
    def excuses(self) -> bool:
        """Whether late heartbeats say nothing about the guest itself: the limit can still be lowered."""
        return self.rate > FLOOR

    def proof(self, now: int, sample: Sample | None) -> int | None:
        """The time for which frames that came out since prove that the guest forwards; None: they prove nothing."""
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
            self._fastest = look.latency  # it is slow with hardly a frame to forward: so that is what it needs
        self._steer(now, look, taken * 10**9 // span, over=sample.over > before.over, late=late)
        if self.active and now - self._much > QUIET_NS:
            self.rate = 0

    def _steer(self, now: int, look: Look, served: int, *, over: bool, late: bool) -> None:
        """Lower the limit while heartbeats do not come in time; raise it while they do, and frames are held back."""
        if look.waiting:
            self._set(now, self.rate // 2)
        elif late:
            assert look.latency is not None
            if now - self._cut > look.latency + self.limits.interval:  # what the last one does shows only then
                self.carries = min(served, self.rate)
                self._set(now, self.carries * 4 // 5)
        elif over and served * 2 >= self.rate:  # else it was not handed what it may be (rules may bypass it altogether)
            near = self.rate * 10 >= self.carries * 7
            self._set(now, self.rate + max(self.rate // (20 if near else 2), 1))

    def _set(self, now: int, rate: int) -> None:
        if rate < self.rate:
            self._cut = now
        if rate <= FLOOR and self.rate != FLOOR:
            self._lowest = now
        self.rate = max(rate, FLOOR)
