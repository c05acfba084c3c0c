# SPDX-License-Identifier: GPL-2.0-only
"""Taps with several queues: frames of one processor stay in one queue, so none overtakes another of its flow."""

from __future__ import annotations

import asyncio
import os
import select
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from simulator import netns

from appliance.config.schema import model
from appliance.guest.port import tap
from appliance.guest.port.tap import TapInUseError
from appliance.health.inband import make_nonce
from appliance.health.packet_socket import PacketSocket
from appliance.health.verdict import Decision, History
from appliance.health.watch import TapPair, Watch
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.layout import Side
from appliance.units import Duration
from tests.support.numbered_flows import (
    EVEN,
    FLOWS,
    ODD,
    QUEUES,
    Arrivals,
    Inside,
    frame,
    on,
    opened,
    overtaken,
    pour,
    pour_from_both,
    what,
)
from tests.support.waiting import wait_until
from tests.support.wire import WAN_MAC, Wire
from tests.support.wired_datapath import ALL, available

pytestmark = [pytest.mark.root, pytest.mark.skipif(not (EVEN and ODD), reason="needs two processors")]

TAPS = ("several0", "several1")
FRAMES = 6400  # from each processor


@pytest.fixture(scope="module")
def queued() -> Iterator[Wire]:
    """Its LAN and WAN have a queue for each processor, as a port has."""
    with Wire() as wire:
        for name, space in (("lan0", wire.lan), ("wan0", wire.wan)):
            netns.run("ip", "-n", wire.box, "link", "del", name)
            words = ["link", "add", name, *QUEUES, "type", "veth", "peer", "name", "eth0", *QUEUES, "netns", space]
            netns.run("ip", "-n", wire.box, *words)
            netns.run("ip", "netns", "exec", space, "ethtool", "-K", "eth0", "gro", "on")
            netns.run("ip", "-n", wire.box, "link", "set", name, "up", "promisc", "on")
            netns.run("ip", "-n", space, "link", "set", "eth0", "up")
        yield wire


@contextmanager
def taps(wire: Wire) -> Iterator[None]:
    """Two taps with two queues each."""
    try:
        for name in TAPS:
            wire.inside(lambda name=name: tap.ensure(name, 2))  # type: ignore[misc]
        yield
    finally:
        for name in TAPS:
            wire.inside(lambda name=name: tap.remove(name))  # type: ignore[misc]


def attach(wire: Wire, made: Datapath, mode: str) -> None:
    def body() -> None:
        made.attach_segment("main", "lan0", "wan0", mode, whole=mode == "xdp")
        for name, side in zip(TAPS, Side, strict=True):
            made.attach_hop(name, "ips", "main", side)

    wire.inside(body)


class Appliance:
    """It has a hop that is these taps, and everything goes through it. Loading it takes a while, so it is kept."""

    def __init__(self, wire: Wire, path: Path, mode: str) -> None:
        self._wire, self._path, self._mode = wire, path, mode
        self.datapath = Datapath.open(path, wire.pins)

    def begin(self) -> None:
        """What a bypassd does with what it opened."""
        for name in TAPS:
            self._wire.inside(lambda name=name: tap.ensure(name, 2))  # type: ignore[misc]
        attach(self._wire, self.datapath, self._mode)
        self.datapath.set_policy(ALL)
        available(self.datapath)

    def next_bypassd(self) -> None:
        """Another one takes over what the kernel holds."""
        self.datapath.close()
        self.datapath = Datapath.open(self._path, self._wire.pins)
        self.begin()


@pytest.fixture(scope="module", params=["xdp", "tc"])
def appliance(request: pytest.FixtureRequest, queued: Wire, bpf_object: Path) -> Iterator[Appliance]:
    with taps(queued):
        made = Appliance(queued, bpf_object, request.param)
        try:
            made.begin()
            yield made
        finally:
            made.datapath.unload()


def at_lan(wire: Wire) -> Inside:
    return lambda body: netns.enter(wire.lan, body)


def at_wan(wire: Wire) -> Inside:
    return lambda body: netns.enter(wire.wan, body)


def waiting_in(fd: int) -> list[tuple[int, int]]:
    """The frames in this queue, in order."""
    found: list[tuple[int, int]] = []
    while True:
        try:
            data = os.read(fd, 2048)
        except BlockingIOError:
            return found
        if data[:6] == WAN_MAC:
            found.append(what(data))


def opened_queues(wire: Wire, name: str) -> tuple[int, ...]:
    """Open a tap as QEMU does. Until the kernel has noticed, some time later, frames that tc sends there are lost."""
    fds = wire.inside(lambda: tap.open_queues(name, 2))
    wait_until(lambda: "state UP" in netns.run("ip", "-n", wire.box, "link", "show", name), f"{name} is up")
    return fds


@pytest.mark.usefixtures("appliance")
def test_frames_stay_in_the_queue_of_their_processor(queued: Wire) -> None:
    """Whatever their flow is: those that processor N receives are in queue N modulo 2, with XDP and with tc."""
    lan = opened_queues(queued, TAPS[0])
    found: list[list[tuple[int, int]]] = [[], []]
    try:
        with opened(at_lan(queued), "eth0", send=True) as out:
            for processor in (EVEN[0], ODD[0]):
                with on(processor):
                    for flow in range(FLOWS):
                        out.send(frame(flow + FLOWS * (processor % 2), 0))

        def all_there() -> bool:
            for queue, fd in enumerate(lan):
                found[queue] += waiting_in(fd)
            return sum(map(len, found)) >= 2 * FLOWS

        wait_until(all_there, "the arrival of each frame", explain=lambda: found)
    finally:
        for fd in lan:
            os.close(fd)
    assert [sorted(flow for flow, _ in queue) for queue in found] == [list(range(FLOWS)), list(range(FLOWS, 2 * FLOWS))]


@pytest.mark.usefixtures("appliance")
def test_a_heartbeat_enters_by_the_queue_that_it_is_for(queued: Wire) -> None:
    """From whatever processor it is sent; of queues that the guest does not use, it takes one that it does."""
    fds = opened_queues(queued, TAPS[0])
    sock = queued.inside(lambda: PacketSocket(TAPS[0], 0x0800, b"abcd"))
    try:
        for processor in (EVEN[0], ODD[0]):
            with on(processor):
                for queue in range(4):
                    sock.send(frame(queue, 0), queue)
        assert sock.refused == 0
        assert [[flow for flow, _ in waiting_in(fd)] for fd in fds] == [[0, 2, 0, 2], [1, 3, 1, 3]]
    finally:
        sock.close()
        for fd in fds:
            os.close(fd)


@pytest.fixture(scope="session")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's stand-in: what a queue of one tap brings, it writes to the same queue of the other."""
    made = tmp_path_factory.mktemp("echo") / "echo"
    source = Path(__file__).parents[1] / "bench" / "echo.c"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", str(made), str(source)], check=True)
    return made


@contextmanager
def echoing(wire: Wire, echo: Path) -> Iterator[None]:
    """A thread on each of two processors passes the frames of one queue on."""
    words = ["ip", "netns", "exec", wire.box, str(echo), *TAPS, str(EVEN[0]), str(ODD[0])]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.kill()
        process.wait()


def test_no_frame_overtakes_another_one_of_its_flow(queued: Wire, appliance: Appliance, echo: Path) -> None:
    """64 flows from two processors at once, through two queues and two threads of a guest: 0 are reordered."""
    before = appliance.datapath.counters().hops["ips"].to_frames
    with echoing(queued, echo):
        arrivals = Arrivals(at_wan(queued), "eth0")
        try:
            pour_from_both(at_lan(queued), "eth0", FRAMES, arrivals)
            wait_until(lambda: len(arrivals.frames) == 2 * FRAMES, "each frame", explain=lambda: len(arrivals.frames))
        finally:
            arrivals.close()
    assert appliance.datapath.counters().hops["ips"].to_frames - before == 2 * FRAMES
    assert sorted(Counter(flow for flow, _ in arrivals.frames).items()) == [
        (flow, FRAMES // FLOWS) for flow in range(2 * FLOWS)
    ]
    assert overtaken(arrivals.frames) == 0


@pytest.mark.usefixtures("appliance")
def test_a_flow_that_changes_its_processor_is_seen_to_be_reordered(queued: Wire) -> None:
    """The other half of the proof: what is counted is there where a guest serves the second queue first."""
    lan, wan = (opened_queues(queued, name) for name in TAPS)
    arrivals = Arrivals(at_wan(queued), "eth0")
    try:
        with opened(at_lan(queued), "eth0", send=True) as out:
            for number, processor in enumerate((EVEN[0], ODD[0])):
                with on(processor):
                    out.send(frame(0, number))
        for queue in (1, 0):
            assert select.select([lan[queue]], [], [], 10)[0]
            os.write(wan[queue], os.read(lan[queue], 2048))
        wait_until(lambda: len(arrivals.frames) == 2, "both frames")
    finally:
        arrivals.close()
        for fd in (*lan, *wan):
            os.close(fd)
    assert overtaken(arrivals.frames) == 1


def test_another_bypassd_finds_the_queues_in_use(queued: Wire, appliance: Appliance, echo: Path) -> None:
    """The reader keeps them: no frame is lost or reordered meanwhile; nobody else can take or remove the tap."""
    with echoing(queued, echo):
        arrivals = Arrivals(at_wan(queued), "eth0")
        try:
            out = opened(at_lan(queued), "eth0", send=True)
            sender = threading.Thread(target=pour, args=(out, EVEN[0], FRAMES, arrivals))
            sender.start()
            appliance.next_bypassd()
            sender.join()
            wait_until(lambda: len(arrivals.frames) == FRAMES, "each frame", explain=lambda: len(arrivals.frames))
            assert overtaken(arrivals.frames) == 0
            assert queued.inside(lambda: [tap.used_queues(name) for name in TAPS]) == [2, 2]
            for taken in (tap.remove, lambda name: tap.open_queues(name, 2)):
                with pytest.raises(TapInUseError):
                    queued.inside(lambda taken=taken: taken(TAPS[0]))  # type: ignore[misc]
        finally:
            arrivals.close()


@pytest.mark.parametrize(("was", "becomes"), [(1, 2), (2, 1)])
def test_a_tap_made_for_another_number_of_queues_is_replaced(wire: Wire, was: int, becomes: int) -> None:
    """Also while the QEMU that was started with the former number still has it open."""

    def body() -> None:
        tap.ensure("changed", was)
        old = tap.open_queues("changed", was)
        tap.ensure("changed", becomes)
        fresh = tap.open_queues("changed", becomes)
        try:
            assert tap.used_queues("changed") == becomes
            with pytest.raises(OSError, match="descriptor in bad state"):
                os.read(old[0], 100)
        finally:
            for fd in (*old, *fresh):
                os.close(fd)
            tap.remove("changed")

    wire.inside(body)


class Guest:
    """Serves each queue in a thread of its own, unless it is told that one hangs; and the watch's subject."""

    def __init__(self, lan: tuple[int, ...], wan: tuple[int, ...]) -> None:
        self.hung = [False] * len(lan)
        self.over = False
        self.decisions: list[Decision] = []
        self.changed = asyncio.Event()
        queues = enumerate(zip(lan, wan, strict=True))
        self.threads_ = [threading.Thread(target=self._serve, args=(queue, *both)) for queue, both in queues]
        for thread in self.threads_:
            thread.start()

    def _serve(self, queue: int, lan: int, wan: int) -> None:
        while not self.over:
            for fd in select.select([lan, wan], [], [], 0.05)[0]:
                data = os.read(fd, 2048)
                if not self.hung[queue]:
                    os.write(wan if fd == lan else lan, data)

    def on_decision(self, decision: Decision) -> None:
        self.decisions.append(decision)
        self.changed.set()

    def process_alive(self) -> bool:
        return True

    def threads(self) -> tuple[int, tuple[int, ...]]:
        return os.getpid(), ()

    async def ask_agent(self, word: str) -> str:
        return word


def test_a_guest_that_does_not_serve_one_queue_is_found_out(queued: Wire, appliance: Appliance) -> None:
    """Heartbeats go by every queue: the one whose frames are lost is named, and the guest is not available."""

    async def watched(guest: Guest) -> str:
        guest.changed = asyncio.Event()
        probe = model.Probe(kind="inband", interval=Duration.parse("20ms"), misses=2)
        config = model.Guest(name="ips", cpus=2, queues=2, probes=(probe,), hold=Duration(0))
        nonce = make_nonce(appliance.datapath.heartbeat_key("ips"))
        watch = Watch(config, 1, (TapPair(*TAPS),), nonce, history=History(), subject=guest, folder=Path("/"), queues=2)
        watch.start()
        try:
            async with asyncio.timeout(60):
                for available in (True, False):
                    while watch.verdict.available is not available:
                        guest.changed.clear()
                        await guest.changed.wait()
                    guest.hung[1] = True
            now = time.monotonic_ns()
            return next(row.check for row in watch.verdict.evidence(now) if row.state == "failing")
        finally:
            watch.stop()

    def body() -> str:
        lan, wan = (tap.open_queues(name, 2) for name in TAPS)
        guest = Guest(lan, wan)
        try:
            return asyncio.run(watched(guest))
        finally:
            guest.over = True
            for thread in guest.threads_:
                thread.join()
            for fd in (*lan, *wan):
                os.close(fd)

    assert queued.inside(body).endswith("queue 1")
