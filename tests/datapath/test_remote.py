# SPDX-License-Identifier: GPL-2.0-only
"""A remote behind a real tunnel of the kernel; the far end is a bridge of two tunnels made by ordinary commands.

    lan ══ lan0  box  wan0 ══ wan            the link, as in tests/support/wire.py
                 tr1.0l, tr1.0w              the tunnels' devices
    mgmt: mgmt0 ══ up0  far: bridge of two tunnels    the network of the tunnels

The namespace of the management port is made by the test, because no management port belongs to this board. A kind of
tunnel that this kernel does not have is skipped, by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from simulator import netns

from appliance.api.schema.remotes import RemoteDetails
from appliance.health.inband import decode
from console.client import RemoteError
from tests.support import far_end
from tests.support.far_end import FAR4, FAR6, KINDS, LAN_KEY, OUR4, OUR6, SECOND4, SECOND6, WAN_KEY
from tests.support.live import Live, during
from tests.support.wire import ETH_NUMBERED, LAN_MAC, WAN_MAC, Wire

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

DROP_ALL = "1,6 0 0 2"  # one instruction of classic BPF for tc: return TC_ACT_SHOT
DROP_NUMBERED = f"4,40 0 0 12,21 0 1 {ETH_NUMBERED},6 0 0 2,6 0 0 4294967295"  # by Ethernet type; else TC_ACT_UNSPEC
SIZE = 8 << 20
"""Of a download, in bytes."""
FAULT_S = 3.0
"""The longest time from a fault of the way to the bypass, with heartbeats every 50 ms, three of which may be missed."""

CONFIG = """\
[system]
hostname = "live"

[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"
rearm_delay = "0s"

[management]
address = "192.0.2.1/24"
address6 = "2001:db8::1/64"
mtu = 1600

[[remote]]
name = "dpi"
hold = "0s"
probes = [ {{ kind = "inband", interval = "50ms", misses = 3 }} ]
return_timeout = "{timeout}"
tunnel = {{ {tunnel} }}

[[rule]]
name = "all"
path = ["dpi"]
"""


def need_kind(kind: str) -> None:
    """Skip, by name, what this kernel does not have."""
    if why := far_end.missing(kind):
        pytest.skip(why)


class Underlay:
    """The management port's namespace, the far end, and the cable between them."""

    def __init__(self, live_root: Path, box: str) -> None:
        self.name, self.far = f"{box}m", f"{box}f"
        self._mount = live_root / "run/netns/mgmt"

    def __enter__(self) -> Underlay:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        for name in (self.name, self.far):
            netns.run("ip", "netns", "add", name)
        self._mount.parent.mkdir(parents=True)
        self._mount.touch()
        netns.run("mount", "--bind", f"/run/netns/{self.name}", str(self._mount))
        netns.run(
            *f"ip -n {self.name} link add mgmt0 mtu 1600 type veth peer name up0 mtu 1600 netns {self.far}".split()
        )
        for space, device, addresses in (
            (self.name, "mgmt0", (f"{OUR4}/24", f"{OUR6}/64")),
            (self.far, "up0", (f"{FAR4}/24", f"{FAR6}/64", f"{SECOND4}/24", f"{SECOND6}/64")),
        ):
            for address in addresses:
                more = ["nodad"] if ":" in address else []
                more += ["preferred_lft", "0"] if address.startswith(SECOND6) else []  # nothing else is sent from it
                netns.run("ip", "-n", space, "address", "add", address, "dev", device, *more)
            netns.run("ip", "-n", space, "link", "set", "lo", "up")
            netns.run("ip", "-n", space, "link", "set", device, "up")

    def join(self, kind: str, *, lan: int = LAN_KEY, wan: int = WAN_KEY, ports: tuple[int, int] | None = None) -> None:
        """The far end: two tunnels and a bridge, by the commands of appliance/remote/README.md."""
        self.part()
        space = ["ip", "netns", "exec", self.far]
        for words in far_end.opened(kind):
            subprocess.run([*space, *words], check=False, capture_output=True)  # it may be open
        for words in far_end.joined(kind, lan=lan, wan=wan, ports=ports):
            netns.run(*space, *words)

    def part(self) -> None:
        """No tunnels at the far end."""
        for device in far_end.DEVICES:
            subprocess.run(["ip", "-n", self.far, "link", "delete", device], check=False, capture_output=True)

    def _far(self, line: str) -> None:
        netns.run("ip", "-n", self.far, *line.split())

    @contextlib.contextmanager
    def cut(self, *ways: str) -> Iterator[None]:
        """No packet crosses the cable these ways of the far end (none named: both), although both ends have a link."""
        tc = ["tc", "-n", self.far]
        netns.run(*tc, "qdisc", "add", "dev", "up0", "clsact")
        try:
            for way in ways or ("ingress", "egress"):
                netns.run(*tc, *f"filter add dev up0 {way} protocol all bpf direct-action bytecode".split(), DROP_ALL)
            yield
        finally:
            netns.run(*tc, "qdisc", "delete", "dev", "up0", "clsact")

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", str(self._mount)], check=False, capture_output=True)
        for name in (self.name, self.far):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


class Site:
    """A running appliance with one remote of a kind, and its far end."""

    def __init__(self, live: Live, underlay: Underlay, kind: str) -> None:
        self.live, self.underlay, self.kind = live, underlay, kind

    def shown(self) -> dict[str, Any]:
        row: dict[str, Any] = self.live.call("remote.show", name="dpi")
        return row

    def reach(self, *states: str) -> float:
        """Wait until the remote has one of these states; returns how long that took (s)."""
        began = time.monotonic()
        self.live.until(lambda: self.shown()["state"] in states, " or ".join(states))
        return time.monotonic() - began

    def through(self) -> int:
        """Frames that came back from the remote so far."""
        counted: int = self.live.call("counters.show")["hops"]["dpi"]["from_frames"]
        return counted

    def sent(self) -> int:
        """Frames that were sent to the remote so far, also by tunnels that are out of the datapath by now."""
        counted: int = self.live.call("counters.show")["hops"]["dpi"]["to_frames"]
        return counted


@contextlib.contextmanager
def site(bpf_object: Path, root: Path, kind: str, timeout: str = "0s") -> Iterator[Site]:
    need_kind(kind)
    config = CONFIG.format(tunnel=KINDS[kind].toml, timeout=timeout)
    with Wire() as wire:
        live = Live(wire, root, bpf_object, config)
        with Underlay(root, wire.box) as underlay:
            underlay.join(kind)
            with live:
                made = Site(live, underlay, kind)
                made.reach("available")
                yield made


def address_hosts(wire: Wire) -> None:
    for space, own in ((wire.lan, "198.51.100.1/24"), (wire.wan, "198.51.100.2/24")):
        netns.run("ip", "-n", space, "address", "add", own, "dev", "eth0")
        netns.run("ip", "netns", "exec", space, "ethtool", "-K", "eth0", "tx", "off", "tso", "off", "gso", "off")


def download(wire: Wire, size: int) -> str:
    """A TCP download from WAN to LAN; returns the digest of what arrived."""
    content = os.urandom(1 << 16)
    server = netns.enter(wire.wan, lambda: socket.create_server(("198.51.100.2", 8080)))

    def serve() -> None:
        peer, _ = server.accept()
        with peer:
            for _ in range(size // len(content)):
                peer.sendall(content)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    client = netns.enter(wire.lan, lambda: socket.create_connection(("198.51.100.2", 8080), 20))
    client.settimeout(20)
    got, left = hashlib.sha256(), size // len(content) * len(content)
    with client, server:
        while left and (part := client.recv(1 << 16)):
            got.update(part)
            left -= len(part)
    thread.join(20)
    wanted = hashlib.sha256()
    for _ in range(size // len(content)):
        wanted.update(content)
    assert got.hexdigest() == wanted.hexdigest(), f"{left} bytes are missing"
    return got.hexdigest()


@pytest.mark.parametrize("kind", far_end.NETWORKED)
def test_a_download_goes_through_the_remote_whole(bpf_object: Path, tmp_path: Path, kind: str) -> None:
    """Each kind of tunnel, over IPv4 and IPv6: full-size frames there and back by the remote, and none beside it."""
    with site(bpf_object, tmp_path, kind) as made:
        address_hosts(made.live.wire)
        download(made.live.wire, SIZE)
        counted = made.live.call("counters.show")
        # Every frame of both ports goes to the remote. The kernel merges segments that come out of a tunnel (GRO), so
        # of what came back the bytes count, and no number of frames.
        assert {tuple(port["outcomes"]) for port in counted["ports"].values()} == {("to_hop",)}
        hop = counted["hops"]["dpi"]
        assert hop["to_bytes"] == sum(port["bytes"] for port in counted["ports"].values()) > SIZE
        assert hop["taps"]["main/lan"]["outcomes"]["out"]["bytes"] > SIZE
        assert hop["taps"]["main/wan"]["outcomes"]["out"]["frames"] > 0
        losses = [hop["skipped"], hop["unsent"], *(device["lost"] for device in hop["taps"].values())]
        assert not [each for each in losses if each]
        shown = made.shown()
        assert shown["way"] == "up"
        assert {side["side"]: side["refused"] for side in shown["tunnels"]} == {"lan": 0, "wan": 0}
        assert msgspec.convert(shown, RemoteDetails).overhead_bytes == shown["overhead_bytes"]
        segment = made.live.call("segments.show")[0]
        assert (segment["attach"], segment["attach_why"]) == ("tc", "XDP cannot send to the tunnels of dpi")
        assert shown["by"] == "kernel"


@pytest.mark.parametrize("kind", ["vxlan4", "geneve4", "gre4", "gre6"])
def test_a_download_goes_through_a_remote_by_xdp_whole(bpf_object: Path, tmp_path: Path, kind: str) -> None:
    """XDP puts the headers on and the segment has no tc; a frame a second goes by the kernel. Cut off, it is bypassed,
    because its heartbeats take the way of the frames."""
    need_kind(kind)
    config = CONFIG.format(tunnel=f'{KINDS[kind].toml}, way = "xdp"', timeout="0s")
    with Wire() as wire:
        live = Live(wire, tmp_path, bpf_object, config)
        with Underlay(tmp_path, wire.box) as underlay:
            underlay.join(kind)
            # A veth takes frames from XDP while its other end polls, as a port with a driver does.
            netns.run("ip", "netns", "exec", underlay.far, "ethtool", "-K", "up0", "gro", "on")
            with live:
                made = Site(live, underlay, kind)
                made.reach("available")
                assert (made.shown()["by"], made.shown()["way"]) == ("xdp", "up")
                assert live.call("segments.show")[0]["attach"] == "xdp"
                address_hosts(wire)
                download(wire, SIZE)
                hop = live.call("counters.show")["hops"]["dpi"]
                assert hop["to_bytes"] > SIZE
                assert hop["taps"]["main/lan"]["outcomes"]["out"]["bytes"] > SIZE
                assert not [each for each in (hop["skipped"], hop["unsent"]) if each]
                sides = {side["side"]: side for side in made.shown()["encapsulated"]}
                assert sum(side["by_xdp"] for side in sides.values()) > SIZE // 1500
                for side in sides.values():
                    assert side["lost"] == 0
                    assert side["by_kernel"].keys() <= {"confirm_neighbour", "neighbour"}
                    assert side["by_kernel"]["confirm_neighbour"] > 0
                with underlay.cut():
                    made.reach("suspect")
                    assert frames_straight(made)
                made.reach("available")


def test_connections_are_made_to_fit_a_way_that_is_too_narrow(bpf_object: Path, tmp_path: Path) -> None:
    """All of a download goes through the remote, none of it beside; the segment's full-size frames would not fit."""
    need_kind("vxlan4")
    config = CONFIG.format(tunnel=KINDS["vxlan4"].toml, timeout="0s").replace("mtu = 1600", "mtu = 1500")
    with Wire() as wire:
        live = Live(wire, tmp_path, bpf_object, config.replace(" }\n\n[[rule]]", ", mss_clamp = true }\n\n[[rule]]"))
        with Underlay(tmp_path, wire.box) as underlay:
            for space, device in ((underlay.name, "mgmt0"), (underlay.far, "up0")):
                netns.run("ip", "-n", space, "link", "set", device, "mtu", "1500")
            underlay.join("vxlan4")
            with live:
                made = Site(live, underlay, "vxlan4")
                made.reach("available")
                assert "frames longer than 1464 skip the remote" in made.shown()["warning"]
                address_hosts(wire)
                download(wire, SIZE)
                hop = live.call("counters.show")["hops"]["dpi"]
                assert hop["taps"]["main/lan"]["outcomes"]["out"]["bytes"] > SIZE
                assert hop["skipped"] == {}
                assert made.shown()["clamped"] == 2, "the SYN and its answer"
                assert made.shown()["tunnel"] == "vxlan, mss clamp"


@pytest.fixture(scope="module")
def vxlan(bpf_object: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(bpf_object, tmp_path_factory.mktemp("appliance"), "vxlan4", "2s") as made:
        yield made


def frames_straight(made: Site) -> bool:
    """Frames cross the link while the remote has none of them."""
    before = made.sent()
    return made.live.wire.stream(64) == [] and made.sent() == before


def test_frames_pass_both_ways_and_come_back(vxlan: Site) -> None:
    before = vxlan.through()
    assert vxlan.live.wire.stream(256) == []
    assert vxlan.through() - before >= 512
    assert {row["check"]: row["state"] for row in vxlan.shown()["checks"]} == {
        "in-band lan to wan": "passing",
        "in-band wan to lan": "passing",
    }


def moves_of(made: Site) -> list[tuple[str, str]]:
    """What became of the remote so far: states and causes."""
    return [(row["to"], row["cause"]) for row in made.live.call("transitions.show") if row["what"] == "remote dpi"]


def test_a_cut_of_the_way_is_bypassed_and_comes_back(vxlan: Site) -> None:
    """Within the heartbeats' limit; the neighbour that does not answer any more becomes the cause."""
    with vxlan.underlay.cut():
        assert vxlan.reach("suspect") < FAULT_S
        assert frames_straight(vxlan)
        vxlan.live.until(lambda: vxlan.shown()["cause"] == "tunnel_down", "the way is at fault")
        assert vxlan.shown()["way"] == f"{FAR4} does not answer on mgmt0"
    vxlan.reach("available")
    vxlan.live.until(lambda: vxlan.shown()["way"] == "up", "nothing against the way")
    assert {("suspect", "heartbeat_lost"), ("suspect", "tunnel_down")} <= set(moves_of(vxlan))


def test_a_management_port_without_link_is_bypassed_and_comes_back(vxlan: Site) -> None:
    netns.run("ip", "-n", vxlan.underlay.far, "link", "set", "up0", "down")
    try:
        assert vxlan.reach("suspect") < FAULT_S
        assert frames_straight(vxlan)
        vxlan.live.until(lambda: vxlan.shown()["way"] == "mgmt0 has no link", "the way is at fault")
        assert vxlan.shown()["cause"] == "tunnel_down"
    finally:
        netns.run("ip", "-n", vxlan.underlay.far, "link", "set", "up0", "up")
    vxlan.reach("available")
    vxlan.live.until(lambda: vxlan.shown()["way"] == "up", "nothing against the way")


def test_a_dead_application_is_not_blamed_on_the_way(vxlan: Site) -> None:
    vxlan.underlay._far("link set joint down")
    try:
        assert vxlan.reach("suspect") < FAULT_S
        assert vxlan.shown()["cause"] == "heartbeat_lost"
        time.sleep(1.5)
        shown = vxlan.shown()
        assert (shown["cause"], shown["way"]) == ("heartbeat_lost", "up")
    finally:
        vxlan.underlay._far("link set joint up")
    vxlan.reach("available")


def test_another_key_at_the_far_end_carries_nothing(vxlan: Site) -> None:
    vxlan.underlay.join("vxlan4", lan=LAN_KEY + 100)
    try:
        vxlan.reach("suspect")
        assert frames_straight(vxlan)
    finally:
        vxlan.underlay.join("vxlan4")
    vxlan.reach("available")


def inject(made: Site, source: str, key: int, number: int) -> None:
    """Send one numbered frame for the LAN in a VXLAN packet, as whoever has this address could."""
    frame = LAN_MAC + WAN_MAC + struct.pack("!HQ", ETH_NUMBERED, number) + bytes(46)

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            opened.bind((source, 0))
            opened.sendto(struct.pack("!II", 0x08000000, key << 8) + frame, (OUR4, 4789))

    netns.enter(made.underlay.far, send)


def test_forged_packets_are_dropped_and_counted(vxlan: Site) -> None:
    """From another address, or with another key; the same packet from the far end reaches the link."""
    netns.run("ip", "-n", vxlan.underlay.far, "address", "add", "192.0.2.9/24", "dev", "up0")
    wire = vxlan.live.wire
    wire.renew()
    before = vxlan.shown()["dropped_at_port"]
    inject(vxlan, FAR4, LAN_KEY, 77)
    assert wire.received_at_lan() == 77
    inject(vxlan, "192.0.2.9", LAN_KEY, 78)
    inject(vxlan, FAR4, LAN_KEY + 100, 79)
    assert wire.received_at_lan() is None
    vxlan.live.until(lambda: vxlan.shown()["dropped_at_port"] >= before + 2, "counted")
    assert vxlan.shown()["state"] == "available"


def test_swapped_sides_are_no_proof(vxlan: Site) -> None:
    """A loop at the far end (each tunnel returns its own frames) would be a heartbeat at the wrong side."""
    vxlan.underlay.part()
    vxlan.reach("suspect")
    vxlan.underlay.join("vxlan4", lan=WAN_KEY, wan=LAN_KEY)
    vxlan.reach("available")  # the far end need not know which is which
    vxlan.underlay.join("vxlan4")
    vxlan.reach("available")


def test_bypassd_restarts_and_adopts_without_a_gap(vxlan: Site) -> None:
    """The same devices, no lost frame, and the remote keeps its traffic but for the time of the proof."""
    names = [side["device"] for side in vxlan.shown()["tunnels"]]

    def indexes() -> list[int]:
        return vxlan.live.wire.inside(lambda: [socket.if_nametoindex(name) for name in names])

    def restarted(earlier: int) -> bool:
        try:
            return vxlan.live.bypassd != earlier
        except ValueError:  # the keeper has no child at this moment
            return False

    before, process = indexes(), vxlan.live.bypassd

    def kill() -> None:
        vxlan.live.kill_bypassd()
        vxlan.live.until(lambda: restarted(process), "restarted")
        vxlan.reach("available")

    assert during(vxlan.live, kill) == []
    assert indexes() == before
    moves = [row for row in vxlan.live.call("transitions.show") if row["what"] == "remote dpi"]
    assert any(row["to"] == "proving" and row["detail"] == "adopted" for row in moves)
    segment = vxlan.live.call("segments.show")[0]
    assert segment["attach"] == "tc"


def test_orders_drain_bypass_stop_start(vxlan: Site) -> None:
    live = vxlan.live
    assert "draining" in live.call("remote.drain", name="dpi")["message"]
    assert vxlan.shown()["state"] == "draining"
    live.call("remote.start", name="dpi")
    vxlan.reach("available")
    assert "until `start`" in live.call("remote.bypass", name="dpi")["message"]
    assert (vxlan.shown()["state"], vxlan.shown()["cause"]) == ("suspect", "operator")
    assert frames_straight(vxlan)
    live.call("remote.start", name="dpi")
    vxlan.reach("available")
    assert during(live, lambda: [live.call("remote.stop", name="dpi"), vxlan.reach("stopped")]) == []
    assert not [side for side in vxlan.shown()["tunnels"] if side["mtu"]], "its devices are gone"
    with pytest.raises(RemoteError, match="only a running remote can be bypassed"):
        live.call("remote.bypass", name="dpi")
    live.call("remote.start", name="dpi")
    vxlan.reach("available")


def test_a_tunnel_that_another_program_removes_is_made_anew(vxlan: Site) -> None:
    name = vxlan.shown()["tunnels"][0]["device"]
    netns.run("ip", "-n", vxlan.live.wire.box, "link", "delete", name)
    vxlan.live.until(
        lambda: any(
            row["what"] == "remote dpi" and "removed by another program" in row["detail"]
            for row in vxlan.live.call("transitions.show")
        ),
        "noticed",
    )
    vxlan.reach("available")


def test_green_health_without_returned_frames_is_a_fault(vxlan: Site) -> None:
    """The far end passes heartbeats, and none of the frames of the link."""
    space = vxlan.underlay.far
    for device in ("far-lan", "far-wan"):
        netns.run("tc", "-n", space, "qdisc", "add", "dev", device, "clsact")
        netns.run(
            *f"tc -n {space} filter add dev {device} ingress protocol all bpf direct-action bytecode".split(),
            DROP_NUMBERED,
        )
    try:
        deadline = time.monotonic() + 20
        while vxlan.shown()["cause"] != "nothing_returned":
            assert time.monotonic() < deadline, vxlan.shown()
            vxlan.live.wire.send(1)
            time.sleep(0.02)
        vxlan.live.wire.renew()
        assert frames_straight(vxlan)
    finally:
        for device in ("far-lan", "far-wan"):
            netns.run("tc", "-n", space, "qdisc", "delete", "dev", device, "clsact")
    vxlan.live.call("remote.stop", name="dpi")
    vxlan.reach("stopped")
    vxlan.live.call("remote.start", name="dpi")
    vxlan.reach("available")


def flood(made: Site, frames: int, pause_s: float, ended: threading.Event) -> None:
    """Long numbered frames from the LAN host, in bursts, until told to end."""
    opened = netns.enter(made.live.wire.lan, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    frame = WAN_MAC + LAN_MAC + struct.pack("!HQ", ETH_NUMBERED, 7) + bytes(976)
    with opened:
        opened.bind(("eth0", 0))
        while not ended.wait(pause_s):
            for _ in range(frames):
                opened.send(frame)


def test_more_than_it_carries_is_an_overload_and_the_excess_goes_straight(vxlan: Site) -> None:
    """The way back carries a tenth of the flood: the remote keeps what it carries, as an overloaded guest does."""
    seen, ended = len(moves_of(vxlan)), threading.Event()
    excess = vxlan.live.call("counters.show")["rules"]["all"]["excess"]
    thread = threading.Thread(target=flood, args=(vxlan, 100, 0.02, ended))
    netns.run(*f"tc -n {vxlan.underlay.far} qdisc add dev up0 root tbf rate 4mbit burst 4kb limit 100kb".split())
    try:
        thread.start()
        vxlan.reach("overloaded")
        vxlan.live.until(
            lambda: vxlan.live.call("counters.show")["rules"]["all"]["excess"] > excess + 1000, "held back"
        )
        assert [way["way"] for way in vxlan.shown()["overload"] if way["limit_frames_per_s"]] == ["lan to wan"]
    finally:
        ended.set()
        thread.join()
        netns.run(*f"tc -n {vxlan.underlay.far} qdisc delete dev up0 root".split())
    assert moves_of(vxlan)[seen:][0] == ("overloaded", "overloaded")
    vxlan.live.wire.renew()
    vxlan.reach("available")


def test_a_way_that_flaps_is_bypassed_each_time_and_its_falls_are_counted(vxlan: Site) -> None:
    before = vxlan.shown()["flip_count"]
    for _ in range(3):
        with vxlan.underlay.cut():
            vxlan.reach("suspect")
            assert frames_straight(vxlan)
        vxlan.reach("available")
    assert vxlan.shown()["flip_count"] >= before + 3


def test_a_way_that_is_cut_in_one_direction_is_bypassed(vxlan: Site) -> None:
    """Frames that still arrive at the far end and never come back."""
    with vxlan.underlay.cut("egress"):
        assert vxlan.reach("suspect") < FAULT_S
        assert frames_straight(vxlan)
    vxlan.reach("available")


def test_a_far_end_that_is_bridged_into_the_link_is_a_loop(vxlan: Site) -> None:
    """What goes into the tunnel comes in at a port: a cause of its own, and no frame goes in for a while."""
    every = socket.htons(0x0003)  # before the bridge takes them
    far = netns.enter(vxlan.underlay.far, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every))
    lan = netns.enter(vxlan.live.wire.lan, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    with far, lan:
        netns.enter(vxlan.underlay.far, partial(far.bind, ("far-lan", 0x0003)))
        netns.enter(vxlan.live.wire.lan, partial(lan.bind, ("eth0", 0)))
        far.settimeout(5)
        deadline = time.monotonic() + 20
        while vxlan.shown()["cause"] != "loop":
            assert time.monotonic() < deadline, vxlan.shown()
            frame = far.recv(256)
            while decode(frame) is None:
                frame = far.recv(256)
            lan.send(frame)
    assert vxlan.shown()["detail"] == "what is sent to it comes in again at the ports of segment main: a loop"
    assert vxlan.shown()["state"] == "suspect"
    assert frames_straight(vxlan)
    vxlan.live.call("remote.stop", name="dpi")
    vxlan.reach("stopped")
    vxlan.live.call("remote.start", name="dpi")
    vxlan.reach("available")


def test_no_frame_of_the_underlay_reaches_a_service_or_the_link(vxlan: Site) -> None:
    """What comes out of a tunnel goes to the datapath alone: an address of the appliance answers nothing in it.

    Nor does the link reach the network of the tunnels.
    """
    bridge = ["ip", "-n", vxlan.underlay.far]
    netns.run(*bridge, *["address", "add", "198.51.100.77/24", "dev", "joint"])
    netns.run("ip", "-n", vxlan.live.wire.box, *["address", "add", "198.51.100.78/24", "dev", "lo"])
    try:
        ping = ["ip", "netns", "exec", vxlan.underlay.far, "ping", "-c", "2", "-W", "1", "198.51.100.78"]
        assert subprocess.run(ping, check=False, capture_output=True).returncode == 1
        routes = netns.run("ip", "-n", vxlan.live.wire.box, "route", "show", "table", "main")
        assert "192.0.2." not in routes
    finally:
        netns.run(*bridge, *["address", "delete", "198.51.100.77/24", "dev", "joint"])
        netns.run("ip", "-n", vxlan.live.wire.box, *["address", "delete", "198.51.100.78/24", "dev", "lo"])
    assert vxlan.shown()["state"] == "available"


def change(live: Live, edit: Callable[[str], str]) -> Any:
    """Commit another configuration."""
    live.call("config.edit")
    text = live.call("config.show")["text"]
    live.call("config.load", text=edit(text), mode="replace")
    try:
        return live.commit()
    finally:
        live.call("config.end")


def test_commits_change_remove_and_add_a_remote_with_no_frame_lost(vxlan: Site) -> None:
    live, old = vxlan.live, live_text(vxlan.live)
    other = old.replace(f"wan_key = {WAN_KEY}", f"wan_key = {WAN_KEY + 1}")

    def replace() -> None:
        vxlan.underlay.join("vxlan4", wan=WAN_KEY + 1)
        change(live, lambda _: other)
        vxlan.live.until(lambda: vxlan.shown()["keys"].endswith(f"{WAN_KEY + 1} port 4789"), "replaced")
        vxlan.reach("available")

    replace()
    assert live.wire.stream(64) == []
    without = old[: old.index("[[remote]]")] + '[[rule]]\nname = "all"\npath = []\n'

    def remove() -> None:
        change(live, lambda _: without)
        live.until(lambda: live.call("remotes.show") == [], "removed")

    assert during(live, remove) == []
    vxlan.underlay.join("vxlan4")

    def add() -> None:
        change(live, lambda _: old)
        vxlan.reach("available")

    assert during(live, add) == []
    before = vxlan.through()
    assert live.wire.stream(64) == []
    assert vxlan.through() - before >= 128  # the hosts now and then send a frame of their own, such as for IPv6


def live_text(live: Live) -> str:
    text: str = live.call("config.show")["text"]
    return text


def test_a_commit_refuses_a_way_that_is_too_narrow(vxlan: Site) -> None:
    with pytest.raises(RemoteError, match=r"1518 bytes becomes a packet of 1554.*carries 1500: set management mtu"):
        change(vxlan.live, lambda text: text.replace("mtu = 1600", "mtu = 1500"))


def test_a_way_that_becomes_narrow_lets_long_frames_skip_the_remote(vxlan: Site) -> None:
    """Short frames go on through it; what no longer fits crosses the link straight, and is counted."""
    mtus = [(vxlan.underlay.name, "mgmt0"), (vxlan.underlay.far, "up0")]
    for space, device in mtus:
        netns.run("ip", "-n", space, "link", "set", device, "mtu", "1300")
    try:
        vxlan.live.until(lambda: "skip the remote" in vxlan.shown()["warning"], "noticed")
        before = vxlan.live.call("counters.show")["hops"]["dpi"]["skipped"].get("oversize", 0)
        vxlan.live.wire.send(9, pad=1400)
        vxlan.live.until(
            lambda: vxlan.live.call("counters.show")["hops"]["dpi"]["skipped"].get("oversize", 0) > before, "counted"
        )
    finally:
        for space, device in mtus:
            netns.run("ip", "-n", space, "link", "set", device, "mtu", "1600")
        vxlan.live.wire.renew()
    vxlan.live.until(lambda: vxlan.shown()["warning"] == "", "wide again")


def test_one_network_with_two_ports(bpf_object: Path, tmp_path: Path) -> None:
    """One VNI; the sides are told apart by their UDP ports."""
    need_kind("vxlan4")
    words = f'kind = "vxlan", remote = "{FAR4}", lan_key = {LAN_KEY}, wan_key = {LAN_KEY}'
    config = CONFIG.format(tunnel=f"{words}, lan_port = 4789, wan_port = 4790", timeout="0s")
    with Wire() as wire:
        live = Live(wire, tmp_path, bpf_object, config)
        with Underlay(tmp_path, wire.box) as underlay:
            underlay.join("vxlan4", wan=LAN_KEY, ports=(4789, 4790))
            with live:
                made = Site(live, underlay, "vxlan4")
                made.reach("available")
                before = made.through()
                assert wire.stream(64) == []
                assert made.through() - before >= 128
