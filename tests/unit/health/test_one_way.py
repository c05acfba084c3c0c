# SPDX-License-Identifier: GPL-2.0-only
"""One direction through a guest: heartbeats, traffic counters, the limit, and the resulting checks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from appliance.config.schema import model
from appliance.health.checks import Checks
from appliance.health.detector import CheckState
from appliance.health.inband_streams import TapPair
from appliance.health.overload import FLOOR, Sample
from appliance.health.verdict import Available, Decision, History, Unavailable
from appliance.units import Duration

MS = 1_000_000
PAIR = TapPair("tap-l", "tap-w")


class Counters:
    """The traffic of one direction; the test says what was counted."""

    def __init__(self) -> None:
        self.taken = self.lost = self.came = self.over = 0
        self.limits: list[int] = []

    def sample(self) -> Sample:
        return Sample(self.taken, self.lost, self.came, self.over)

    def limit(self, frames_per_s: int) -> None:
        self.limits.append(frames_per_s)


class Tap:
    """Takes what is sent into the guest; `full`: its queue is."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.refused = 0
        self.full = False

    def send(self, frame: bytes, queue: int | None = None) -> None:
        if self.full:
            self.refused += 1
        else:
            self.sent.append(frame)


class Bench:
    """A guest with one in-band probe, every 20 ms, that enters at the LAN; with `both`, at the WAN too."""

    def __init__(
        self,
        folder: Path,
        *,
        slow: model.Slow | None = None,
        both: bool = False,
        interval_ms: int = 20,
        misses: int = 2,
    ) -> None:
        enter: Literal["both", "lan"] = "both" if both else "lan"
        probe = model.Probe(kind="inband", enter=enter, interval=Duration(interval_ms * MS), misses=misses, slow=slow)
        self.load, self.tap, self.back, self.now = Counters(), Tap(), Tap(), 0
        guest = model.Guest(name="ips1", probes=(probe,), hold=Duration(0))
        loads = {"tap-l": self.load, "tap-w": Counters()}
        self.checks = Checks(guest, 1, (PAIR,), 7, history=History(), folder=folder, loads=loads)
        self.stream = self.checks.streams[0]
        for stream, tap in zip(self.checks.streams, (self.tap, self.back), strict=False):
            stream.entry = tap  # type: ignore[assignment]
        self.checks.begin(0)

    def run(
        self, milliseconds: int, *, answers: int | None = 1, back: int | None = 1, each: int = 0, over: int = 0
    ) -> list[Decision]:
        """So long, the guest answers after so many ms (None: never) and carries `each` frames a ms to the WAN."""
        said: list[Decision] = []
        for _ in range(milliseconds):
            self.now += MS
            self.load.came += each
            self.load.taken += each
            self.load.over += over
            sent = [len(tap.sent) for tap in (self.tap, self.back)]
            if self.now >= self.checks.next_due(self.now):
                for check, event in self.checks.tick(self.now, lambda: True, dict):
                    said += self.checks.take(self.now, check, event)
            ways = zip(self.checks.streams, (self.tap, self.back), sent, (answers, back), strict=False)
            for stream, tap, before, after in ways:
                if len(tap.sent) > before and after is not None:
                    at = self.now + after * MS
                    for check, event in list(self.checks.frame(at, stream, tap.sent[-1])):
                        said += self.checks.take(at, check, event)
        return said


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    assert any(isinstance(decision, Available) for decision in made.run(200))
    return made


def fell(said: list[Decision]) -> bool:
    return any(isinstance(decision, Unavailable) for decision in said)


def test_nothing_that_comes_out_is_a_fall(bench: Bench) -> None:
    assert fell(bench.run(80, answers=None))


def test_frames_stand_for_heartbeats_and_the_limit_falls(bench: Bench) -> None:
    """The guest is overloaded, by name, and still available; the datapath is told a lower and lower limit."""
    bench.run(100, each=20)
    said = bench.run(100, answers=None, each=20)
    assert not fell(said)
    assert "lan to wan" in bench.checks.overloaded
    assert bench.load.limits == sorted(bench.load.limits, reverse=True)
    assert len(bench.load.limits) > 1
    (shown,) = [way.shown() for way in bench.checks.ways]
    assert shown.limit_frames_per_s == bench.load.limits[-1]
    assert shown.carries_frames_per_s == 20_000


def test_at_the_lowest_limit_frames_are_no_excuse(bench: Bench) -> None:
    """One frame in ten ms comes out, as many as it is handed, and no heartbeat."""
    bench.run(100, each=2)
    said = bench.run(400, answers=None, each=2)
    assert not fell(said)  # it drains: more comes out than it may be handed
    assert bench.load.limits[-1] == FLOOR
    said = bench.run(200, answers=None, each=0)
    assert fell(said)


@pytest.mark.parametrize("floods", [True, False])
def test_a_flood_one_way_explains_for_a_while_what_is_missing_the_other_way(tmp_path: Path, floods: bool) -> None:
    """Half a second: by then the limit has helped, or that way hangs. Without a flood it is found at once."""
    bench = Bench(tmp_path, both=True)
    bench.run(200, each=20)
    said = bench.run(400, answers=None if floods else 1, back=None, each=20)
    assert fell(said) is not floods
    assert fell(said + bench.run(400, back=None, each=20, over=1))


@pytest.mark.parametrize(("milliseconds", "much"), [(60, False), (95, True)])
def test_a_patient_check_takes_no_jitter_for_an_overload(tmp_path: Path, milliseconds: int, much: bool) -> None:
    """Three misses of 100 ms are 300: what comes within a quarter of them may be late because of the machine."""
    bench = Bench(tmp_path, interval_ms=100, misses=3)
    bench.run(500, each=2)
    bench.run(500, answers=milliseconds, each=2)
    assert bool(bench.checks.overloaded) is much


def test_a_check_that_allows_many_misses_waits_for_more_than_one(tmp_path: Path) -> None:
    """Ten misses of 100 ms: a guest that always takes 150 ms is slow, but not overloaded."""
    bench = Bench(tmp_path, interval_ms=100, misses=10)
    bench.run(500, each=2)
    bench.run(2000, answers=150, each=2)
    assert not bench.checks.overloaded
    bench.run(600, answers=None, each=2)
    assert bench.checks.overloaded


def test_an_overload_ends_when_the_frames_do(tmp_path: Path) -> None:
    """Also where each heartbeat takes longer than the time to the next one."""
    bench = Bench(tmp_path, interval_ms=100, misses=3)
    bench.run(500, each=20)
    bench.run(300, answers=None, each=20)
    assert bench.checks.overloaded
    assert not fell(bench.run(9000, answers=120))
    assert bench.checks.overloaded
    assert not fell(bench.run(2000, answers=120))
    assert not bench.checks.overloaded


def test_a_fall_and_a_restart_lift_the_limit(bench: Bench) -> None:
    bench.run(100, each=20)
    bench.run(100, answers=None, each=20)
    bench.checks.reset()
    assert bench.load.limits[-1] == 0
    assert bench.checks.overloaded == ""


def test_a_full_tap_is_noticed_at_the_next_heartbeat(bench: Bench) -> None:
    bench.run(100, each=20)
    bench.tap.full = True
    assert not fell(bench.run(60, answers=None, each=20))
    assert bench.checks.overloaded
    assert bench.tap.refused > 1


def test_slow_by_overload_is_no_failure_of_the_guest(tmp_path: Path) -> None:
    """Late frames, for as long as the limit can be lowered, are no failure; without traffic they are."""
    slow = model.Slow(limit=Duration(5 * MS), time=Duration(200 * MS))
    for each, falls in ((20, False), (0, True)):
        bench = Bench(tmp_path, slow=slow)
        bench.run(400, each=each)
        said = bench.run(300, answers=15, each=each, over=each and 1)
        assert fell(said) is falls
        state = bench.checks.verdict.detectors[bench.stream.latency_check].state
        assert (state is CheckState.FAILING) is falls


def test_one_queue_that_is_full_is_an_overload_too(tmp_path: Path) -> None:
    """Heartbeats of the other queue come back in time, and yet the frames are held back."""
    load, now = Counters(), 0
    probe = model.Probe(kind="inband", enter="lan", interval=Duration(20 * MS), misses=2)
    guest = model.Guest(name="ips1", cpus=2, queues=2, probes=(probe,), hold=Duration(0))
    checks = Checks(guest, 1, (PAIR,), 7, history=History(), folder=tmp_path, loads={"tap-l": load}, queues=2)
    taps = [Tap(), Tap()]
    for stream, tap in zip(checks.streams, taps, strict=True):
        stream.entry = tap  # type: ignore[assignment]
    checks.begin(0)
    for beat in range(20):
        taps[1].full = beat > 10
        list(checks.tick(now, lambda: True, dict))
        for stream, tap in zip(checks.streams, taps, strict=True):
            for frame in tap.sent:
                list(checks.frame(now + MS, stream, frame))
            tap.sent.clear()
        load.taken, load.came = load.taken + 1000, load.came + 500
        now += 20 * MS
    assert checks.overloaded
    assert load.limits[-1] > 0
