# SPDX-License-Identifier: GPL-2.0-only
"""A guest on the management LAN: real frames between it, an administrator's host and the appliance; none to the link.

The management port is a veth pair: its end goes into the namespace as a hardware port does, the administrator's is in a
namespace of its own. The guest's address is typed into its console.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.access import bridge, port
from appliance.access.namespace import Namespace
from appliance.access.port import ManagementPort
from appliance.access.program import Program
from appliance.config import model
from appliance.config.model import Duration, Size
from appliance.guest.lan import Lan, tap_name
from appliance.guest.lifecycle import State
from appliance.hardware.board import Port
from appliance.hardware.links import Device
from tests.datapath.guest_world import World
from tests.image import harness

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

PORT, MAC = "mgmt0", "02:00:00:00:07:01"
OWN, ADMIN, GUEST = "10.88.7.1", "10.88.7.2", "10.88.7.3"
SPACE, DESK = f"twl{os.getpid()}m", f"twl{os.getpid()}d"
CONFIG = model.Config(
    segment=(model.Segment(name="main", lan="lan0", wan="wan0"),),
    guest=(
        model.Guest(
            name="fw",
            kernel="/guest-demo/bzImage",
            initrd="/guest-demo/initrd.gz",
            cmdline="console=ttyS0 quiet",
            memory=Size.parse("64M"),
            management="bridged",
            hold=Duration(0),
            probes=(model.Probe(kind="ping", target=GUEST, via="management", interval=Duration.parse("200ms")),),
        ),
    ),
    rule=(model.Rule(name="all", path=("fw",)),),
    management=model.Management(address=f"{OWN}/24"),
)


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class Site:
    """A world with its management port, and an administrator's host at the other end of it."""

    def __init__(self, bpf_object: Path) -> None:
        # Not below pytest's own folder, which nobody but root may enter: a guest's QEMU is somebody else.
        root = Path(tempfile.mkdtemp(prefix="tw-lan-"))
        root.chmod(0o711)
        ip("netns", "add", DESK)
        self.lan = Lan(Namespace(SPACE), (root / "state",))
        self.world = World(root, bpf_object, harness.artefacts(), CONFIG, self.lan)
        self.port = ManagementPort(
            [Port(name=PORT, mac=MAC, role="management")],
            self.lan.space,
            Program("dhcp", root, root / "dhcp.log"),
            root / "lease",
            self.lan.ports,
        )
        self.world.call(self._cable())
        self._lines = 0

    async def _cable(self) -> None:
        ip("link", "add", "eth7", "address", MAC, "type", "veth", "peer", "name", "desk", "netns", DESK)
        for words in (f"address add {ADMIN}/24 dev desk", "link set desk up"):
            ip("-n", DESK, *words.split())

    def converge(self, config: model.Config = CONFIG) -> None:
        self.world.call(self.port.converge(config))

    def ping(self, target: str, space: str = DESK, *, patience_s: float = 10) -> bool:
        """Whether one echo comes back."""
        words = ["ip", "netns", "exec", space, "ping", "-c", "1", "-W", str(patience_s), target]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def silent(self, target: str) -> bool:
        return not self.ping(target, patience_s=0.3)

    def type_in(self, line: str) -> bytes:
        """Into the guest's shell, until it says that it is done; what it said."""
        return self.world.call(self._type_in(line))

    async def _type_in(self, line: str) -> bytes:
        self._lines += 1
        console, path = self.world.guest("fw").console, str(self.world.paths.run / "door")
        server = await asyncio.start_unix_server(console.attach, path)
        reader, writer = await asyncio.open_unix_connection(path)
        await asyncio.wait_for(reader.readuntil(b"# "), 60)  # what is typed before the shell's prompt may be lost
        writer.write(f"\n{line}; echo $((40+{self._lines}))-done\n".encode())
        said = await asyncio.wait_for(reader.readuntil(b"%d-done" % (40 + self._lines)), 60)
        writer.close()
        server.close()
        return said

    def close(self) -> None:
        self.world.close()
        for space in (SPACE, DESK):
            with contextlib.suppress(subprocess.CalledProcessError):
                ip("netns", "delete", space)
        shutil.rmtree(self.world.paths.root)


@pytest.fixture(scope="module")
def site(bpf_object: Path) -> Iterator[Site]:
    patch = pytest.MonkeyPatch()
    patch.setattr(port, "devices", lambda: [Device("eth7", 7, MAC, "")])
    made = Site(bpf_object)
    try:
        yield made
    finally:
        made.close()
        patch.undo()


def test_it_is_reached_from_the_lan_and_by_its_probe(site: Site) -> None:
    """It starts before there is a management port; with the port it is on its LAN, and its probe is what proves it."""
    site.world.call(site.world.reach(State.PROVING, "fw"))
    site.converge()
    site.type_in(f"ip addr add {GUEST}/24 dev eth2; ip link set eth2 up")
    site.world.call(site.world.reach(State.AVAILABLE, "fw"))
    assert site.ping(GUEST)
    assert site.ping(OWN)
    assert site.ping(GUEST, SPACE)


def test_nothing_of_it_is_in_the_data_path(site: Site) -> None:
    """Its tap is in the namespace of the management port alone, where no port or tap of the link is."""
    tap = tap_name(site.world.guest("fw").hop)
    inside = set(bridge.parse(ip("-n", SPACE, "-j", "link", "show")))
    assert {PORT, bridge.hardware(PORT), tap} <= inside

    async def outside() -> set[str]:
        return set(bridge.parse(ip("-j", "link", "show")))

    there = site.world.call(outside())
    assert tap not in there
    assert not inside & {
        "lan0",
        "wan0",
        *(name for pair in site.world.guest("fw").pairs for name in (pair.lan, pair.wan)),
    }


def test_it_cannot_pass_for_another_station(site: Site) -> None:
    """What it sends with another source address reaches nobody; with its own it does again."""
    own = site.lan.address(site.world.guest("fw").hop)
    other = "02:00:00:00:07:99"
    ask = "ip link set eth2 down; ip link set eth2 address {}; ip link set eth2 up; ping -c 1 -W {} " + ADMIN
    site.type_in(ask.format(other, 1))
    assert other not in ip("-n", DESK, "neigh")
    assert b"1 packets received" in site.type_in(ask.format(own, 10))


def test_the_ports_address_changes_and_the_guest_stays(site: Site) -> None:
    """Another address, then none, then the first: the guest on the LAN notices the second alone."""
    other = model.Management(address="10.88.7.9/24")
    site.converge(model.Config(management=other))
    assert site.ping("10.88.7.9")
    assert site.silent(OWN)
    assert site.ping(GUEST)
    site.converge(model.Config())
    assert site.silent(GUEST)
    site.converge()
    assert site.ping(OWN)
    assert site.ping(GUEST)


def test_a_restart_of_bypassd_finds_all_as_it_was(site: Site) -> None:
    """The guest is adopted with its open tap, and nothing about the port is left to do."""
    run = site.world.guest("fw").run_now
    assert run is not None
    pid = run.pid
    site.world.call(site.world.end())
    site.lan.ports.clear()
    site.world.call(site.world.begin())
    site.world.call(site.world.reach(State.AVAILABLE, "fw"))
    again = site.world.guest("fw").run_now
    assert again is not None
    assert (again.pid, again.adopted) == (pid, True)
    links = bridge.parse(ip("-n", SPACE, "-j", "-d", "link", "show"))
    assert site.lan.ports
    assert bridge.commands(PORT, True, site.lan.ports, links, SPACE) == []
    assert site.ping(GUEST)


def test_without_it_in_the_configuration_it_goes(site: Site) -> None:
    """The next start is without the third port; its tap ends, and the rest of the LAN goes on."""
    (old,) = CONFIG.guest
    new = model.Config(segment=CONFIG.segment, guest=(model.Guest(name="fw", kernel=old.kernel, initrd=old.initrd,
                       cmdline=old.cmdline, memory=old.memory),), rule=CONFIG.rule)  # fmt: skip
    site.world.call(site.world.manager.apply(new))
    site.world.call(site.world.order(lambda g: g.stop(), "fw"))
    site.world.call(site.world.reach(State.STOPPED, "fw"))
    site.world.call(site.world.order(lambda g: g.start(), "fw"))
    site.world.call(site.world.reach(State.PROVING, "fw"))
    assert tap_name(site.world.guest("fw").hop) not in bridge.parse(ip("-n", SPACE, "-j", "link", "show"))
    assert site.ping(OWN)
