# SPDX-License-Identifier: GPL-2.0-only
"""`make health-figures`: how soon the link bypasses a failed guest, and how many frames are lost. Real QEMU and frames.

The demo guest runs behind the real datapath in network namespaces (tests/support/guest_world.py), with in-band
heartbeats of 20 ms x 2, and a stream of numbered frames goes through it, 1,000 a second where the emulated guest
carries as many: how fast it runs is measured by its first start, and written beside the figures. Thirty times each:

- guest killed, a hundred times: SIGKILL; from that moment until the first frame that was sent after it arrives;
- application hung: its agent is told to stop forwarding; the longest silence on the wire, the sender's pauses off;
- forwarder stopped: the same of a process in the guest's place, stopped with SIGSTOP (tests/support/stopped_guest.py),
  with heartbeats of 20 ms x 2, and of 3.3 ms x 2, which a configuration may choose. By the latter an emulated guest is
  bypassed all the time, because the emulation pauses it for longer: how often in ten seconds is in `false_falls` of
  *application hung, 3.3 ms x 2*, which is measured only where it is 0;
- planned drain: drain, then stop; the longest silence, and the frames lost until the guest has ended;
- guest started: start until it has the traffic again; the same.

Rows of hangs have `watch_cpu_ms_per_s` too: the processor time that bypassd's loop takes while the heartbeats go and
nothing else happens, and `false_falls`: how often the guest failed its checks in that time, although nothing was wrong.
A run that fails with an error is reported and repeated; measurements are written in any case. The first two are shown
with the appliance's own measurement (`show guest`): from its detection, or the kernel's detection of the process's end,
until a frame bypassed the guest. Exits with 1 if a figure is missed. Wait times of restarts and hold-down are
shortened: the fault is what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from simulator.pace import Pace

from appliance.config.schema import model
from appliance.errors import BypassError, RefusedError
from appliance.hop.lifecycle import HopState
from appliance.units import Duration, Size
from tests.support import board_harness, figures
from tests.support.attempts import attempt
from tests.support.frame_stream import FrameStream
from tests.support.guest_world import World

RUNS, KILLS = 30, 100
TRIES = 3  # of a run that ends with an error
SETTLE_S = 0.3  # watched before and after
STEADY_S = 10.0  # for which the heartbeats' cost is measured
TRIAL_S = 1.0  # of the frames that are offered
REFERENCE_START_S = 6.0  # from the first start of the guest until it has the traffic, on the machine whose speed is 1
HUNG, HUNG_FAST = "application hung", "application hung, 3.3 ms x 2"
STOPPED, STOPPED_FAST = "forwarder stopped", "forwarder stopped, 3.3 ms x 2"
EVENTS = ("guest killed", HUNG, STOPPED, STOPPED_FAST, "planned drain", "guest started")
LIMITS = {"guest killed": 5.0, HUNG: 50.0, STOPPED: 50.0, STOPPED_FAST: 10.0}  # ms, p99
OWN = {"guest killed": "guest_exited", HUNG: "heartbeat_lost", HUNG_FAST: "heartbeat_lost"}  # its cause
LOSSLESS = ("planned drain", "guest started")

PROBES = {
    HUNG: model.Probe(kind="inband", interval=Duration.parse("20ms"), misses=2),
    HUNG_FAST: model.Probe(kind="inband", interval=Duration.parse("3.3ms"), misses=2),
}
INTERVALS = {STOPPED: "20ms", STOPPED_FAST: "3.3ms"}
BPF_OBJECT = Path("build/bpf/steer.bpf.o")

CONFIG = model.Config(
    segment=(model.Segment(name="main", lan="lan0", wan="wan0"),),
    guest=(
        model.Guest(
            name="ips1",
            kernel="/guest-demo/bzImage",
            initrd="/guest-demo/initrd.gz",
            cmdline="console=ttyS0 quiet",
            memory=Size.parse("64M"),
            probes=(PROBES[HUNG],),
            hold=Duration.parse("50ms"),
            restart=model.Restart(first=Duration.parse("10ms"), longest=Duration.parse("10ms"), attempts=1000),
        ),
    ),
    rule=(model.Rule(name="all", path=("ips1",)),),
)


class Bench:
    """The guest, and the stream through it."""

    def __init__(self, world: World, folder: Path, pace: Pace) -> None:
        self.world, self._folder, self._count = world, folder, 0
        self.pace = pace
        self.failed: list[str] = []  # runs that ended with an error
        self.measured: dict[str, list[tuple[float, int]]] = {}  # by event: ms until bypassed, frames lost
        self.costs: dict[str, figures.Row] = {}  # by event: what its heartbeats cost
        self._own: dict[str, figures.Row] = {}

    def carries(self, rate: int) -> bool:
        """Whether the guest carries so many frames a second, and stays available."""
        self.available()
        stream = self.world.call(self._stream(rate))
        try:
            time.sleep(TRIAL_S)
        finally:
            stream.stop()
        return stream.report().whole and self.world.guest().state is HopState.AVAILABLE

    def measure(self, do: Callable[[], int], until: HopState) -> tuple[FrameStream, int, int]:
        """Let the stream run around `do` (its result: the moment) and on until the state; stream, moment, end."""
        self._count += 1
        stream = self.world.call(self._stream(self.pace.frames))
        try:
            time.sleep(SETTLE_S)
            state = self.world.guest().state
            if until is not HopState.AVAILABLE and state is not HopState.AVAILABLE:
                raise RuntimeError(f"the guest has no traffic that it could lose: it is {state.value}")
            moment = do()
            self.world.call(self.world.reach(until))
            time.sleep(SETTLE_S)
            end = time.monotonic_ns()
        finally:
            stream.stop()
        return stream, moment, end

    def restore(self) -> None:
        """After an error in whatever state: the guest forwards, runs and has the traffic."""
        with contextlib.suppress(BypassError):
            self.order(lambda guest: guest.command("resume"))
        try:
            self.order(lambda guest: guest.start())
        except RefusedError:  # it is being stopped
            self.world.call(self.world.reach(HopState.STOPPED))
            self.order(lambda guest: guest.start())
        self.available()

    def run(self, event: str, make: Callable[[], tuple[float, int]], runs: int) -> None:
        """Measure an event so often; errors are noted, and tried again."""
        for _ in range(runs):
            one, errors = attempt(event, make, self.restore, figures.say, TRIES)
            self.failed += errors
            if one is not None:
                self.measured.setdefault(event, []).append(one)
                figures.say(f"{event}: {one[0]:.1f} ms, {one[1]} lost")

    async def _stream(self, rate: int) -> FrameStream:
        # In a thread of its own, which is born into the namespace: the loop is bypassd's, and must not wait.
        return await asyncio.to_thread(FrameStream, "lan", "wan", self._folder / f"{self._count}.stream", rate)

    def order(self, action: Callable[[Any], object]) -> int:
        """Give the guest an order; when."""
        moment = time.monotonic_ns()
        self.world.call(self.world.order(action))
        return moment

    def available(self) -> None:
        """Until the guest has the traffic, with its earlier falls forgotten."""
        self.world.guest().hop.history.falls.clear()
        self.world.call(self.world.reach(HopState.AVAILABLE))

    def check_as(self, event: str) -> None:
        """Check the guest from now on by the heartbeats of this event, and measure their cost."""
        self.available()
        config = msgspec.structs.replace(self.world.guest().config, probes=(PROBES[event],))
        self.world.call(self.world.reconfigure(msgspec.structs.replace(CONFIG, guest=(config,))))
        if event != HUNG_FAST:
            self.available()
        falls, spent, since = self._falls(), self.world.processor_time(), time.monotonic()
        time.sleep(STEADY_S)
        cost = (self.world.processor_time() - spent) / (time.monotonic() - since)
        self.costs[event] = {"watch_cpu_ms_per_s": round(cost * 1e3, 2), "false_falls": self._falls() - falls}
        self.world.guest().hop.bypass_latency.kept.clear()  # those of other heartbeats

    def _falls(self) -> int:
        return self.world.states().count(HopState.SUSPECT.value)

    def keep_own(self, event: str) -> None:
        """Take over the appliance's own measurement of the event, before another one has the same cause."""
        self._own[event] = self._measured_by_itself(event)

    def own(self, event: str) -> figures.Row:
        """The appliance's own measurement of the event, and what its heartbeats cost."""
        return {**(self._own.get(event) or self._measured_by_itself(event)), **self.costs.get(event, {})}

    def _measured_by_itself(self, event: str) -> figures.Row:
        summary = self.world.guest().hop.bypass_latency.summary()
        row = next((row for row in summary if row.cause == OWN.get(event)), None)
        keys = ("detected_p50_ms", "detected_p99_ms", "at_most_p99_ms")
        return {} if row is None else {"own_runs": row.runs, **{f"own_{key}": getattr(row, key) for key in keys}}

    def stop_forwarder(self, event: str, runs: int) -> None:
        """Measure how soon a process in the guest's place is bypassed, in a namespace of its own."""
        words = [sys.executable, "-m", "tests.support.stopped_guest", str(BPF_OBJECT), "--runs", str(runs),
                 "--interval", INTERVALS[event], "--misses", "2", "--rate", str(self.pace.frames),
                 "--steady", str(STEADY_S)]  # fmt: skip
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout)
        self.measured[event] = [(took, lost) for took, lost in found["runs"]]
        self.failed += [f"{event}: {text}" for text in found["failed"]]
        self.costs[event] = {key: found[key] for key in ("watch_cpu_ms_per_s", "false_falls")}
        for took, lost in self.measured[event]:
            figures.say(f"{event}: {took:.1f} ms, {lost} lost")

    def killed(self) -> tuple[float, int]:
        """(bypass in ms, frames lost)"""
        self.available()

        def kill() -> int:
            run = self.world.guest().current_run
            assert run is not None
            assert run.pid is not None
            moment = time.monotonic_ns()
            os.kill(run.pid, signal.SIGKILL)
            return moment

        stream, moment, end = self.measure(kill, HopState.STARTING)
        return (stream.first_after(moment) - moment) / 1e6, stream.report(0, end - 100_000_000).lost

    def hung(self) -> tuple[float, int]:
        """As above."""
        self.available()
        stream, _, end = self.measure(lambda: self.order(lambda guest: guest.command("hang")), HopState.SUSPECT)
        self.order(lambda guest: guest.command("resume"))
        report = stream.report(0, end - 100_000_000)
        return report.longest_gap_ms, report.lost

    def drained(self) -> tuple[float, int]:
        """As above."""
        self.available()

        def drain() -> int:
            moment = self.order(lambda guest: guest.drain())
            time.sleep(SETTLE_S)
            self.order(lambda guest: guest.stop())
            return moment

        stream, _, end = self.measure(drain, HopState.STOPPED)
        report = stream.report(0, end - 100_000_000)
        return report.longest_gap_ms, report.lost

    def started(self) -> tuple[float, int]:
        """As above."""
        stream, _, end = self.measure(lambda: self.order(lambda guest: guest.start()), HopState.AVAILABLE)
        report = stream.report(0, end - 100_000_000)
        return report.longest_gap_ms, report.lost


def measure_all(bench: Bench, runs: int) -> None:
    """Everything, one event after the other; drain and start take turns."""
    bench.run("guest killed", bench.killed, max(runs, KILLS) if runs >= RUNS else runs)
    bench.check_as(HUNG_FAST)
    if not bench.costs[HUNG_FAST]["false_falls"]:
        bench.run(HUNG_FAST, bench.hung, runs)
        bench.keep_own(HUNG_FAST)
    bench.check_as(HUNG)  # the one that the others are measured with
    bench.run(HUNG, bench.hung, runs)
    bench.keep_own(HUNG)
    for event in INTERVALS:
        bench.stop_forwarder(event, runs)
    for _ in range(runs):
        bench.run("planned drain", bench.drained, 1)
        bench.run("guest started", bench.started, 1)


def rows(bench: Bench) -> list[figures.Row]:
    """The measurements; an event without any has what its heartbeats cost."""
    unmeasured = [
        {"event": event, "runs": 0, **cost} for event, cost in bench.costs.items() if event not in bench.measured
    ]
    return unmeasured + [
        {
            "event": event,
            "runs": len(measured),
            **figures.spread("bypass", [took for took, _ in measured]),
            "lost_frames": max(lost for _, lost in measured),
            **bench.own(event),
        }
        for event, measured in bench.measured.items()
    ]


def missed(table: list[figures.Row]) -> list[str]:
    """The guarantees that were broken."""
    broken = []
    for row in table:
        limit = LIMITS.get(row["event"])
        if not row["runs"]:
            continue
        if limit is not None and row["bypass_p99_ms"] > limit:
            broken.append(f"{row['event']}: {row['bypass_p99_ms']} ms at p99, and not {limit:g} ms")
        if row["event"] in LOSSLESS and row["lost_frames"]:
            broken.append(f"{row['event']}: {row['lost_frames']} frames lost")
    return broken


def plot(table: list[figures.Row]) -> Callable[[Any], None]:
    """One bar per event, with its limit."""

    def draw(axes: Any) -> None:
        measured = [row for row in table if row["runs"]]
        axes.barh([row["event"] for row in measured], [row["bypass_p99_ms"] for row in measured])
        for row in measured:
            if row["event"] in LIMITS:
                axes.plot([LIMITS[row["event"]]] * 2, [row["event"]] * 2, "r|", markersize=40)
        axes.set_xlabel("ms at p99 (red: the limit)")

    return draw


def main() -> int:
    """Exit status 0, or 1 when a figure is missed."""
    parser = argparse.ArgumentParser(prog="health-figures", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    runs = parser.parse_args().runs
    root = Path(tempfile.mkdtemp(prefix="tw-health-"))
    began = time.monotonic()
    world = World(root, BPF_OBJECT, board_harness.artefacts(), CONFIG)
    try:
        world.call(world.reach(HopState.AVAILABLE))
        bench = Bench(world, root, Pace(speed=REFERENCE_START_S / (time.monotonic() - began)))
        bench.pace = bench.pace.carried(bench.carries)
        figures.say(str(bench.pace))
        try:
            measure_all(bench, runs)
        except Exception as error:  # the guest does not come back: what there is, is written
            bench.failed.append(f"the guest is not in service again: {type(error).__name__}: {error}")
        table = rows(bench)
    finally:
        world.close()
        shutil.rmtree(root)
    broken = [*missed(table), *(f"{event}: no run" for event in EVENTS if event not in bench.measured)]
    if table:
        more = {**bench.pace.figures(), "failed": bench.failed}
        print(figures.table(table))
        print(f"figures: {figures.write('health', table, plot(table), **more)}")
    for line in broken:
        figures.say(f"missed: {line}")
    for line in bench.failed:
        figures.say(f"failed run: {line}")
    return 1 if broken or bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
