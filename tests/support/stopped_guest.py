# SPDX-License-Identifier: GPL-2.0-only
"""How soon a guest is bypassed whose application stops, without the emulation: a separate program for `health_figures`.

    lan ══ lan0  [datapath]  wan0 ══ wan
                  │      │
                tap L  tap W        a process forwards between them, and is stopped with SIGSTOP

Taps, datapath, heartbeats, verdict and lease are the appliance's own, and a stream of numbered frames passes; a process
stands for the guest. An emulated guest pauses for longer than short heartbeats allow: so this shows what the appliance
makes of them where there is no KVM, and nothing about guests. Everything is in a network namespace that this process
creates, and ends with it. Prints one JSON object: `runs` of (longest silence on the wire in ms, frames lost),
`watch_cpu_ms_per_s` and `false_falls` of a time in which nothing was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from simulator import netns

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.guest.port import tap
from appliance.health.inband import make_nonce
from appliance.health.watch import TapPair, Watch
from appliance.hop.lifecycle import HopEvent, HopState
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.layout import Side
from appliance.units import Duration
from tests.support.flooded_guest import FAR, TAPS, Subject, child, forward, wires
from tests.support.frame_stream import LATE_NS, FrameStream

CAPACITY = 1_000_000  # frames a second that the process may forward: no limit here
AVAILABLE_S = 30.0
SETTLE_S = 0.3  # watched before the process is stopped, and after it was bypassed


async def available(subject: Subject) -> None:
    """Until the guest has had its traffic for a while. TimeoutError: it falls again and again, for no reason."""
    async with asyncio.timeout(AVAILABLE_S):
        falls = -1
        while subject.hop.state is not HopState.AVAILABLE or len(subject.moves) != falls:
            subject.hop.history.falls.clear()
            await subject.reach(HopState.AVAILABLE)
            falls = len(subject.moves)
            await asyncio.sleep(SETTLE_S)


async def stopped(subject: Subject, forwarder: int, path: Path, rate: int) -> tuple[float, int]:
    """Stop the process under traffic until it is bypassed; the longest silence in ms, and the frames lost."""
    await available(subject)
    stream = await asyncio.to_thread(FrameStream, "lan", "wan", path, rate)
    try:
        await available(subject)
        moment = time.monotonic_ns()
        os.kill(forwarder, signal.SIGSTOP)
        try:
            await subject.reach(HopState.SUSPECT)
            await asyncio.sleep(SETTLE_S)
            end = time.monotonic_ns()
        finally:
            await asyncio.to_thread(stream.stop)
            os.kill(forwarder, signal.SIGCONT)
    finally:
        await asyncio.to_thread(stream.stop)
    report = stream.report(moment - LATE_NS // 5, end - LATE_NS // 5)
    return report.longest_gap_ms, report.lost


async def measure(asked: argparse.Namespace, datapath: Datapath, forwarder: int, folder: Path) -> dict[str, object]:
    """All of it. A guest that falls although nothing was wrong has no traffic to lose: that run is an error."""
    probe = model.Probe(kind="inband", interval=Duration.parse(asked.interval), misses=asked.misses)
    subject = Subject(datapath.leases, folder, forwarder)
    watch = Watch(
        model.Guest(name="ips", probes=(probe,), hold=Duration.parse("50ms")), 1, (TapPair(*TAPS),),
        make_nonce(datapath.heartbeat_key("ips")), history=subject.hop.history, subject=subject, folder=folder,
        loads={name: datapath.load("ips", "main", side) for name, side in zip(TAPS, Side, strict=True)},
    )  # fmt: skip
    subject.hop.move(HopEvent.START, Cause.STARTING)
    subject.hop.running("")
    watch.start()
    await subject.reach(HopState.AVAILABLE)
    falls, spent, since = len(subject.moves), time.thread_time(), time.monotonic()
    await asyncio.sleep(asked.steady)
    cost = (time.thread_time() - spent) / (time.monotonic() - since)
    fell = sum(state == HopState.SUSPECT.value for _, state, _ in subject.moves[falls:])
    runs, failed = [], []
    for number in range(asked.runs):
        try:
            runs.append(await stopped(subject, forwarder, folder / f"{number}.stream", asked.rate))
        except (RuntimeError, TimeoutError) as error:
            failed.append(f"{type(error).__name__}: {error}")
    watch.stop()
    return {"runs": runs, "failed": failed, "watch_cpu_ms_per_s": round(cost * 1e3, 2), "false_falls": fell}


def main() -> int:
    """Exit status 0, with the result on standard output."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("object", type=Path)
    parser.add_argument("--interval", default="3.3ms")
    parser.add_argument("--misses", type=int, default=2)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--rate", type=int, default=1000, help="frames a second")
    parser.add_argument("--steady", type=float, default=10.0, help="seconds for which the heartbeats' cost is measured")
    asked = parser.parse_args()
    netns.leave()
    wires()
    for name in TAPS:
        tap.ensure(name)
    fds = (tap.open_tap(TAPS[0]), tap.open_tap(TAPS[1]))
    stalled = mmap.mmap(-1, 8)
    forwarder = child(lambda: forward(fds, CAPACITY, stalled))
    for fd in fds:
        os.close(fd)
    datapath = Datapath.open(asked.object)
    try:
        datapath.attach_segment("main", "lan0", "wan0", whole=True)
        for name, side in zip(TAPS, Side, strict=True):
            datapath.attach_hop(name, "ips", "main", side)
        segment, rule = model.Segment(name="main", lan="lan0", wan="wan0"), model.Rule(name="all", path=("ips",))
        datapath.set_policy(model.Config(segment=(segment,), guest=(model.Guest(name="ips"),), rule=(rule,)))
        datapath.leases.renew_supervisor(time.monotonic_ns() + FAR)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(asyncio.run(measure(asked, datapath, forwarder, Path(folder)))))
    finally:
        datapath.unload()
        os.kill(forwarder, signal.SIGKILL)
        os.waitpid(forwarder, 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
