# SPDX-License-Identifier: GPL-2.0-only
"""The pair of devices by which XDP reaches the management port, end to end: what enters it arrives at the far end.

    box: tx1.0l ══ te1.0l, near: mgmt0 ══ up0: far
         tr1.0l (the kernel's VXLAN, made in near)

Only the programs of bpf/encap.h are loaded; the test is in the place of the datapath, which sends to tx1.0l.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw
from simulator import netns

from appliance.steering.kernel.encaps import Headers
from appliance.steering.kernel.ip_devices import IpDevices
from appliance.steering.kernel.layout import Encapsulated, Side
from appliance.system.namespace import Namespace
from appliance.tunnel import device, xdp_pair
from tests.support.encap_world import ETH_ALL, PLACE, Programs, World
from tests.support.far_end import FAR4, OUR4

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

T = TypeVar("T")
KEY, TUNNEL = 7, "tr1.0l"
PLAIN = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / IP() / UDP() / Raw(b"x" * 40)
TAGGED = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / Dot1Q() / Dot1Q() / IP() / UDP() / Raw(b"x" * 40)


class Site:
    """The pair, set up as a remote does it."""

    def __init__(self, world: World, programs: Programs, pins: Path) -> None:
        self.world, self.programs, self.pins = world, programs, pins
        self.space = Namespace(world.near)
        self.box = f"{world.near}b"
        self.places = IpDevices(cast(Any, SimpleNamespace(maps=programs.maps, pins=pins)), lambda _: 1)

    def inside(self, work: Coroutine[Any, Any, T]) -> T:
        """Run this in the namespace of the data path."""
        return netns.enter(self.box, lambda: asyncio.run(work))

    def index(self, name: str) -> int:
        return netns.enter(self.box, lambda: socket.if_nametoindex(name))

    def set_up(self) -> None:
        netns.create(self.box)
        vxlan = f"type vxlan id {KEY} remote {FAR4} dstport 4789 ttl 64 nolearning df set noudpcsum"
        netns.run(*f"ip -n {self.world.near} link add {TUNNEL} {vxlan}".split())
        netns.run(*f"ip -n {self.world.near} link set {TUNNEL} netns {self.box}".split())
        netns.run(*f"ip -n {self.box} link set {TUNNEL} mtu 1500 arp off up".split())
        ports = xdp_pair.prepare(self.space)
        self.inside(xdp_pair.make(TUNNEL, self.space))
        out = self.index(xdp_pair.pair(TUNNEL).out)
        program = self.places.by_kernel("dpi", Side.LAN, out, self.index(TUNNEL))
        here = self.inside(xdp_pair.attach(TUNNEL, self.space, program))
        self.inside(xdp_pair.fit(TUNNEL, self.space, 1500))
        under = self.inside(xdp_pair.underlay("mgmt0", self.space, program.parent))
        assert under.trouble == "XDP cannot send to mgmt0: its driver sends none", (
            "a veth whose other end does not poll"
        )
        netns.run("ip", "netns", "exec", self.world.far, "ethtool", "-K", "up0", "gro", "on")
        under = self.inside(xdp_pair.underlay("mgmt0", self.space, program.parent))
        assert under == xdp_pair.Underlay(self.world.port, self.world.port, "mgmt0")
        netns.enter(self.world.near, lambda: self.programs.encaps.lead_to(PLACE, under.port))
        self.programs.encaps.put(here, PLACE, Headers("vxlan", OUR4, FAR4, KEY, 4789, ports), under.route)

    def send(self, frame: Packet) -> None:
        """As the datapath does, but with a frame that has not come by XDP."""
        made = netns.enter(self.box, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
        with made:
            netns.enter(self.box, lambda: made.bind((xdp_pair.pair(TUNNEL).out, ETH_ALL)))
            made.send(bytes(frame))

    def arrives(self, capture: socket.socket, frame: Packet) -> bool:
        """Send it; whether it then comes to the far end in the tunnel."""
        self.send(frame)
        try:
            while True:
                packet = Ether(capture.recv(4096))
                if VXLAN in packet and packet[VXLAN].vni == KEY and bytes(packet[VXLAN].payload) == bytes(frame):
                    return True
        except TimeoutError:
            return False

    def frames(self) -> dict[Encapsulated, int]:
        return self.programs.encaps.frames(PLACE)


@pytest.fixture(scope="module")
def site(bpf_object: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("bpffs")
    netns.run("mount", "-t", "bpf", "bpf", str(folder))
    programs = Programs(bpf_object, "encap_xdp", "by_kernel_tc", "pass_xdp")
    world = World(programs)
    made = Site(world, programs, folder)
    try:
        (folder / "programs").mkdir()
        programs.pin(folder / "programs")
        world.make()
        made.set_up()
        yield made
    finally:
        if netns.exists(made.box):
            netns.run("ip", "netns", "delete", made.box)
        world.close()
        programs.close()
        subprocess.run(["umount", str(folder)], check=False)


def test_frames_arrive_by_xdp_or_by_the_kernel_as_they_were(site: Site) -> None:
    """The first one goes by the kernel, so that it looks after the neighbour; the next ones only if they have to."""
    site.programs.encaps.clear(PLACE)
    with site.world.captured() as capture:
        for _ in range(3):
            assert site.arrives(capture, PLAIN)
        assert site.arrives(capture, TAGGED)
    found = site.frames()
    assert found.pop(Encapsulated.CONFIRM) >= 1
    assert found.pop(Encapsulated.SENT) >= 1
    assert found == {Encapsulated.INNER: 1}


def test_the_pair_is_adopted_and_attached_again(site: Site) -> None:
    """As by the next bypassd: the devices are the same, and frames go on."""
    out = site.index(xdp_pair.pair(TUNNEL).out)
    site.inside(xdp_pair.make(TUNNEL, site.space))
    site.inside(xdp_pair.attach(TUNNEL, site.space, site.pins / "programs" / "by_kernel_tc"))
    assert site.index(xdp_pair.pair(TUNNEL).out) == out
    with site.world.captured() as capture:
        assert site.arrives(capture, PLAIN)


def test_without_its_program_nothing_gets_through_and_nothing_to_the_stack(site: Site) -> None:
    """The other end drops; the network of the management port sees no frame of the link."""
    inside = xdp_pair.pair(TUNNEL).inside
    netns.run(*f"ip -n {site.world.near} link set dev {inside} xdpdrv off".split())
    try:
        with site.world.captured() as capture:
            capture.settimeout(1)
            assert not site.arrives(capture, PLAIN)
        said = netns.run(*f"tc -n {site.world.near} -s qdisc show dev {inside} clsact".split())
        assert "dropped 1," in said
    finally:
        site.inside(xdp_pair.attach(TUNNEL, site.space, site.pins / "programs" / "by_kernel_tc"))


def test_it_is_removed_with_the_tunnel(site: Site) -> None:
    site.inside(device.remove(TUNNEL))
    assert not any(name in netns.run("ip", "-n", site.box, "link") for name in (TUNNEL, xdp_pair.pair(TUNNEL).out))
    assert xdp_pair.pair(TUNNEL).inside not in netns.run("ip", "-n", site.world.near, "link")
