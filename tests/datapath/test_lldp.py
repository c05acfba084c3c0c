# SPDX-License-Identifier: GPL-2.0-only
"""LLDP with the real lldpd at both ends of a cable, and with what it must not reach."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulator import netns

from appliance.api.schema.machine import Lldp
from appliance.config.schema import model
from appliance.config.schema.model import Config
from appliance.hardware import board
from appliance.management.discovery import FOLDER, Discovery
from appliance.management.port import ManagementPort
from appliance.paths import Paths
from appliance.system.namespace import Namespace
from appliance.system.service import Program

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("lldpd") is None, reason="lldpd is not installed"),
]

PORT = "mgmt0"
_counter = itertools.count()


class Net:
    """The management port as a bridge with its hardware port and a guest's tap, each with a station behind it."""

    def __init__(self, folder: Path) -> None:
        key = f"tw{os.getpid()}l{next(_counter)}"
        self.space, self.switch, self.guest = Namespace(f"{key}a"), f"{key}s", f"{key}g"
        for name in (self.space.name, self.switch, self.guest):
            netns.create(name)
        inside = self.space.name
        self.ip(inside, "link", "add", f"{PORT}-hw", "type", "veth", "peer", "name", "eth0", "netns", self.switch)
        self.ip(inside, "link", "add", "tap0", "type", "veth", "peer", "name", "eth0", "netns", self.guest)
        self.ip(inside, "link", "add", PORT, "type", "bridge")
        for member in (f"{PORT}-hw", "tap0"):
            self.ip(inside, "link", "set", member, "master", PORT)
        self.ip(inside, "address", "add", "10.88.0.2/24", "dev", PORT)
        for name, device in ((inside, f"{PORT}-hw"), (inside, "tap0"), (inside, PORT)):
            self.ip(name, "link", "set", device, "up")
        for name in (self.switch, self.guest):
            self.ip(name, "link", "set", "eth0", "up")
        self.folder = folder
        ports = [board.Port(name=PORT, mac="02:ff:ff:ff:ff:01", role="management")]
        self.port = ManagementPort(ports, self.space, Program("dhcp", folder, folder / "log"), folder / "lease")

    def ip(self, name: str, *words: str) -> None:
        netns.run("ip", "-n", name, *words)

    def close(self) -> None:
        for name in (self.space.name, self.switch, self.guest):
            netns.delete(name)


@pytest.fixture
def net() -> Iterator[Net]:
    with tempfile.TemporaryDirectory(prefix="tw-lldp-") as folder:
        Path(folder).chmod(0o755)  # lldpcli opens the socket without root's rights
        made = Net(Path(folder))
        yield made
        made.close()


@pytest.fixture(autouse=True)
def _chroot() -> Iterator[None]:
    """The folder that lldpd confines itself to is a constant of its build."""
    there = Path("/", FOLDER)
    new = not there.exists()
    there.mkdir(exist_ok=True)
    yield
    if new:
        shutil.rmtree(there)


def ours(net: Net) -> Discovery:
    program = Program("lldp", net.folder, net.folder / "lldp.log")
    return Discovery(Paths(net.folder), net.port, program)


def peer(net: Net, namespace: str) -> Discovery:
    """A neighbour that runs the same program, with a port of its own."""
    folder = net.folder / namespace
    folder.mkdir()
    netns.run("ip", "-n", namespace, "link", "set", "eth0", "down")
    netns.run("ip", "-n", namespace, "link", "set", "eth0", "name", "port7-hw")
    netns.run("ip", "-n", namespace, "link", "set", "port7-hw", "up")
    ports = [board.Port(name="port7", mac="02:ff:ff:ff:ff:02", role="management")]
    space = Namespace(namespace)
    port = ManagementPort(ports, space, Program("dhcp", folder, folder / "log"), folder / "lease")
    return Discovery(Paths(folder), port, Program("lldp", folder, folder / "lldp.log"))


def config(mode: str, hostname: str) -> Config:
    return Config(
        system=model.System(hostname=hostname),
        management=model.Management(address="10.88.0.2/24", lldp=mode),  # type: ignore[arg-type]
    )


async def neighbours(of: Discovery, wanted: int = 1) -> Lldp:
    """What it shows once it answers and has so many neighbours."""
    ends = time.monotonic() + 40  # lldpd sends at its start and then every 30 s
    while True:
        shown = await of.show()
        if (not shown.detail and len(shown.neighbours) >= wanted) or time.monotonic() > ends:
            assert shown.detail == ""
            return shown
        await asyncio.sleep(0.2)


def test_both_ends_know_each_other_and_a_guest_hears_nothing(net: Net) -> None:
    wire, switch, guest = ours(net), peer(net, net.switch), peer(net, net.guest)

    async def body() -> None:
        try:
            await guest.converge(config("receive", "guest1"))
            await switch.converge(config("receive", "switch7"))
            for listener in (guest, switch):
                await neighbours(listener, 0)
            await wire.converge(config("on", "wire1"))
            (seen,) = (await neighbours(switch)).neighbours
            assert (seen.name, seen.port, seen.port_description) == ("wire1", "mgmt0", "management port")
            assert seen.capabilities == ["station"]
            assert "10.88.0.2" in seen.addresses
            assert seen.description == "Throughwire bypass appliance"
            assert (await guest.show()).neighbours == []
            assert (await wire.show()).neighbours == [], "the switch only listens"

            await wire.converge(config("receive", "wire1"))
            await neighbours(wire, 0)
            await switch.converge(config("on", "switch7"))
            (seen,) = (await neighbours(wire)).neighbours
            assert (seen.name, seen.port) == ("switch7", "port7")
            shown = await wire.show()
            assert (shown.state, shown.port) == ("receive", PORT)
            assert (await switch.show()).neighbours == [], "whoever only receives says nothing, also not its name"
        finally:
            for one in (wire, switch, guest):
                await one.program.want(None)

    asyncio.run(body())


def test_a_later_bypassd_finds_the_program_that_runs(net: Net) -> None:
    async def body() -> None:
        first, later = ours(net), ours(net)
        try:
            await first.converge(config("on", "wire1"))
            pid = first.program.pid
            await neighbours(first, 0)
            first.program.leave()
            await later.converge(config("on", "wire1"))
            assert later.program.pid == pid
        finally:
            await later.program.want(None)

    asyncio.run(body())
