# SPDX-License-Identifier: GPL-2.0-only
"""`canary NAME compare`: the real command, control socket and datapath, under traffic."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from boardspec import REPO
from simulator import netns

from appliance.api.schema import methods, state
from appliance.api.schema.remotes import Remote
from appliance.api.server import ControlServer, Params, Registry
from appliance.steering import answers
from appliance.steering.capture_api import Captures
from appliance.steering.datapath import Datapath
from console.commands.canary import SETTLE_S
from tests.support.wire import Wire
from tests.support.wired_datapath import CANARY, two_guests

pytestmark = pytest.mark.root

PACE_S = 0.005
"""Between two bursts of 32 frames each way: fewer than a round keeps (`canary.MOST`), which has no sample of non-IP."""


@contextmanager
def served(made: Datapath, path: Path) -> Iterator[None]:
    """The datapath behind a control socket, as far as the command asks."""
    registry = Registry()
    Captures(lambda: (CANARY, made)).register(registry)

    async def mirrors(_: Params) -> list[state.Mirror]:
        return [answers.mirror("canary", ["main"], CANARY.rule, True, None)]

    async def groups(_: Params) -> list[state.Group]:
        return []

    async def remotes(_: Params) -> list[Remote]:
        return []

    registry.add(methods.MIRRORS_SHOW, mirrors, doc="mirrors")
    registry.add(methods.GROUPS_SHOW, groups, doc="groups")
    registry.add(methods.REMOTES_SHOW, remotes, doc="remotes")
    server, loop = ControlServer(path, registry), asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


@contextmanager
def slowly_forwarding(space: str, first: str, second: str, delay_s: float) -> Iterator[None]:
    """Frames that come out of one device of a namespace go into the other one, so much later."""

    def opened(name: str) -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        made.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING
        made.bind((name, 0x0003))
        made.setblocking(False)
        return made

    ends = [netns.enter(space, lambda name=name: opened(name)) for name in (first, second)]  # type: ignore[misc]
    over = threading.Event()

    def forward() -> None:
        waiting: deque[tuple[float, int, bytes]] = deque()
        while not over.wait(0.002):
            for at, end in enumerate(ends):
                with suppress(BlockingIOError):
                    while True:
                        waiting.append((time.monotonic() + delay_s, 1 - at, end.recv(2048)))
            while waiting and waiting[0][0] < time.monotonic():
                _, to, frame = waiting.popleft()
                ends[to].send(frame)

    thread = threading.Thread(target=forward)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)
        for end in ends:
            end.close()


def compared(
    wire: Wire, path: Path, *, words: tuple[str, ...] = ("canary", "compare", "4"), pace_s: float = PACE_S
) -> dict[str, Any]:
    """What the command says about the traffic that flows meanwhile."""
    environ = {**os.environ, "BYPASS_SOCKET": str(path), "PYTHONPATH": str(REPO)}
    process = subprocess.Popen(
        [sys.executable, "-m", "console", "canary", *words, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ,
    )  # fmt: skip
    while process.poll() is None:
        assert wire.stream(32) == []
        time.sleep(pace_s)
    out, said = process.communicate()
    assert process.returncode == 0, said
    found: dict[str, Any] = json.loads(out)
    return found


def test_a_like_guest_is_as_before_and_one_that_drops_differs(wire: Wire, bpf_object: Path, tmp_path: Path) -> None:
    """Two bridges; then one port of the mirror's is taken out of it, so nothing comes through from LAN to WAN."""
    with two_guests(wire, bpf_object) as made, served(made, tmp_path / "control.sock"):
        found = compared(wire, tmp_path / "control.sock")
        assert found["different_frames"] == 0, found
        assert found["compared_frames"] > 0, found
        (same,) = found["verdicts"]
        assert (same["hop"], same["mirror"], same["alike"]) == ("forwarded", "forwarded", True)
        assert {row["hop"] for row in found["latency"] if row["p50_ms"] > 0} == {"ips", "canary"}
        netns.run("ip", "-n", f"{wire.guest}m", "link", "set", "mw", "nomaster")
        found = compared(wire, tmp_path / "control.sock")
        assert not found["as_before"]
        assert found["message"].startswith("differs: ")
        assert {(row["hop"], row["mirror"]) for row in found["verdicts"]} == {("forwarded", "dropped")}
        assert wire.stream(32) == []


def test_a_slow_mirror_is_slower_and_drops_nothing(wire: Wire, bpf_object: Path, tmp_path: Path) -> None:
    """It takes longer than a round usually lasts, as an emulated guest on a busy machine does."""
    space = f"{wire.guest}m"
    with two_guests(wire, bpf_object) as made, served(made, tmp_path / "control.sock"):
        for name in ("ml", "mw"):
            netns.run("ip", "-n", space, "link", "set", name, "nomaster")
        with slowly_forwarding(space, "ml", "mw", SETTLE_S + 0.3):
            found = compared(wire, tmp_path / "control.sock", pace_s=0.05)
        assert found["compared_frames"] > 0, found
        assert found["different_frames"] == 0, found
        assert found["slower"] == ["median", "99th percentile"]
        assert not found["as_before"]


def test_only_a_mirror_can_be_compared(wire: Wire, bpf_object: Path, tmp_path: Path) -> None:
    with two_guests(wire, bpf_object) as made, served(made, tmp_path / "control.sock"):
        environ = {**os.environ, "BYPASS_SOCKET": str(tmp_path / "control.sock"), "PYTHONPATH": str(REPO)}
        done = subprocess.run(
            [sys.executable, "-m", "console", "canary", "ips", "compare"],
            capture_output=True, text=True, env=environ, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert '"ips" is no mirror; there is: canary' in done.stderr
