# SPDX-License-Identifier: GPL-2.0-only
"""Overloaded or dead: a modelled guest with queues before it, floods, hangs and bursts, in simulated time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from appliance.health.detector import Carried, CheckState, Detector, Good, Limits, Tick
from appliance.health.overload import FLOOR, Look, Overload, Sample
from appliance.steering.kernel.layout import GATE_BURST_NS

MS = 1_000_000
STEP = MS // 2
LIMITS = Limits(interval=20 * MS, misses=2, rises=2)
RING, VIRTIO = 500, 1024


@dataclass
class Guest:
    """A tap's queue, the guest's ring, and a server of `capacity` frames a second; `None` in a queue is a frame.

    `passes`: the share of frames that it does not drop by its own rules. `hangs`: from when nothing comes out (ns);
    `halves`: from when one of its two threads hangs, that of the heartbeats.
    """

    capacity: int
    passes: float = 1.0
    hangs: int = 1 << 62
    halves: int = 1 << 62
    inside: int = 0  # its application's queue, which drops silently; 0: none
    seed: int = 1
    now: int = 0
    gate: int = 0
    used: int = 0
    lost = taken = came = over = 0
    beats: list[tuple[int, int]] = field(default_factory=list)  # came out: when, when sent

    def __post_init__(self) -> None:
        self.tap: deque[int | None] = deque()
        self.ring: deque[int | None] = deque()
        self.work: deque[int | None] = deque()
        self.random = random.Random(self.seed)
        self._done = 0.0

    def put(self, item: int) -> None:
        """A heartbeat, past the gate."""
        if len(self.tap) < RING:
            self.tap.append(item)
        else:
            self.lost += 1

    def frames(self, number: int) -> None:
        """Frames of the link, by the gate."""
        if self.gate:
            self.used, cost = max(self.used, self.now), 10**9 // self.gate
            room = max((self.now + GATE_BURST_NS - self.used) // cost + 1, 0)
            self.over += max(number - room, 0)
            number = min(number, room)
            self.used += number * cost
        fit = min(number, RING - len(self.tap))
        self.tap.extend([None] * fit)
        self.lost += number - fit

    def step(self) -> None:
        """What the guest does in one step."""
        hung = self.now >= self.hangs
        while self.tap and len(self.ring) < VIRTIO:
            self.ring.append(self.tap.popleft())
            self.taken += 1
        if hung:
            return
        queue = self.ring
        if self.inside:
            queue = self.work
            while self.ring:
                item = self.ring.popleft()
                if len(self.work) < self.inside:
                    self.work.append(item)
        self._done += self.capacity * STEP / 1e9
        while self._done >= 1 and queue:
            self._done -= 1
            item = queue.popleft()
            if self.now >= self.halves and (item is not None or self.random.random() < 0.5):
                continue
            if item is not None:
                self.beats.append((self.now, item))
            elif self.random.random() < self.passes:
                self.came += 1
        self._done = min(self._done, 1.0)


@dataclass
class Run:
    """What a run showed: when the check fell (ns), and how the limit went."""

    falls: list[int]
    rates: list[int]
    overload: Overload
    guest: Guest
    latencies: list[int]
    carried: float = 0.0  # frames a second that came out, in the second half


def run(guest: Guest, offered: Callable[[int], float], seconds: float, limits: Limits = LIMITS) -> Run:
    """`offered(now)`: frames a second on the link."""
    overload, detector = Overload(limits), Detector("in-band", limits)
    found = Run([], [], overload, guest, [])
    sent = answered = -1
    latency = None
    due, owed, half = 0, 0.0, 0
    while guest.now < seconds * 1e9:
        owed += offered(guest.now) * STEP / 1e9
        guest.frames(int(owed))
        owed -= int(owed)
        guest.step()
        for at, when in guest.beats:
            detector.step(at, Good(when, at - when))
            answered, latency = max(answered, when), at - when
            found.latencies.append(latency)
        guest.beats.clear()
        now = guest.now
        if now % (limits.interval // 2) == 0:
            sample = Sample(guest.taken, guest.lost, guest.came, guest.over)
            proof = overload.proof(now, sample)
            if proof is not None and sent > answered:
                detector.step(now, Carried(proof))
        if now >= due:
            due += limits.interval
            sample = Sample(guest.taken, guest.lost, guest.came, guest.over)
            full = len(guest.tap) >= RING
            overload.look(now, sample, Look(sent > answered, full, latency))
            guest.gate = overload.rate
            found.rates.append(overload.rate)
            guest.put(now)
            sent = now
        was = detector.state
        detector.step(now, Tick())
        if was is CheckState.PASSING and detector.state is not CheckState.PASSING:
            found.falls.append(now)
        if not half and now >= seconds * 5e8:
            half = guest.came
        guest.now += STEP
    found.carried = (guest.came - half) / (seconds / 2)
    return found


@pytest.mark.parametrize("times", [1.2, 2, 4, 10, 50])
@pytest.mark.parametrize("capacity", [1_000, 5_000, 20_000])
def test_a_healthy_guest_is_not_bypassed_by_a_flood(capacity: int, times: float) -> None:
    """From no traffic at once to many times its capacity: no fall, it keeps forwarding, and its queue stays short."""
    found = run(Guest(capacity), lambda now: 0 if now < 10**8 else capacity * times, 6 if capacity < 5000 else 3)
    assert found.falls == []
    assert found.overload.active
    assert found.carried > capacity * 0.6
    assert sorted(found.latencies[-150:])[75] < 20 * MS


@pytest.mark.parametrize("load", [0.1, 0.9])
def test_a_guest_that_takes_its_time_is_no_overload(load: float) -> None:
    """Heartbeats that always take long, with no traffic too, say nothing about its load."""
    overload = Overload(LIMITS)
    for number in range(100):
        count = int(number * 400 * load)
        overload.look(number * 20 * MS, Sample(count, 0, count, 0), Look(waiting=number % 3 == 0, latency=30 * MS))
    assert not overload.active


def test_what_the_guest_drops_by_its_rules_is_no_overload() -> None:
    found = run(Guest(40_000, passes=0.05), lambda now: 20_000, 1)
    assert (found.falls, found.overload.active) == ([], False)


def test_a_guest_that_drops_most_of_a_flood_is_overloaded_all_the_same() -> None:
    found = run(Guest(20_000, passes=0.05), lambda now: 0 if now < 10**8 else 200_000, 3)
    assert found.falls == []
    assert found.carried > 20_000 * 0.05 * 0.5


def test_queues_within_the_guest() -> None:
    """Its tap never fills: the frames are lost where nobody sees it, the heartbeats with them."""
    found = run(Guest(5_000, inside=300), lambda now: 0 if now < 10**8 else 50_000, 3)
    assert found.falls == []
    assert found.overload.active


@pytest.mark.parametrize("after", [0, 3, 11, 19])
@pytest.mark.parametrize("load", [0, 0.5, 4, 10])
def test_a_guest_that_hangs_is_found_as_ever(load: float, after: int) -> None:
    """Within 20 ms x 2 and the margin of its last work, whatever it is offered, also while it is overloaded."""
    hangs = 10**9 + after * MS
    found = run(Guest(20_000, hangs=hangs), lambda now: 20_000 * load, 1.2)
    assert len(found.falls) == 1
    assert found.falls[0] - hangs <= LIMITS.window + LIMITS.interval + STEP


@pytest.mark.parametrize("load", [0.5, 4, 10])
def test_a_guest_of_which_half_hangs_is_found(load: float) -> None:
    """Heartbeats stop, and half of the frames come: they excuse it only until the limit is lowest."""
    found = run(Guest(20_000, halves=10**9), lambda now: 20_000 * load, 2)
    assert len(found.falls) == 1
    assert found.falls[0] - 10**9 < 600 * MS


@pytest.mark.parametrize("seed", range(24))
def test_any_flood_by_any_pattern(seed: int) -> None:
    """Pulses of any length and strength, any heartbeat: a healthy guest never falls, one that hangs does in time."""
    chosen = random.Random(seed)
    interval, misses = chosen.choice([(20, 2), (20, 3), (50, 2), (100, 3)])
    limits = Limits(interval * MS, misses, rises=2)
    capacity, times = chosen.choice([2000, 5000, 20_000]), chosen.choice([1.05, 1.3, 2, 4, 10, 30])
    on, period = chosen.uniform(0.01, 1.5), chosen.uniform(1.5, 3)
    calm = chosen.choice([0, 0.05, 0.5, 0.9])
    hangs = chosen.choice([1 << 62, int(chosen.uniform(1, 1.5) * 1e9)])
    guest = Guest(
        capacity, chosen.choice([1, 1, 0.5]), hangs=hangs, inside=chosen.choice([0, 0, 100, 300, 1000]), seed=seed
    )

    def offered(now: int) -> float:
        return 0 if now < 2 * 10**8 else capacity * (times if now / 1e9 % period < on else calm)

    found = run(guest, offered, 2, limits)
    assert len(found.falls) == (hangs < 1 << 62)
    for fall in found.falls:
        assert 0 <= fall - hangs <= limits.window + limits.interval + STEP


def test_the_overload_ends_when_it_is_over() -> None:
    found = run(Guest(5_000), lambda now: 50_000 if 10**8 < now < 10**9 else 1_000, 12)
    assert found.falls == []
    assert max(found.rates) > FLOOR
    assert not found.overload.active


def test_a_single_burst_is_no_overload() -> None:
    """Its queues hold it, and the heartbeats come."""
    found = run(Guest(100_000), lambda now: 900_000 if 10**8 <= now < 10**8 + MS else 1000, 0.3)
    assert found.falls == []
    assert max(found.rates) == 0


def test_without_counters_nothing_changes() -> None:
    overload = Overload(LIMITS)
    for now in range(0, 200 * MS, 20 * MS):
        overload.look(now, None, Look(waiting=True, refused=True))
        assert overload.proof(now, None) is None
    assert not overload.active


def test_a_rule_that_bypasses_it_altogether_does_not_raise_the_limit() -> None:
    """Heartbeats come in time because the guest gets nothing: that says nothing about what it carries."""
    overload = Overload(LIMITS)
    sample = Sample(0, 0, 0, 0)
    for number, lost in enumerate((0, 10, 20)):
        overload.look(number * 20 * MS, Sample(400 * number, lost, 400 * number, 0), Look(waiting=False))
    began = overload.rate
    assert began > FLOOR
    for number in range(3, 100):
        sample = Sample(800, 20, 800, 1000 * number)
        overload.look(number * 20 * MS, sample, Look(waiting=False, latency=MS))
    assert overload.rate == began
