# SPDX-License-Identifier: GPL-2.0-only
"""The way to a far end, judged from what `ip -j` prints; the texts are those of iproute2."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path
from typing import Any

import pytest

from appliance.config.schema.model import Tunnel
from appliance.errors import RefusedError
from appliance.system import netdev
from appliance.system.namespace import Namespace
from appliance.tunnel import device, underlay
from appliance.tunnel.underlay import Way, judge, rows

FAR = "198.51.100.7"
TUNNEL = Tunnel(kind="vxlan", remote=FAR, lan_key=7, wan_key=8)
ROUTE = [{"dst": FAR, "gateway": "192.0.2.254", "dev": "mgmt0", "prefsrc": "192.0.2.1", "flags": []}]
LINKS = [
    {"ifname": "lo", "flags": ["LOOPBACK", "UP", "LOWER_UP"], "mtu": 65536},
    {"ifname": "mgmt0", "flags": ["UP", "LOWER_UP"], "mtu": 1600},
    {"ifname": "mgmt0-hw", "flags": ["UP", "LOWER_UP"], "mtu": 1600, "master": "mgmt0"},
    {"ifname": "twm3", "flags": ["UP"], "mtu": 1500, "master": "mgmt0"},
]
KNOWN = [{"dst": "192.0.2.254", "dev": "mgmt0", "state": ["REACHABLE"]}]


def down(name: str) -> list[dict[str, Any]]:
    return [{**link, "flags": ["UP"]} if link["ifname"] == name else link for link in LINKS]


def neighbour(state: str, at: str = "192.0.2.254") -> list[dict[str, Any]]:
    return [{"dst": at, "dev": "mgmt0", "state": [state]}]


def test_a_good_way() -> None:
    assert judge(TUNNEL, ROUTE, LINKS, KNOWN) == Way("mgmt0", "192.0.2.254", "192.0.2.1", 1600, "")


@pytest.mark.parametrize("state", ["REACHABLE", "STALE", "DELAY", "PROBE", "PERMANENT"])
def test_a_neighbour_that_may_be_there_is_no_trouble(state: str) -> None:
    assert judge(TUNNEL, ROUTE, LINKS, neighbour(state)).trouble == ""
    assert judge(TUNNEL, ROUTE, LINKS, []).trouble == ""


ROWS: list[tuple[str, Any, Any, Any, str]] = [
    ("no route", [], LINKS, KNOWN, f"no route to {FAR}: Network is unreachable"),
    ("itself", [{"type": "local", "dev": "lo"}], LINKS, KNOWN, f"{FAR} is an address of the appliance itself"),
    ("no link", ROUTE, down("mgmt0"), KNOWN, "mgmt0 has no link"),
    ("no cable below the bridge", ROUTE, down("mgmt0-hw"), KNOWN, "mgmt0-hw has no link"),
    ("device gone", ROUTE, LINKS[:1], KNOWN, "mgmt0 has no link"),
    ("no gateway", ROUTE, LINKS, neighbour("FAILED"), "192.0.2.254 does not answer on mgmt0"),
    ("asking", ROUTE, LINKS, neighbour("INCOMPLETE"), "192.0.2.254 does not answer on mgmt0"),
]


@pytest.mark.parametrize(("route", "links", "known", "what"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_what_is_wrong_with_it(route: Any, links: Any, known: Any, what: str) -> None:
    assert what in judge(TUNNEL, route, links, known, "Network is unreachable").trouble


def test_an_unused_guest_port_of_the_bridge_is_no_trouble() -> None:
    assert judge(TUNNEL, ROUTE, down("twm3"), KNOWN).trouble == ""


def test_the_far_end_itself_is_the_neighbour_on_the_same_network() -> None:
    direct = [{"dst": FAR, "dev": "mgmt0", "prefsrc": "198.51.100.1"}]
    assert judge(TUNNEL, direct, LINKS, neighbour("FAILED", FAR)).trouble == f"{FAR} does not answer on mgmt0"


def test_what_the_kernel_has_learned_of_the_path_limits_it() -> None:
    """After a "packet too big"."""
    learned = [{**ROUTE[0], "metrics": [{"mtu": 1400}]}]
    assert judge(TUNNEL, learned, LINKS, KNOWN).mtu == 1400


def test_another_source_than_configured_is_named() -> None:
    tunnel = Tunnel(kind="vxlan", remote=FAR, local="192.0.2.9", lan_key=7, wan_key=8)
    assert "the routes say 192.0.2.1" in judge(tunnel, ROUTE, LINKS, KNOWN).trouble


@pytest.mark.parametrize("text", ["", "RTNETLINK answers: Network is unreachable\n", "{}", "[{}]", "null"])
def test_what_is_no_answer_has_no_rows(text: str) -> None:
    assert rows(text) == []
    assert rows(json.dumps(ROUTE)) == ROUTE


@pytest.mark.parametrize(
    ("first", "second", "wanted"),
    [
        (Way("mgmt0", mtu=1600), Way("mgmt0", mtu=1520), Way("mgmt0", mtu=1520)),
        (Way("mgmt0", mtu=1600), Way("mgmt0", mtu=1600, trouble="no"), Way("mgmt0", mtu=1600, trouble="no")),
        (Way("mgmt0", mtu=1600), Way(trouble="no route"), Way("mgmt0", mtu=1600, trouble="no route")),
        (Way(trouble="no link"), Way("mgmt0", mtu=1600), Way(trouble="no link")),
    ],
)
def test_both_addresses_of_a_far_end_are_looked_at(
    first: Way, second: Way, wanted: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tunnel of each side ends at one of them: what is wrong with either stops the remote."""
    tunnel = Tunnel(kind="ipip", remote=FAR, wan_remote="198.51.100.8")

    async def answer(_: Tunnel, __: object, far: str) -> Way:
        return {FAR: first, "198.51.100.8": second}[far]

    monkeypatch.setattr(underlay, "_look", answer)
    assert asyncio.run(underlay.look(tunnel, Namespace("mgmt"))) == wanted


@pytest.mark.parametrize(
    ("carrier", "wanted"),
    [
        ("1\n", Way("eth2", mtu=1504)),
        ("0\n", Way("eth2", mtu=1504, trouble="eth2 has no link")),
        (OSError(errno.EINVAL, "Invalid argument"), Way("eth2", trouble="port eth2 is down")),
        (OSError(errno.ENOENT, "No such file"), Way("eth2", trouble="eth2 is gone")),
    ],
)
def test_the_way_of_vlans_is_a_port(carrier: str | OSError, wanted: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel refuses to say whether a port that is down has a link."""
    tunnel = Tunnel(kind="vlan", port="eth2", lan_key=7, wan_key=8)

    def read(_: Path) -> str:
        if isinstance(carrier, OSError):
            raise carrier
        return carrier

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(netdev, "mtu", lambda name: 1504)
    assert underlay.look_at_port(tunnel, "eth2") == wanted
    assert underlay.look_at_port(tunnel, "").trouble == "port eth2 is missing"


@pytest.mark.parametrize(("has", "most", "wanted"), [(1500, 9000, 1504), (9000, 9000, 9000), (1500, 1500, 0)])
def test_a_port_of_vlans_gets_the_mtu_that_they_need(
    has: int, most: int, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is raised, never lowered; a driver that has no such one is named."""
    mtus = [has]

    def change(_: str, size: int) -> None:
        if size > most:
            raise OSError(errno.EINVAL, "Invalid argument")
        mtus.append(size)

    monkeypatch.setattr(netdev, "mtu", lambda name: mtus[-1])
    monkeypatch.setattr(netdev, "set_mtu", change)
    if wanted:
        assert device.widen("eth2", 1504) == wanted
        return
    with pytest.raises(RefusedError, match="port eth2 takes no MTU of 1504, which the VLANs need: Invalid argument"):
        device.widen("eth2", 1504)
