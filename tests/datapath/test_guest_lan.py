# SPDX-License-Identifier: GPL-2.0-only
"""A guest on the management LAN: real frames between it, an administrator's host and the appliance; none on the link.

The management port is a veth pair: its end goes into the namespace as a hardware port does, the administrator's is in a
namespace of its own. The guest's address is typed into its console.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config.schema import model
from appliance.guest.port.management_lan import Lan, tap_name
from appliance.hardware.board import Port
from appliance.hardware.links import Device
from appliance.hop.lifecycle import HopState
from appliance.management import bridge, port
from appliance.management.port import ManagementPort
from appliance.system.namespace import Namespace
from appliance.system.service import Program
from appliance.units import Duration, Size
from tests.support import board_harness
from tests.support.guest_world import World

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
        self.world = World(root, bpf_object, board_harness.artefacts(), CONFIG, self.lan)
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
        """Run a command in the guest's shell to its end; returns its output."""
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
    site.world.call(site.world.reach(HopState.PROVING, "fw"))
    site.converge()
    site.type_in(f"ip addr add {GUEST}/24 dev eth2; ip link set eth2 up")
    site.world.call(site.world.reach(HopState.AVAILABLE, "fw"))
    assert site.ping(GUEST)
    assert site.ping(OWN)
    assert site.ping(GUEST, SPACE)


def test_nothing_of_it_is_in_the_data_path(site: Site) -> None:
    """Its tap is in the namespace of the management port alone, where no port or tap of the link is."""
    tap = tap_name(site.world.guest("fw").hop_number)
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
    """Frames with another source address are dropped; with its own they arrive again."""
    own = site.lan.address(site.world.guest("fw").hop_number)
    other = "02:00:00:00:07:99"
    ask = "ip link set eth2 down; ip link set eth2 address {}; ip link set eth2 up; ping -c 1 -W {} " + ADMIN
    site.type_in(ask.format(other, 1))
    assert other not in ip("-n", DESK, "neigh")
    assert b"1 packets received" in site.type_in(ask.format(own, 10))


# Frame by frame, at a port of a guest that the test itself is

VISITOR, VISITOR_HOP = "02:00:00:00:07:0a", 77
LLC, TAGGED = b"\x00\x26\x42\x42\x03", b"\x81\x00\x00\x07"
OUT = {  # what passes neither way: destination ("peer": the station at the other end), and what follows the source
    "spanning tree": ("01:80:c2:00:00:00", LLC),
    "pause": ("01:80:c2:00:00:01", b"\x88\x08"),
    "pause to a station": ("peer", b"\x88\x08"),
    "LACP": ("01:80:c2:00:00:02", b"\x88\x09"),
    "802.1X": ("01:80:c2:00:00:03", b"\x88\x8e"),
    "provider bridges' spanning tree": ("01:80:c2:00:00:08", LLC),
    "LLDP": ("01:80:c2:00:00:0e", b"\x88\xcc"),
    "MVRP": ("01:80:c2:00:00:21", b"\x88\xf5"),
    "PVST+": ("01:00:0c:cc:cc:cd", b"\x00\x32\xaa\xaa\x03\x00\x00\x0c\x01\x0b"),
    "CDP": ("01:00:0c:cc:cc:cc", b"\x00\x32\xaa\xaa\x03\x00\x00\x0c\x20\x00"),
    "another VLAN": ("ff:ff:ff:ff:ff:ff", TAGGED + b"\x88\xb5"),
    "another VLAN to a station": ("peer", TAGGED + b"\x88\xb5"),
    "another VLAN behind a priority tag": ("ff:ff:ff:ff:ff:ff", b"\x81\x00\xe0\x00" + TAGGED + b"\x88\xb5"),
}
THROUGH = {
    "to a station": ("peer", b"\x88\xb5"),
    "with a priority tag": ("ff:ff:ff:ff:ff:ff", b"\x81\x00\xe0\x00\x88\xb5"),
    "as neighbour discovery": ("33:33:ff:00:00:01", b"\x88\xb5"),
    "as mDNS": ("01:00:5e:00:00:fb", b"\x88\xb5"),
    "to all": ("ff:ff:ff:ff:ff:ff", b"\x88\xb5"),  # the last: what comes behind a frame that is out is waited for
}


class Visitor:
    """A guest's port in the hands of the test, and a packet socket at the administrator's host."""

    def __init__(self, site: Site) -> None:
        self._site = site
        name = site.lan.ensure(VISITOR_HOP, VISITOR)
        self.tap = site.lan.open(name)
        site.converge()
        self.desk = Namespace(DESK).inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 3))
        self.desk.bind(("desk", 3))
        self.desk_mac = self.desk.getsockname()[4].hex(":")

    def send(self, frame: bytes, *, to_guest: bool) -> None:
        if to_guest:
            self.desk.send(frame)
        else:
            os.write(self.tap, frame)

    def arrived(self, last: str, *, at_guest: bool) -> list[str]:
        """Names of the frames that came, until the one with this name did."""
        came: list[str] = []
        with selectors.DefaultSelector() as ready:
            ready.register(self.tap if at_guest else self.desk, selectors.EVENT_READ)
            while last not in came:
                assert ready.select(10), f"{last} did not come; {came}"
                if at_guest:
                    frame = os.read(self.tap, 2048)
                else:
                    frame, about = self.desk.recvfrom(2048)
                    if about[2] == socket.PACKET_OUTGOING:
                        continue
                _, mark, name = frame.partition(b"frame:")
                if mark:
                    came.append(name.rstrip(b"\0").decode())
        return came

    def passed(self, rows: dict[str, tuple[str, bytes]], source: str, peer: str, *, to_guest: bool) -> list[str]:
        """Which of the rows arrive at the other end."""
        for name, (destination, rest) in rows.items():
            ends = peer if destination == "peer" else destination
            frame = bytes.fromhex((ends + source).replace(":", "")) + rest + b"frame:" + name.encode()
            self.send(frame.ljust(60, b"\0"), to_guest=to_guest)
        return self.arrived(list(rows)[-1], at_guest=to_guest)

    def close(self) -> None:
        self.desk.close()
        os.close(self.tap)
        self._site.lan.remove(tap_name(VISITOR_HOP))


@pytest.fixture(scope="module")
def visitor(site: Site) -> Iterator[Visitor]:
    made = Visitor(site)
    yield made
    made.close()


@pytest.mark.parametrize("to_guest", [False, True], ids=["from the guest", "to the guest"])
def test_what_switches_say_to_each_other_passes_neither_way(visitor: Visitor, to_guest: bool) -> None:
    """Link-local protocols and other VLANs are dropped; ordinary frames sent with them arrive."""
    ends = (visitor.desk_mac, VISITOR) if to_guest else (VISITOR, visitor.desk_mac)
    assert visitor.passed({**OUT, **THROUGH}, *ends, to_guest=to_guest) == list(THROUGH)


def test_a_guest_takes_no_other_stations_frames(visitor: Visitor, site: Site) -> None:
    """With an address of the appliance, the host or a group as its source nothing passes, nor are theirs led to it."""
    own = bytes.fromhex(VISITOR.replace(":", ""))
    everyone = b"\xff" * 6
    for number, stolen in enumerate((MAC, visitor.desk_mac, "01:00:5e:00:00:01")):
        taken = bytes.fromhex(stolen.replace(":", ""))
        visitor.send((everyone + taken + b"\x88\xb5frame:stolen").ljust(60, b"\0"), to_guest=False)
        visitor.send((everyone + own + b"\x88\xb5frame:own%d" % number).ljust(60, b"\0"), to_guest=False)
        assert visitor.arrived(f"own{number}", at_guest=False) == [f"own{number}"]
    assert site.ping(OWN)
    desk = bytes.fromhex(visitor.desk_mac.replace(":", ""))
    for name, station in (("unknown", "02:00:00:00:07:77"), ("appliance", MAC), ("last", VISITOR)):
        frame = bytes.fromhex(station.replace(":", "")) + desk + b"\x88\xb5frame:" + name.encode()
        visitor.send(frame.ljust(60, b"\0"), to_guest=True)
    assert visitor.arrived("last", at_guest=True) == ["last"], "it is no place to listen in"


def test_the_ports_own_address_is_never_a_guests(visitor: Visitor, site: Site) -> None:
    """It would get frames for the appliance, so it is left out."""
    site.lan.ensure(VISITOR_HOP, MAC)
    try:
        site.converge()
        assert site.ping(OWN)
    finally:
        site.lan.ensure(VISITOR_HOP, VISITOR)


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
    run = site.world.guest("fw").current_run
    assert run is not None
    pid = run.pid
    site.world.call(site.world.end())
    site.lan.ports.clear()
    site.world.call(site.world.begin())
    site.world.call(site.world.reach(HopState.AVAILABLE, "fw"))
    again = site.world.guest("fw").current_run
    assert again is not None
    assert (again.pid, again.adopted) == (pid, True)
    links = bridge.parse(ip("-n", SPACE, "-j", "-d", "link", "show"))
    assert site.lan.ports
    assert bridge.commands(PORT, True, site.lan.ports, links, SPACE) == []
    assert site.ping(GUEST)


def test_without_it_in_the_configuration_it_goes(site: Site) -> None:
    """It restarts without the third port; its tap is removed, and the rest of the LAN continues."""
    (old,) = CONFIG.guest
    new = model.Config(segment=CONFIG.segment, guest=(model.Guest(name="fw", kernel=old.kernel, initrd=old.initrd,
                       cmdline=old.cmdline, memory=old.memory),), rule=CONFIG.rule)  # fmt: skip
    site.world.call(site.world.manager.apply(new))
    site.world.call(site.world.order(lambda g: g.stop(), "fw"))
    site.world.call(site.world.reach(HopState.STOPPED, "fw"))
    site.world.call(site.world.order(lambda g: g.start(), "fw"))
    site.world.call(site.world.reach(HopState.PROVING, "fw"))
    assert tap_name(site.world.guest("fw").hop_number) not in bridge.parse(ip("-n", SPACE, "-j", "link", "show"))
    assert site.ping(OWN)
