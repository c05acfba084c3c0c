# SPDX-License-Identifier: GPL-2.0-only
"""All checks of a running guest, as pure decisions: what is sent and checked when, and the result of each event."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.health.checks import PROCESS_LIMITS, Checks
from appliance.health.cpu_stall import Thread
from appliance.health.detector import Event, Good, Tick
from appliance.health.inband_streams import TapPair
from appliance.health.verdict import Available, Decision, History, Unavailable, WouldFall
from appliance.units import Duration

MS = 1_000_000
SECOND = 1000 * MS
INTERVAL = 20 * MS
HEARTBEAT = model.Heartbeat(interval=Duration(100 * MS), misses=3)
INBAND = model.Probe(kind="inband", interval=Duration(INTERVAL), misses=2)
CPU = model.Probe(kind="cpu", interval=Duration(300 * MS), misses=2)


class Port:
    """Takes the frames that would go into a tap."""

    refused = 0

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def send(self, frame: bytes, queue: int | None = None) -> None:
        self.frames.append(frame)


class Bench:
    """Checks of one guest, with a process and threads that are as the test says."""

    def __init__(
        self, folder: Path, *probes: model.Probe, heartbeat: model.Heartbeat | None = None, dry_run: bool = False
    ) -> None:
        guest = model.Guest(
            name="ips1", image="a", hold=Duration(0), probes=probes, heartbeat=heartbeat, dry_run=dry_run
        )
        self.checks = Checks(guest, 3, [TapPair("l", "w")], 7, history=History(), folder=folder)
        self.ports = [Port() for _ in self.checks.streams]
        for stream, port in zip(self.checks.streams, self.ports, strict=True):
            stream.entry = cast(Any, port)
        self.alive, self.threads, self.looks = True, dict[int, Thread](), 0
        self.checks.begin(0)

    def is_alive(self) -> bool:
        self.looks += 1
        return self.alive

    def tick(self, now: int) -> list[Decision]:
        """One tick, and what follows from its evidence."""
        found: list[Decision] = []
        for check, event in self.checks.tick(now, self.is_alive, lambda: self.threads):
            found += self.checks.take(now, check, event)
        return found

    def echo(self, now: int) -> list[Decision]:
        """The guest forwards what was sent."""
        found: list[Decision] = []
        for stream, port in zip(self.checks.streams, self.ports, strict=True):
            for frame in port.frames:
                assert stream.lane.claims(frame)
                for check, event in self.checks.frame(now, stream, frame):
                    found += self.checks.take(now, check, event)
            port.frames.clear()
        return found


def available(decisions: Sequence[Decision]) -> bool:
    return any(isinstance(one, Available) for one in decisions)


def fell(decisions: Sequence[Decision]) -> Unavailable | None:
    return next((one for one in decisions if isinstance(one, Unavailable)), None)


# -- which checks a guest has


@pytest.mark.parametrize(
    ("probes", "heartbeat", "labels"),
    [
        ((), None, ["process"]),
        ((), HEARTBEAT, ["heartbeat"]),
        ((CPU,), None, ["processors"]),
        ((INBAND,), HEARTBEAT, ["in-band lan to wan", "in-band wan to lan", "heartbeat"]),
        (
            (model.Probe(kind="ping", target="192.0.2.1"), model.Probe(kind="ping", target="192.0.2.1", misses=9)),
            None,
            ["ping 192.0.2.1", "ping 192.0.2.1 (2)"],
        ),
    ],
)
def test_the_checks_of_a_guest(
    tmp_path: Path, probes: tuple[model.Probe, ...], heartbeat: model.Heartbeat | None, labels: list[str]
) -> None:
    """Two probes of one target are two checks. Without any, only the process is watched, and that is reported."""
    checks = Bench(tmp_path, *probes, heartbeat=heartbeat).checks
    assert list(checks.verdict.detectors) == labels
    assert checks.only_process is (labels == ["process"])


def test_each_check_has_the_limits_and_the_cause_of_its_table(tmp_path: Path) -> None:
    http = model.Probe(kind="http", url="http://192.0.2.1/", interval=Duration(SECOND), misses=4, rises=5)
    detectors = Bench(tmp_path, http, CPU, heartbeat=HEARTBEAT).checks.verdict.detectors
    found = {
        one.label: (one.limits.interval, one.limits.misses, one.limits.rises, one.cause) for one in detectors.values()
    }
    assert found == {
        "http http://192.0.2.1/": (SECOND, 4, 5, Cause.PROBE_FAILED),
        "processors": (300 * MS, 2, CPU.rises, Cause.CPU_STALLED),
        "heartbeat": (100 * MS, 3, 2, Cause.HEARTBEAT_LOST),
    }


# -- heartbeats through the data ports


def test_frames_go_out_on_a_grid_and_missed_ticks_are_left_out(tmp_path: Path) -> None:
    """One frame a direction and interval; a loop that came three intervals late sends one and keeps the grid."""
    bench = Bench(tmp_path, INBAND)
    sent = []
    for now in (0, INTERVAL - 1, INTERVAL, 5 * INTERVAL + 3, 6 * INTERVAL - 1, 6 * INTERVAL):
        bench.tick(now)
        sent.append([len(port.frames) for port in bench.ports])
        bench.echo(now)
    assert sent == [[1, 1], [0, 0], [1, 1], [1, 1], [0, 0], [1, 1]]


def test_a_guest_that_forwards_is_available_until_its_evidence_ends(tmp_path: Path) -> None:
    bench, now = Bench(tmp_path, INBAND), 0
    bench.tick(0)
    assert not available(bench.echo(MS))  # one answer of two
    bench.tick(INTERVAL)
    decisions = bench.echo(INTERVAL + MS)
    until = INTERVAL + INBAND.misses * INTERVAL + INTERVAL // 4
    assert decisions == [Available(until)]
    assert list(bench.checks.latencies) == [MS] * 4
    for now in (2 * INTERVAL, 3 * INTERVAL, until - 1):
        assert fell(bench.tick(now)) is None
    gone = fell(bench.tick(until))
    assert gone is not None
    assert (gone.cause, gone.proof) == (Cause.HEARTBEAT_LOST, INTERVAL)


def test_the_next_tick_is_at_the_next_frame_or_when_the_evidence_ends(tmp_path: Path) -> None:
    slow = model.Probe(kind="inband", interval=Duration(400 * MS), misses=2)
    bench = Bench(tmp_path, slow)
    assert bench.checks.next_due(0) == 0
    bench.tick(0)
    assert bench.checks.next_due(0) == PROCESS_LIMITS.interval  # no lease to end: looked at now and then
    bench.tick(395 * MS)
    assert bench.checks.next_due(395 * MS) == 400 * MS
    bench.echo(10 * MS)
    bench.tick(400 * MS)
    bench.echo(410 * MS)
    assert bench.checks.verdict.available
    assert bench.checks.next_due(410 * MS) == 800 * MS
    bench.tick(800 * MS)
    bench.tick(1200 * MS)
    until = 400 * MS + 2 * 400 * MS + 100 * MS
    assert bench.checks.next_due(1200 * MS) == until
    bench.tick(until)
    assert bench.checks.next_due(until) == until + PROCESS_LIMITS.interval


# -- the process, and its threads


def test_without_checks_the_process_is_looked_at_on_its_own_grid(tmp_path: Path) -> None:
    """Ten looks prove it; when it is gone the evidence expires by itself."""
    bench, rose = Bench(tmp_path), None
    for step in range(40):
        if available(bench.tick(step * 25 * MS)) and rose is None:
            rose = step * 25 * MS
    assert (bench.looks, rose) == (10, 900 * MS)
    bench.alive = False
    assert fell(bench.tick(SECOND)) is None
    assert fell(bench.tick(900 * MS + PROCESS_LIMITS.window)) is not None


def test_a_late_look_is_one_look_and_keeps_the_grid(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for now in (0, 350 * MS, 399 * MS, 400 * MS):
        bench.tick(now)
    assert bench.looks == 3
    assert bench.checks.next_due(400 * MS) == 500 * MS


def test_a_process_that_runs_says_nothing_where_there_are_checks(tmp_path: Path) -> None:
    bench = Bench(tmp_path, heartbeat=HEARTBEAT)
    for step in range(100):
        assert not available(bench.tick(step * 100 * MS))
    assert bench.looks == 0


def test_processors_that_wait_fail_the_check(tmp_path: Path) -> None:
    bench = Bench(tmp_path, CPU)
    found: list[Decision] = []
    for step in range(5):
        bench.threads = {9: Thread("virtual processor 0", "S", step, 0)}
        found += bench.tick(step * 300 * MS)
    assert available(found)
    assert bench.looks == 0  # the process is not asked for
    for step in range(5, 7):
        bench.threads = {9: Thread("virtual processor 0", "S", step, step * SECOND)}
        found = bench.tick(step * 300 * MS)
    gone = fell(found)
    assert gone is not None
    assert gone.cause is Cause.CPU_STALLED


# -- what the agent and QEMU report


def test_heartbeats_of_the_agent(tmp_path: Path) -> None:
    """ "ok" is good evidence; three other words in a row are a fall, with the word in its reason."""
    bench = Bench(tmp_path, heartbeat=HEARTBEAT)
    assert not available(bench.checks.heartbeat(0, "ok"))
    assert available(bench.checks.heartbeat(100 * MS, "ok"))
    said = [fell(bench.checks.heartbeat(now, "reloading")) for now in (101 * MS, 102 * MS, 103 * MS)]
    assert [one is None for one in said] == [True, True, False]
    assert said[2] is not None
    assert 'the guest says "reloading"' in said[2].why


def test_heartbeats_that_waited_while_bypassd_stood_still_prove_nothing(tmp_path: Path) -> None:
    """The guest hung meanwhile, and what it had sent before is read afterwards; one that lives sends another soon."""
    bench = proved(tmp_path)
    bench.tick(110 * MS)
    assert bench.checks.next_due(110 * MS) == 210 * MS
    bench.tick(2000 * MS)
    for now in (2000 * MS, 2050 * MS):
        assert not available(bench.checks.heartbeat(now, "ok"))
    assert not bench.checks.verdict.available
    for now in (2110 * MS, 2210 * MS):
        bench.tick(now)
        bench.checks.heartbeat(now, "ok")
    assert bench.checks.verdict.available


def test_heartbeats_count_only_where_they_are_configured(tmp_path: Path) -> None:
    bench = Bench(tmp_path, CPU)
    assert bench.checks.heartbeat(0, "dead") == []


def proved(folder: Path) -> Bench:
    bench = Bench(folder, heartbeat=HEARTBEAT)
    bench.checks.heartbeat(0, "ok")
    assert available(bench.checks.heartbeat(100 * MS, "ok"))
    return bench


@pytest.mark.parametrize(
    ("event", "data", "cause"),
    [
        ("GUEST_PANICKED", {"action": "pause"}, Cause.GUEST_PANICKED),
        ("STOP", {}, Cause.GUEST_PAUSED),
        ("WATCHDOG", {"action": "reset"}, Cause.GUEST_WATCHDOG),
        ("NIC_RX_FILTER_CHANGED", {}, None),
    ],
)
def test_events_of_qemu(tmp_path: Path, event: str, data: dict[str, object], cause: Cause | None) -> None:
    bench = proved(tmp_path)
    gone = fell(bench.checks.qemu_event(110 * MS, event, data))
    assert (gone.cause if gone else None) is cause
    assert available(bench.checks.heartbeat(120 * MS, "ok")) is (cause is None)


def test_a_paused_guest_is_back_with_its_next_evidence(tmp_path: Path) -> None:
    bench = proved(tmp_path)
    bench.checks.qemu_event(110 * MS, "STOP", {})
    assert bench.checks.qemu_event(120 * MS, "RESUME", {}) == []
    assert available(bench.checks.heartbeat(200 * MS, "ok"))


def test_a_bypass_that_the_agent_asked_for_lasts_until_it_takes_it_back(tmp_path: Path) -> None:
    bench = proved(tmp_path)
    gone = fell(bench.checks.ask_bypass(110 * MS, True, "new rules"))
    assert gone is not None
    assert (gone.cause, gone.why) == (Cause.GUEST_ASKED, "it asked to be bypassed: new rules")
    assert not available(bench.checks.heartbeat(200 * MS, "ok"))
    assert bench.checks.ask_bypass(210 * MS, False) == []
    assert available(bench.checks.heartbeat(300 * MS, "ok"))
    assert bench.checks.verdict.history.recent_falls(300 * MS) == 0


def test_a_reset_asks_for_all_evidence_again(tmp_path: Path) -> None:
    bench = Bench(tmp_path, INBAND)
    for now in (0, INTERVAL):
        bench.tick(now)
        bench.echo(now + MS)
    assert bench.checks.verdict.available
    bench.checks.reset()
    assert not bench.checks.verdict.available
    assert not bench.checks.latencies
    assert {one.last_good for one in bench.checks.verdict.detectors.values()} == {None}


def test_the_evidence_of_a_tick_counts_before_anything_expires(tmp_path: Path) -> None:
    """Time is told last, and only to checks whose evidence has expired by then."""
    bench, now = Bench(tmp_path), 0
    while not bench.checks.verdict.available:
        bench.tick(now)
        now += PROCESS_LIMITS.interval
    for alive, events in ((True, [Good]), (False, [Tick])):
        now, bench.alive = now + 10 * SECOND, alive
        said: list[type[Event]] = []
        for check, event in bench.checks.tick(now, bench.is_alive, dict):
            said.append(type(event))
            bench.checks.take(now, check, event)
        assert said == events
    assert not bench.checks.verdict.available


def test_a_dry_run_watches_the_process_and_tells_the_rest(tmp_path: Path) -> None:
    """A guest whose heartbeats stop keeps its traffic, and it is told once; the end of its process still counts."""
    bench = Bench(tmp_path, heartbeat=model.Heartbeat(interval=Duration(50 * MS), misses=2), dry_run=True)
    assert bench.checks.only_process
    now, found = 0, list[Decision]()
    while now < 3 * SECOND:
        now += 50 * MS
        found += bench.tick(now)
        if now < 2 * SECOND:
            found += bench.checks.heartbeat(now, "ok")
    assert [type(one) for one in found if not isinstance(one, Available)] == [WouldFall]
    assert bench.checks.verdict.available
    assert bench.checks.verdict.would_falls == 1
    assert bench.checks.verdict.until > now
    bench.alive = False
    while now < 4 * SECOND:
        now += 50 * MS
        found += bench.tick(now)
    assert isinstance(found[-1], Unavailable)
