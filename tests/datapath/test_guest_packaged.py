# SPDX-License-Identifier: GPL-2.0-only
"""Third-party guests behind the real datapath: an inspecting bridge and a routed firewall, under emulation.

The tests observe the wire: the link passes everything while a guest starts, the guest's rules apply while it has the
traffic, and the link passes everything again at once when its application is killed or the guest is stopped.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from appliance.config.schema import model
from appliance.guest.show import details
from appliance.hop.lifecycle import HopState
from appliance.units import Duration, Size
from tests.guests.build import FIREWALL, INSPECTOR, Recipe, build
from tests.support import board_harness
from tests.support.guest_world import World

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SEGMENT = model.Segment(name="main", lan="lan0", wan="wan0")


def guest(recipe: Recipe, **more: object) -> model.Guest:
    values: dict[str, object] = {
        "kernel": f"/{recipe.name}/vmlinuz",
        "initrd": f"/{recipe.name}/initrd.gz",
        "cmdline": "console=ttyS0 quiet",
        **more,
    }
    return model.Guest(name=recipe.name, **values)  # type: ignore[arg-type]


def make_world(bpf_object: Path, recipe: Recipe, config: model.Config) -> World:
    root = Path(tempfile.mkdtemp(prefix="tw-guests-"))
    (root / recipe.name).mkdir()
    for file in ("vmlinuz", "initrd.gz"):
        shutil.copy(build(recipe) / file, root / recipe.name)
    return World(root, bpf_object, board_harness.artefacts(), config)


def end_world(world: World) -> None:
    world.close()
    shutil.rmtree(world.paths.root)


# The inspector: Suricata


@pytest.fixture(scope="module")
def inspector(bpf_object: Path) -> Iterator[World]:
    probe = model.Probe(kind="inband", interval=Duration.parse("100ms"), misses=3)
    config = model.Config(
        segment=(SEGMENT,),
        guest=(guest(INSPECTOR, memory=Size.parse("512M"), probes=(probe,)),),
        rule=(model.Rule(name="all", path=("inspector",)),),
    )
    world = make_world(bpf_object, INSPECTOR, config)
    yield world
    end_world(world)


def datagram(text: bytes, port: int) -> bytes:
    ether = Ether(src="02:00:00:00:01:01", dst="02:00:00:00:01:02")
    return bytes(ether / IP(src="10.77.3.1", dst="10.77.3.2") / UDP(sport=4000, dport=port) / text.ljust(64))


FORBIDDEN = datagram(b"something forbidden", 9999)
GOOD = datagram(b"something else", 9999)


async def first_out(frames: list[bytes]) -> bytes:
    """Send the frames into the LAN's side, in order; the first IP frame that comes out at the WAN's."""
    loop = asyncio.get_running_loop()
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as out,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as into,
    ):
        out.bind(("wan", 0x0800))
        out.setblocking(False)
        into.bind(("lan", 0))
        for frame in frames:
            into.send(frame)
        return await asyncio.wait_for(loop.sock_recv(out, 2048), 20)


def test_the_link_carries_everything_while_it_starts(inspector: World) -> None:
    """Its kernel boots, Suricata reads its rules: until its checks pass, frames bypass it, including forbidden ones."""
    inspector.call(inspector.reach(HopState.PROVING, "inspector"))
    assert inspector.call(first_out([FORBIDDEN])) == FORBIDDEN
    assert inspector.guest("inspector").state is HopState.PROVING
    inspector.call(inspector.reach(HopState.AVAILABLE, "inspector"))


def test_its_rules_hold_while_it_has_the_traffic(inspector: World) -> None:
    """Of two frames the forbidden one does not come out, and the other does, through the guest."""
    before = inspector.datapath.counters().hops["inspector"]
    assert inspector.call(first_out([FORBIDDEN, GOOD])) == GOOD
    assert inspector.datapath.counters().hops["inspector"] != before


def test_without_its_application_it_is_bypassed(inspector: World) -> None:
    """Suricata is killed on the guest's console, the machine keeps running: the link passes everything again."""

    async def type_in(line: str) -> None:
        path = str(inspector.paths.run / "door")
        server = await asyncio.start_unix_server(inspector.guest("inspector").console.attach, path)
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(line.encode())
        await writer.drain()
        await inspector.reach(HopState.SUSPECT, "inspector")
        writer.close()
        server.close()

    inspector.call(type_in("\nkill -9 $(pidof suricata)\n"))
    assert inspector.call(first_out([FORBIDDEN])) == FORBIDDEN
    assert "in-band" in inspector.guest("inspector").hop.detail


# The firewall: nftables, routed

LAN_MAC, WAN_MAC = "02:00:00:00:02:01", "02:00:00:00:02:02"
LAN_IP, WAN_IP = "10.77.2.1", "10.77.2.2"
LINES = itertools.count()  # typed on consoles, which repeat what was said before
SERVER = """
import select, socket, sys
sockets = [socket.create_server(("10.77.2.2", port)) for port in (23, 80)]
print("listening", flush=True)
while True:
    for ready in select.select(sockets, [], [])[0]:
        ready.accept()[0].close()
"""

WATCH = """
import socket
link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3)
link.bind(("wan", 3))
print("watching", flush=True)
count = 0
while True:
    frame = link.recv(2048)
    count += b"TWHB" in frame
    if frame[23] == 6 and frame[36:38] == bytes((0, 80)):
        break
print(count, "heartbeats", flush=True)
"""


class Hosts:
    """A host at each side, in a namespace of its own, with the world's cable in it."""

    def __init__(self, world: World) -> None:
        self.spaces = {side: f"twg{os.getpid()}{side}" for side in ("lan", "wan")}
        for space in self.spaces.values():
            subprocess.run(["ip", "netns", "add", space], check=True)
        world.call(self._move())
        for side, mac, address in (("lan", LAN_MAC, LAN_IP), ("wan", WAN_MAC, WAN_IP)):
            for words in (
                f"link set {side} address {mac}",
                f"address add {address}/24 dev {side}",
                f"link set {side} up",
            ):
                subprocess.run(["ip", "-n", self.spaces[side], *words.split()], check=True)
            # Frames leave whole, with their checksums: nothing behind a veth pair would complete them.
            words = f"ethtool -K {side} tx off gro on"
            subprocess.run(["ip", "netns", "exec", self.spaces[side], *words.split()], check=True, capture_output=True)
        self._server = self.python("wan", SERVER)
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == b"listening\n"

    async def _move(self) -> None:
        for side, space in self.spaces.items():
            subprocess.run(["ip", "link", "set", side, "netns", space], check=True)

    def python(self, side: str, code: str) -> subprocess.Popen[bytes]:
        words = ["ip", "netns", "exec", self.spaces[side], sys.executable, "-c", code]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def connects(self, port: int) -> bool:
        """Whether the LAN's host reaches this port of the WAN's within two seconds."""
        code = f"import socket; socket.create_connection(('{WAN_IP}', {port}), 2)"
        with self.python("lan", code) as client:
            return client.wait(20) == 0

    def ttl(self) -> int:
        """The time to live that an echo has left when it comes back: a router takes one on each way."""
        words = f"ip netns exec {self.spaces['lan']} ping -c 1 -W 5 {WAN_IP}".split()
        answer = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        return int(answer.split("ttl=")[1].split()[0])

    def close(self) -> None:
        self._server.kill()
        self._server.communicate()
        for space in self.spaces.values():
            subprocess.run(["ip", "netns", "delete", space], check=True)


@pytest.fixture(scope="module")
def firewall(bpf_object: Path) -> Iterator[tuple[World, Hosts]]:
    made = guest(
        FIREWALL,
        memory=Size.parse("256M"),
        cmdline="console=ttyS0 quiet management=169.254.1.2/24 hop=01",
        management="isolated",
        lan_mac=WAN_MAC,
        wan_mac=LAN_MAC,
        accept="ip",
        autostart=False,
        probes=(
            model.Probe(kind="ping", target="169.254.1.2", interval=Duration.parse("200ms"), misses=3),
            model.Probe(
                kind="inband",
                interval=Duration.parse("100ms"),
                misses=3,
                routed=model.Routed(lan="198.18.0.1", wan="198.18.0.2"),
            ),
            model.Probe(
                kind="inband",
                interval=Duration.parse("100ms"),
                misses=3,
                routed=model.Routed(lan="2001:2::1", wan="2001:2::2"),
            ),
        ),
    )
    config = model.Config(
        segment=(SEGMENT,), guest=(made,), rule=(model.Rule(name="ip", match="ip", path=("firewall",)),)
    )
    world = make_world(bpf_object, FIREWALL, config)
    hosts = Hosts(world)
    yield world, hosts
    hosts.close()
    end_world(world)


def test_a_routed_firewall_between_two_neighbours(firewall: tuple[World, Hosts]) -> None:
    """Off: the wire. On: the same hosts, the same addresses, a hop more each way, no telnet. Off again: the wire."""
    world, hosts = firewall
    straight = hosts.ttl()
    assert hosts.connects(23)
    world.call(world.order(lambda g: g.start(), "firewall"))
    world.call(until_printed(world, b"firewall: up"))
    world.call(world.reach(HopState.AVAILABLE, "firewall"))
    assert hosts.ttl() == straight - 1
    assert hosts.connects(80)
    assert not hosts.connects(23)
    rows: Any = details(world.guest("firewall"), time.monotonic_ns()).checks
    checks = {row.check: row.state for row in rows}
    routed = [f"in-band routed {family}{way}" for family in ("", "IPv6 ") for way in ("lan to wan", "wan to lan")]
    assert [checks[check] for check in routed] == ["passing"] * 4
    watching = hosts.python("wan", WATCH)
    assert watching.stdout is not None
    assert watching.stdout.readline() == b"watching\n"
    world.call(more_heartbeats(world))
    assert hosts.connects(80)
    assert watching.communicate()[0] == b"0 heartbeats\n", "they end at the appliance"


@pytest.mark.parametrize(
    ("switch", "check"),
    [("ipv4/ip_forward", "in-band routed "), ("ipv6/conf/all/forwarding", "in-band routed IPv6 ")],
    ids=["IPv4", "IPv6"],
)
def test_a_router_that_does_not_forward_is_bypassed(firewall: tuple[World, Hosts], switch: str, check: str) -> None:
    """It answers pings as before, at its management port; what goes through it does not come out, and is noticed."""
    world, hosts = firewall
    world.call(world.until(lambda: world.guest("firewall").state is HopState.AVAILABLE))
    world.call(type_in(world, f"echo 0 > /proc/sys/net/{switch}"))
    world.call(world.reach(HopState.SUSPECT, "firewall"))
    assert check in world.guest("firewall").hop.detail
    assert hosts.connects(23)
    world.call(type_in(world, f"echo 1 > /proc/sys/net/{switch}"))
    world.call(world.reach(HopState.AVAILABLE, "firewall"))
    assert not hosts.connects(23)


def test_a_routed_firewall_that_is_stopped(firewall: tuple[World, Hosts]) -> None:
    """Off again: the wire."""
    world, hosts = firewall
    straight = hosts.ttl() + 1
    world.call(world.order(lambda g: g.stop(), "firewall"))
    assert hosts.ttl() == straight
    assert hosts.connects(23)


def uefi_disk(folder: Path, path: Path, cmdline: str) -> None:
    """A FAT disk whose start-up script lets the firmware's shell start the kernel, which is an EFI application."""
    script = path.with_suffix(".nsh")
    script.write_text(f"fs0:\\vmlinuz.efi initrd=\\initrd.gz {cmdline}\r\n")
    size = sum((folder / name).stat().st_size for name in ("vmlinuz", "initrd.gz")) + (8 << 20)
    environment = {**os.environ, "MTOOLS_SKIP_CHECK": "1"}
    for words in (
        ["mformat", "-C", "-i", str(path), "-T", str(size // 512), "::"],
        ["mcopy", "-i", str(path), str(folder / "vmlinuz"), "::vmlinuz.efi"],
        ["mcopy", "-i", str(path), str(folder / "initrd.gz"), "::initrd.gz"],
        ["mcopy", "-i", str(path), str(script), "::startup.nsh"],
    ):
        subprocess.run(words, check=True, env=environment)


def test_a_guest_behind_uefi_becomes_available(bpf_object: Path) -> None:
    """The firmware reads the disk, its shell starts kernel and initrd from it, and the guest answers its probe."""
    root = Path(tempfile.mkdtemp(prefix="tw-uefi-"))
    root.chmod(0o711)
    uefi_disk(build(FIREWALL), root / "disk.img", "console=ttyS0 quiet management=169.254.1.2/24")
    (root / "usr/share").mkdir(parents=True)
    (root / "usr/share/OVMF").symlink_to("/usr/share/OVMF")
    made = model.Guest(
        name="uefi",
        image="/disk.img",
        firmware="uefi",
        memory=Size.parse("512M"),
        management="isolated",
        probes=(model.Probe(kind="ping", target="169.254.1.2", interval=Duration.parse("200ms"), misses=3),),
    )
    world = World(root, bpf_object, board_harness.artefacts(), model.Config(segment=(SEGMENT,), guest=(made,)))
    try:
        world.call(world.reach(HopState.AVAILABLE, "uefi"))
        said = world.guest("uefi").console.tail()
        assert b"startup.nsh" in said
        assert b"firewall: up" in said
    finally:
        end_world(world)


async def more_heartbeats(world: World) -> None:
    """Wait until five more have come out of the firewall."""
    run = world.guest("firewall").current_run
    assert run is not None

    def received() -> int:
        rows = run.watch.heartbeats()
        return sum(row.received for row in rows)

    before = received()
    async with asyncio.timeout(20):
        while received() < before + 5:
            await asyncio.sleep(0.05)


async def type_in(world: World, line: str) -> None:
    """Into the firewall's shell."""
    path = str(world.paths.run / "door")
    server = await asyncio.start_unix_server(world.guest("firewall").console.attach, path)
    reader, writer = await asyncio.open_unix_connection(path)
    number = next(LINES)
    writer.write(f"\n{line}; echo $((40+{number}))-done\n".encode())
    await asyncio.wait_for(reader.readuntil(b"%d-done" % (40 + number)), 30)
    writer.close()
    server.close()


async def until_printed(world: World, words: bytes) -> None:
    async with asyncio.timeout(100):
        while words not in world.guest("firewall").console.tail():
            await asyncio.sleep(0.05)
