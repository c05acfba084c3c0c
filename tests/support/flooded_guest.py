# SPDX-License-Identifier: GPL-2.0-only
"""A guest with a known capacity under a flood: real taps, real datapath, real heartbeats. A separate program.

    lan ══ lan0  [datapath]  wan0 ══ wan
                  │      │
                tap L  tap W        a process forwards between them, at most CAPACITY frames a second

Everything is in a network namespace that this process creates, and ends with it. Prints one JSON object. With `hang`
the guest is stopped after that time during the flood, and the time until it is bypassed is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import mmap
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulator import netns

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.guest.port import tap
from appliance.health.inband import ETHERTYPE, make_nonce
from appliance.health.verdict import Decision
from appliance.health.watch import TapPair, Watch
from appliance.hop.hop import Hop
from appliance.hop.lifecycle import HopEvent, HopState
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.counters import Counters
from appliance.steering.kernel.layout import Outcome, Reason, Side
from appliance.units import Duration

FAR = 10**15
TAPS = ("tw1.0l", "tw1.0w")
FRAME = bytes.fromhex("020000000002020000000001") + b"\x90\x00" + bytes(46)
OURS_ALIKE = bytes.fromhex("025457010002025457010002") + struct.pack(">H", ETHERTYPE) + b"TWHB\1" + bytes(45)
"""What outsiders can know of our heartbeats: prefix of the addresses, EtherType and magic number."""
PR_SET_PDEATHSIG = 1


def child(body: Callable[[], None]) -> int:
    """Run `body` in a process that ends with this one; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        body()
    finally:
        os._exit(0)


def forward(fds: tuple[int, int], capacity: int, stalled: mmap.mmap) -> None:
    """The guest: writes frames from one tap to the other, at most `capacity` a second.

    `stalled`: the longest time (ms) for which the machine did not schedule it, as a number of 8 bytes.
    """
    poll, ways = select.poll(), ((fds[0], fds[1]), (fds[1], fds[0]))
    for fd in fds:
        poll.register(fd, select.POLLIN)
    budget, longest = 0.0, 0
    last = begun = time.monotonic()
    while True:
        longest = max(longest, int((time.monotonic() - begun) * 1000))
        stalled[:8] = longest.to_bytes(8, "little")
        poll.poll()
        begun = now = time.monotonic()
        budget, last = min(budget + (now - last) * capacity, max(capacity / 200, 4.0)), now
        if budget < 1:
            time.sleep(0.0005)
        idle = False
        while budget >= 1 and not idle:
            idle = True
            for source, target in ways:
                try:
                    frame = os.read(source, 65536)
                except BlockingIOError:
                    continue
                os.write(target, frame)
                budget, idle = budget - 1, False


def flood(device: str, rate: int, seconds: float, frame: bytes = FRAME) -> None:
    """Send `rate` frames a second."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as out:
        out.bind((device, 0))
        began, sent = time.monotonic(), 0
        while (spent := time.monotonic() - began) < seconds:
            while sent < spent * rate:
                try:
                    out.send(frame)
                except OSError:
                    pass
                sent += 1
            time.sleep(0.0005)


class Subject:
    """The guest from the side of its watch and its hop."""

    def __init__(self, leases: Any, folder: Path, forwarder: int) -> None:
        self.hop = Hop("guest", "ips", folder, leases=leases, owner=self, now=time.monotonic_ns())
        self.moves: list[tuple[int, str, str]] = []
        self.changed = asyncio.Event()
        self._forwarder = forwarder

    def on_move(self, _: HopState) -> None:
        self.moves.append((time.monotonic_ns(), self.hop.state.value, self.hop.detail))
        self.changed.set()

    def on_failed(self, *_: object) -> None: ...

    def on_measured(self, *_: object) -> None: ...

    def on_decision(self, decision: Decision) -> None:
        self.hop.on_decision(time.monotonic_ns(), decision)

    def process_alive(self) -> bool:
        return True

    def threads(self) -> tuple[int, tuple[int, ...]]:
        return self._forwarder, ()

    async def ask_agent(self, word: str) -> str:
        return word

    async def reach(self, state: HopState) -> None:
        async with asyncio.timeout(60):
            while self.hop.state is not state:
                self.changed.clear()
                await self.changed.wait()


def wires() -> None:
    for port, host in (("lan0", "lan"), ("wan0", "wan")):
        subprocess.run(["ip", "link", "add", port, "type", "veth", "peer", "name", host], check=True)
        for name in (port, host):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
            subprocess.run(["ip", "link", "set", name, "up"], check=True)
        subprocess.run(["ethtool", "-K", host, "gro", "on"], check=True)


async def settled(datapath: Datapath) -> Counters:
    """The counters when no frame is in flight any more, because they are read one after the other."""
    last = datapath.counters()
    while True:
        await asyncio.sleep(0.01)
        now = datapath.counters()
        if now.rules == last.rules and now.ports == last.ports:
            return now
        last = now


async def scenario(
    asked: argparse.Namespace, datapath: Datapath, forwarder: int, stalled: mmap.mmap, folder: Path
) -> dict[str, object]:
    """Let the guest pass its checks, flood it, and report the result."""
    interval = Duration.parse(asked.interval)
    probe = model.Probe(kind="inband", interval=interval, misses=asked.misses)
    guest = model.Guest(name="ips", probes=(probe,), hold=Duration(0))
    subject = Subject(datapath.leases, folder, forwarder)
    loads = {name: datapath.load("ips", "main", side) for name, side in zip(TAPS, Side, strict=True)}
    nonce = make_nonce(datapath.heartbeat_key("ips"))
    pairs = (TapPair(*TAPS),)
    history = subject.hop.history
    watch = Watch(guest, 1, pairs, nonce, history=history, subject=subject, folder=folder, loads=loads)
    subject.hop.move(HopEvent.START, Cause.STARTING)
    subject.hop.running("")
    watch.start()
    await subject.reach(HopState.AVAILABLE)
    before, start = datapath.counters(), time.monotonic_ns()
    frame = OURS_ALIKE if asked.alike else FRAME
    pid = child(lambda: flood("lan", int(asked.capacity * asked.times), asked.seconds, frame))
    found: dict[str, object] = {}
    highest = late = 0
    until = start + int((asked.hang or asked.seconds) * 1e9)
    while time.monotonic_ns() < until:
        began = time.monotonic_ns()
        await asyncio.sleep(0.005)
        late = max(late, time.monotonic_ns() - began - 5_000_000)
        highest = max([highest, *(way.limit_frames_per_s for way in watch.overload())])
    after, spent = datapath.counters(), (time.monotonic_ns() - start) / 1e9
    if asked.hang:
        os.kill(forwarder, signal.SIGSTOP)
        hung = time.monotonic_ns()
        await subject.reach(HopState.SUSPECT)
        found["bypass_after_hang_ms"] = round((subject.moves[-1][0] - hung) / 1e6, 1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if not asked.hang:
        after = await settled(datapath)
    port = after.ports["main", Side.LAN]
    back = after.hops["ips"].taps["main", Side.WAN].frames[Outcome.OUT]
    back -= before.hops["ips"].taps["main", Side.WAN].frames[Outcome.OUT]
    watch.stop()
    return (
        found
        | {
            "offered_per_s": round((port.total - before.ports["main", Side.LAN].total) / spent),
            "carried_per_s": round(back / spent),
            "falls": sum(1 for at, state, _ in subject.moves if state == "suspect" and at < start + spent * 1e9),
            "states": [state for _, state, _ in subject.moves],
            "details": [detail for _, _, detail in subject.moves if detail],
            "handed": after.hops["ips"].to_frames - before.hops["ips"].to_frames,
            "excess": after.rules["all"].excess,
            "skipped": after.hops["ips"].skipped[Reason.OVERLOADED],
            "outcomes": {outcome.name.lower(): count for outcome, count in port.frames.items() if count},
            "queue_full": (loads[TAPS[0]].sample() or loads[TAPS[1]].sample()).lost,  # type: ignore[union-attr]
            "highest_limit_per_s": highest,
            "latency_p50_ms": watch.latency_ms(0.5),
            "latency_p99_ms": watch.latency_ms(0.99),
            "guest_stalled_ms": int.from_bytes(stalled[:8], "little"),
            "watch_stalled_ms": late // 10**6,
            "heartbeats_sent": watch.heartbeats()[0].sent,
            "heartbeats_back": watch.heartbeats()[0].received,
            "heartbeats_foreign": sum(way.foreign for way in watch.heartbeats()),
        }
    )


def main() -> None:
    """The whole of it; with `--only-flood DEVICE RATE SECONDS` the flood alone, in the namespace of the caller."""
    if sys.argv[1] == "--only-flood":
        flood(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
        return
    parser = argparse.ArgumentParser()
    parser.add_argument("object", type=Path)
    parser.add_argument("--capacity", type=int, default=2000)
    parser.add_argument("--times", type=float, default=10)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--interval", default="20ms")
    parser.add_argument("--misses", type=int, default=2)
    parser.add_argument("--mode", default="xdp")
    parser.add_argument("--on-overload", default="auto")
    parser.add_argument("--hang", type=float, default=0)
    parser.add_argument("--alike", action="store_true", help="frames that look like our heartbeats")
    asked = parser.parse_args()
    netns.leave()
    wires()
    for name in TAPS:
        tap.ensure(name)
    fds = (tap.open_tap(TAPS[0]), tap.open_tap(TAPS[1]))
    stalled = mmap.mmap(-1, 8)
    forwarder = child(lambda: forward(fds, asked.capacity, stalled))
    for fd in fds:
        os.close(fd)
    datapath = Datapath.open(asked.object)
    try:
        datapath.attach_segment("main", "lan0", "wan0", asked.mode, whole=asked.mode == "xdp")
        for name, side in zip(TAPS, Side, strict=True):
            datapath.attach_hop(name, "ips", "main", side, mode=asked.mode)
        rule = model.Rule(name="all", path=("ips",), on_overload=asked.on_overload)
        segment = model.Segment(name="main", lan="lan0", wan="wan0")
        datapath.set_policy(model.Config(segment=(segment,), guest=(model.Guest(name="ips"),), rule=(rule,)))
        datapath.leases.renew_supervisor(time.monotonic_ns() + FAR)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(asyncio.run(scenario(asked, datapath, forwarder, stalled, Path(folder)))))
    finally:
        datapath.unload()
        os.kill(forwarder, signal.SIGKILL)
        os.waitpid(forwarder, 0)


if __name__ == "__main__":
    main()
