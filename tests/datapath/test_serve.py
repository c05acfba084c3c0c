# SPDX-License-Identifier: GPL-2.0-only
"""Two appliances: the remote of the near one is what the far one serves, by a hop of its own.

lan ══ near ══ wan                    the link
       mgmt0 ══╗
               ╠══ bridge             the network of the tunnels
far    mgmt0 ══╣
               ╚══ up0 plain          joins two tunnels by ordinary commands: the far one's hop
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from simulator import netns

from appliance.api.schema.remotes import Serve, ServeDetails
from tests.support.live import Live
from tests.support.wire import Wire

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

NEAR, FAR, PLAIN = "192.0.2.1", "192.0.2.2", "192.0.2.3"
MTU = 1700
FAULT_S = 4.0
"""The longest time from a fault behind the far appliance to the near one's bypass: 15 heartbeats of 50 ms each may be
missed at both, because two appliances share the processors of this machine with other tests."""
PROBES = 'probes = [ { kind = "inband", interval = "50ms", misses = 15 } ]'
BASE = """\
[system]
hostname = "{name}"

[management]
address = "{address}/24"
mtu = 1700
"""
LINK = """
[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"
rearm_delay = "0s"
"""
REMOTE = """
[[remote]]
name = "{name}"
hold = "0s"
return_timeout = "0s"
{probes}
tunnel = {{ kind = "vxlan", remote = "{far}", lan_key = {lan}, wan_key = {wan} }}
"""
SERVE = """
[[serve]]
name = "{name}"
path = ["{path}"]
tunnel = {{ kind = "vxlan", remote = "{far}", lan_key = {lan}, wan_key = {wan} }}
"""
RULE = """
[[rule]]
name = "all"
segment = "main"
path = ["far"]
"""


def remote(name: str, far: str, lan: int) -> str:
    return REMOTE.format(name=name, far=far, lan=lan, wan=lan + 1, probes=PROBES)


def serve(name: str, path: str, far: str, lan: int) -> str:
    return SERVE.format(name=name, path=path, far=far, lan=lan, wan=lan + 1)


NEAR_CONFIG = BASE.format(name="near", address=NEAR) + LINK + remote("far", FAR, 17) + RULE
FAR_CONFIG = BASE.format(name="far", address=FAR) + remote("dpi", PLAIN, 27) + serve("for-near", "dpi", NEAR, 17)


LOOP_NEAR = (
    BASE.format(name="near", address=NEAR)
    + LINK
    + remote("dpi2", PLAIN, 57)
    + remote("again", FAR, 47)
    + '[[group]]\nname = "either"\nstandby = ["dpi2", "again"]\n'
    + serve("for-far", "either", FAR, 37)
)
LOOP_FAR = BASE.format(name="far", address=FAR) + remote("near", NEAR, 37) + serve("for-near", "near", NEAR, 47)


class Network:
    """A bridge with three cables: the management ports of two appliances, and a plain machine."""

    def __init__(self, prefix: str) -> None:
        self.bridge, self.plain = f"{prefix}u", f"{prefix}p"
        self.ports = {NEAR: f"{prefix}n", FAR: f"{prefix}f"}
        self._mounts: list[Path] = []

    def __enter__(self) -> Network:
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        spaces = {**self.ports, PLAIN: self.plain}
        for name in (self.bridge, *spaces.values()):
            netns.run("ip", "netns", "add", name)
        netns.run("ip", "-n", self.bridge, "link", "add", "joint", "mtu", str(MTU), "up", "type", "bridge")
        for at, (address, space) in enumerate(spaces.items()):
            device = "up0" if address == PLAIN else "mgmt0"
            cable = f"{device} mtu {MTU} type veth peer name c{at} mtu {MTU} netns {self.bridge}"
            netns.run("ip", "-n", space, "link", "add", *cable.split())
            netns.run("ip", "-n", self.bridge, "link", "set", f"c{at}", "master", "joint", "up")
            netns.run("ip", "-n", space, "address", "add", f"{address}/24", "dev", device)
            netns.run("ip", "-n", space, "link", "set", "lo", "up")
            netns.run("ip", "-n", space, "link", "set", device, "up")

    def lend(self, address: str, root: Path) -> None:
        """Make a management port that of the appliance below `root`."""
        mount = root / "run/netns/mgmt"
        mount.parent.mkdir(parents=True)
        mount.touch()
        netns.run("mount", "--bind", f"/run/netns/{self.ports[address]}", str(mount))
        self._mounts.append(mount)

    def join(self, name: str, far: str, lan: int) -> None:
        """On the plain machine: two tunnels to an appliance, and a bridge of them."""
        for key, side in ((lan, "l"), (lan + 1, "w")):
            words = f"link add {name}{side} mtu 1500 type vxlan id {key} remote {far} dstport 4789"
            netns.run("ip", "-n", self.plain, *words.split())
        netns.run("ip", "-n", self.plain, *f"link add {name} type bridge forward_delay 0 mcast_snooping 0".split())
        for side in "lw":
            netns.run("ip", "-n", self.plain, *f"link set {name}{side} master {name} up".split())
        netns.run("ip", "-n", self.plain, "link", "set", name, "up")

    def set(self, name: str, state: str) -> None:
        """The plain machine's application works ("up") or does not ("down")."""
        netns.run("ip", "-n", self.plain, "link", "set", name, state)

    def __exit__(self, *_: object) -> None:
        for mount in self._mounts:
            subprocess.run(["umount", str(mount)], check=False, capture_output=True)
        for name in (self.bridge, self.plain, *self.ports.values()):
            subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


class Host(Live):
    """An appliance that only serves others: it has no segment, so no relay, and its ports are not used."""

    def inline(self, count: int = 1) -> bool:
        return [row["state"] for row in self.call("serves.show")] == ["up"]


class Pair:
    """Two running appliances and what is between them."""

    def __init__(self, near: Live, far: Live, network: Network) -> None:
        self.near, self.far, self.network = near, far, network

    def shown(self) -> dict[str, Any]:
        row: dict[str, Any] = self.near.call("remote.show", name="far")
        return row

    def served(self) -> dict[str, Any]:
        row: dict[str, Any] = self.far.call("serve.show", name="for-near")
        return row

    def reach(self, state: str) -> float:
        began = time.monotonic()
        self.near.until(lambda: self.shown()["state"] == state, f"far is {state}")
        return time.monotonic() - began

    def through(self) -> int:
        """Frames that came back to the far appliance from its hop."""
        counted: int = self.far.call("counters.show")["hops"]["dpi"]["from_frames"]
        return counted


@contextlib.contextmanager
def pair(bpf_object: Path, root: Path, near: str = NEAR_CONFIG, far: str = FAR_CONFIG) -> Iterator[Pair]:
    with Wire() as link, Wire() as idle, Network(link.box) as network:
        lives = [Live(link, root / "near", bpf_object, near), Host(idle, root / "far", bpf_object, far)]
        for live, address in zip(lives, (NEAR, FAR), strict=True):
            network.lend(address, live.root)
        network.join("dpi", FAR, 27)
        with lives[1], lives[0]:
            yield Pair(lives[0], lives[1], network)


@pytest.fixture(scope="module")
def both(bpf_object: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with pair(bpf_object, tmp_path_factory.mktemp("pair")) as made:
        made.reach("available")
        yield made


def change(live: Live, text: str) -> None:
    """Commit another configuration."""
    live.call("config.edit")
    live.call("config.load", text=text, mode="replace")
    try:
        live.commit()
    finally:
        live.call("config.end")


def test_frames_of_the_near_link_go_through_the_far_ones_hop(both: Pair) -> None:
    """Both ways, whole, and back; the far appliance counts them as those of a segment of its own."""
    before = both.through()
    assert both.near.wire.stream(256) == []
    assert both.through() - before >= 512
    served = both.served()
    assert msgspec.convert(served, ServeDetails).overhead_bytes == 36
    assert msgspec.convert(both.far.call("status.show")["serves"], list[Serve])[0].path == ["dpi"]
    assert (served["state"], served["not_available"], served["way"]) == ("up", [], "up")
    assert {side["side"]: side["mtu"] for side in served["tunnels"]} == {"lan": 1646, "wan": 1646}
    rule = both.far.call("counters.show")["rules"]["serve for-near"]
    assert (rule["frames"] >= 512, rule["blocked"]) == (True, 0)


def test_what_the_near_one_shows_is_what_the_far_ones_hop_does(both: Pair) -> None:
    """A dead hop is bypassed by the near appliance: the far one returns no frame that was not in it."""
    both.network.set("dpi", "down")
    try:
        assert both.reach("suspect") < FAULT_S
        assert both.shown()["cause"] == "heartbeat_lost"
        both.far.until(lambda: both.served()["not_available"] == ["dpi"], "named")
        before = both.near.call("counters.show")["hops"]["far"]["from_frames"]
        both.near.wire.renew()
        assert both.near.wire.stream(64) == []
        assert both.near.call("counters.show")["hops"]["far"]["from_frames"] == before
    finally:
        both.network.set("dpi", "up")
    both.reach("available")


def test_a_restart_of_the_far_bypassd_adopts_the_tunnels(both: Pair) -> None:
    earlier = both.far.bypassd

    def restarted() -> bool:
        try:
            return both.far.bypassd != earlier
        except ValueError:  # the keeper has no child at this moment
            return False

    indexes = netns.run("ip", "-n", both.far.wire.box, "-o", "link", "show", "type", "vxlan")
    both.far.kill_bypassd()  # its hop's lease ends meanwhile, so it drops what the near one still sends it
    both.far.until(restarted, "restarted")
    # proved anew, and with a lease in the kernel; the lease alone may be one of the earlier bypassd
    both.far.until(lambda: both.far.call("remote.show", name="dpi")["state"] == "available", "its hop is available")
    both.far.until(lambda: both.served()["not_available"] == [], "its hop has a lease")
    both.reach("available")
    assert netns.run("ip", "-n", both.far.wire.box, "-o", "link", "show", "type", "vxlan") == indexes
    before = both.through()
    assert both.near.wire.stream(64) == []
    assert both.through() - before >= 128


def test_a_table_that_is_removed_returns_no_frame(both: Pair) -> None:
    """Its devices go; before that nothing comes back that was in no hop. And it comes back with the table."""
    devices = [side["device"] for side in both.served()["tunnels"]]

    change(both.far, FAR_CONFIG[: FAR_CONFIG.index("\n[[remote]]")])
    assert both.reach("suspect") < FAULT_S
    both.near.wire.renew()
    assert both.near.wire.stream(64) == []
    both.far.until(lambda: both.far.call("serves.show") == [], "removed")
    links = netns.run("ip", "-n", both.far.wire.box, "-o", "link", "show")
    assert not [name for name in devices if f" {name}:" in links]
    change(both.far, FAR_CONFIG)
    both.reach("available")
    before = both.through()
    assert both.near.wire.stream(64) == []
    assert both.through() - before >= 128


def test_a_loop_over_two_appliances_is_found_and_broken(bpf_object: Path, tmp_path: Path) -> None:
    """The near one serves the far one by either of two hops, of which one leads back to the far one and so to itself.

    Its heartbeats come in by the tunnels of what is served, so it gets no frames, and none that come out of it go on:
    the plain machine's own (of IPv6) would go round for ever. The other hop goes on.
    """
    with pair(bpf_object, tmp_path, LOOP_NEAR, LOOP_FAR) as made:
        near = made.near
        made.network.join("dpi2", NEAR, 57)

        def again() -> dict[str, Any]:
            row: dict[str, Any] = near.call("remote.show", name="again")
            return row

        def packets() -> int:
            """Received from the far one for it, by the LAN side's tunnel."""
            counted: int = near.call("serve.show", name="for-far")["tunnels"][0]["counters"]["rx_packets"]
            return counted

        made.far.until(lambda: made.far.call("remote.show", name="near")["state"] == "available", "served by dpi2")
        near.until(lambda: again()["cause"] == "loop", "the loop is found")
        assert again()["detail"] == "what is sent to it comes in again by serve for-far: a loop"
        assert again()["state"] in ("proving", "suspect")
        assert near.call("remote.show", name="dpi2")["state"] == "available"
        assert made.far.call("remote.show", name="near")["state"] == "available"
        before = packets()
        time.sleep(2)
        assert packets() - before < 1000, "frames still go round"
        assert again()["cause"] == "loop"
