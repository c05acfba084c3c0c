# SPDX-License-Identifier: GPL-2.0-only
"""Guests in a network namespace of their own: real QEMU, real taps, the real datapath, and the parts of a bypassd.

Everything runs in one thread in a new namespace, with its own event loop; a test passes coroutines to it. The namespace
ends with the thread and the guests, which `close` ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import boardspec
from simulator import netns

from appliance.config.schema import model
from appliance.guest.guest import Guest
from appliance.guest.manager import GuestManager
from appliance.guest.port.management_lan import Lan, lan_of
from appliance.hop.lifecycle import HopState
from appliance.paths import Paths
from appliance.steering.datapath import Datapath
from appliance.steering.overlay import Overlay, apply
from appliance.telemetry.subject import Kind, Subject
from appliance.telemetry.transitions import Transitions
from tests.support.numbered_flows import QUEUES

T = TypeVar("T")
LIMIT_S = 120.0
DEADMAN_NS = 1_000_000_000


class Steered:
    """Applies overlays to the policy like the part "steering"."""

    def __init__(self, datapath: Datapath, config: model.Config) -> None:
        self._datapath, self._config, self.overlay = datapath, config, Overlay()

    async def lay_over(self, overlay: Overlay) -> None:
        self._datapath.set_policy(apply(self._config, overlay))
        self.overlay = overlay


class World:
    """One appliance's guests. `root` is the folder of its files."""

    def __init__(self, root: Path, bpf_object: Path, image: Path, config: model.Config, lan: Lan | None = None) -> None:
        self.paths, self.config, self._object = Paths(root), config, bpf_object
        self.lan = lan or lan_of(self.paths)
        folder = root / "guest-demo"
        folder.mkdir(parents=True)
        for name, source in (("bzImage", boardspec.load().arch.kernel.target), ("initrd.gz", "guest-initrd.gz")):
            shutil.copy(image / source, folder / name)
        self.transitions = Transitions()
        self._changed: asyncio.Event
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._trouble: BaseException | None = None
        self._thread = threading.Thread(target=self._live, name="world")
        self._thread.start()
        self._up.wait()
        if self._trouble is not None:
            raise self._trouble

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            netns.leave()
            for port, host in (("lan0", "lan"), ("wan0", "wan")):
                words = ["ip", "link", "add", port, *QUEUES, "type", "veth", "peer", "name", host, *QUEUES]
                subprocess.run(words, check=True)
                for name in (port, host):
                    # Quiet and with room for two tags; frames leave whole.
                    Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
                    subprocess.run(["ip", "link", "set", name, "mtu", "4000", "up"], check=True)
                # Without NAPI at the host's end a veth pair accepts no frames from XDP.
                subprocess.run(["ethtool", "-K", host, "gro", "on"], check=True)
            self.datapath = Datapath.open(self._object)
            segment = self.config.segment[0]
            self.datapath.attach_segment(segment.name, segment.lan, segment.wan)
            self.datapath.set_policy(self.config)
            self._changed = asyncio.Event()
            self.transitions.listen(lambda *_: self._changed.set())
            deadman = self._loop.create_task(self._deadman())
            self._loop.run_until_complete(self.begin())
        except BaseException as error:
            self._trouble = error
            return
        finally:
            self._up.set()
        self._loop.run_forever()
        deadman.cancel()
        self._loop.run_until_complete(asyncio.gather(deadman, return_exceptions=True))
        self.datapath.unload()

    async def _deadman(self) -> None:
        while True:
            self.datapath.leases.renew_supervisor(time.monotonic_ns() + DEADMAN_NS)
            await asyncio.sleep(DEADMAN_NS / 4e9)

    def call(self, work: Coroutine[Any, Any, T], limit: float = LIMIT_S) -> T:
        """Run a coroutine in the world's thread; returns its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(limit)

    async def begin(self) -> None:
        """Do what a fresh bypassd does."""
        self.steered = Steered(self.datapath, self.config)
        self.manager = GuestManager(
            self.config, self.paths, self.datapath, self.transitions, steered=self.steered, accel="tcg", lan=self.lan
        )
        await self.manager.start()
        self._running = self._loop.create_task(self.manager.run(lambda: None))

    async def end(self) -> None:
        """Leave what remains without bypassd: the guests, and nothing of bypassd itself."""
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running

    async def reconfigure(self, config: model.Config) -> None:
        """Commit another configuration of the guests."""
        await self.manager.add_new(config)
        await self.manager.apply(config)
        self.config = config

    def processor_time(self) -> float:
        """The processor time of the world's thread so far, in seconds."""
        return self.call(self._processor_time())

    async def _processor_time(self) -> float:
        return time.thread_time()

    def inside(self, body: Callable[[], T]) -> T:
        """Run a function in a thread of its own in the namespace: the loop is bypassd's, and must not wait."""

        async def beside() -> T:
            return await asyncio.to_thread(body)

        return self.call(beside())

    def guest(self, name: str = "ips1") -> Guest:
        return self.manager.guest(name)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a transition after which the condition is true."""
        async with asyncio.timeout(LIMIT_S):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def reach(self, state: HopState, name: str = "ips1") -> None:
        await self.until(lambda: self.guest(name).state is state)

    def states(self, name: str = "ips1") -> list[str]:
        """The guest's states so far, in order."""
        return [entry.new for entry in self.transitions.entries() if entry.subject == Subject(Kind.GUEST, name)]

    async def order(self, action: Callable[[Guest], object], name: str = "ips1") -> object:
        return action(self.guest(name))

    async def pass_frame(self, frame: bytes, enter: str, leave: str) -> bytes | None:
        """Send a frame into one host's side of the wire; returns the frame at the other's, or None."""
        with (
            # Without a protocol until it is bound, or it would receive frames of all devices, including our heartbeats.
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as out,
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as into,
        ):
            out.setsockopt(263, 8, 1)  # PACKET_AUXDATA: the outer tag comes as metadata
            out.bind((leave, 0x0003))
            out.setblocking(False)
            into.bind((enter, 0))
            into.send(frame)
            readable = asyncio.Event()
            self._loop.add_reader(out, readable.set)
            try:
                async with asyncio.timeout(10):
                    await readable.wait()
            except TimeoutError:
                return None
            finally:
                self._loop.remove_reader(out)
            data, extra, _, _ = out.recvmsg(65536, 256)
            return with_tag(data, extra)

    def close(self) -> None:
        """End guests and namespace."""
        if self._trouble is None:
            self.call(self.end())
            for folder in self.paths.guests.iterdir():
                from appliance.guest.process_start import end_process

                end_process(folder)
            self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def with_tag(data: bytes, extra: list[tuple[int, int, bytes]]) -> bytes:
    for level, kind, value in extra:
        status = int.from_bytes(value[0:4], "little")
        if (level, kind) == (263, 8) and status & 0x10:
            tci, tpid = int.from_bytes(value[16:18], "little"), int.from_bytes(value[18:20], "little")
            return data[:12] + tpid.to_bytes(2, "big") + tci.to_bytes(2, "big") + data[12:]
    return data
