# SPDX-License-Identifier: GPL-2.0-only
"""The way of a tunnel's outer packets: route, link, neighbour and MTU, as the kernel has them in the management port's
namespace. It tells why a remote does not answer: the way there, or the remote itself.

`ask` runs `ip` and returns what it printed; `judge` is pure. Nothing here renews or ends a lease: only heartbeats do.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from appliance.config.schema.model import Tunnel
from appliance.errors import UnreachableError
from appliance.system import netdev
from appliance.system.command import run
from appliance.system.namespace import Namespace

LIMIT_S = 3.0
_SYS = Path("/sys/class/net")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Way:
    """The way to a far end. `trouble`: why nothing gets there, "" if nothing is known against it.

    `mtu`: the longest packet that it takes, 0 while it is unknown. `source`: our address in the outer packets.
    """

    device: str = ""
    gateway: str = ""
    source: str = ""
    mtu: int = 0
    trouble: str = ""


def rows(text: str) -> Rows:
    """The rows of `ip -j`; none where it printed an error instead."""
    try:
        found = json.loads(text or "[]")
    except ValueError:
        return []
    return [row for row in found if isinstance(row, dict) and row] if isinstance(found, list) else []


def judge(tunnel: Tunnel, route: Rows, links: Rows, neighbours: Rows, said: str = "", *, far: str = "") -> Way:
    """The way, from `ip -j route get`, `ip -j link show` and `ip -j neighbour show`. `said`: what the first one said
    when it failed. `far`: where it leads; "": to the far end's first address."""
    far = far or tunnel.far
    if not route or "dev" not in route[0]:
        return Way(trouble=f"no route to {far}: {said or 'network is unreachable'}")
    first = route[0]
    device, gateway = str(first["dev"]), str(first.get("gateway", ""))
    source = str(first.get("prefsrc", ""))
    if first.get("type") == "local" or device == "lo":
        return Way(device, trouble=f"{far} is an address of the appliance itself: a tunnel to itself")
    by_name = {str(row.get("ifname")): row for row in links}
    link = by_name.get(device, {})
    mtu = min(int(link.get("mtu", 0)), *_path_mtu(first))
    way = Way(device, gateway, source, mtu)
    if tunnel.local and tunnel.wireguard is None and tunnel.local != source and source:
        return replace(way, trouble=f"the routes say {source}, and the tunnel has local = {tunnel.local}")
    down = next((name for name, row in by_name.items() if _carries(name, row, device) and not _up(row)), "")
    if down or not link:
        return replace(way, trouble=f"{down or device} has no link")
    next_one = gateway or far
    states = {str(state) for row in neighbours if row.get("dst") == next_one for state in row.get("state", [])}
    if states & {"FAILED", "INCOMPLETE"}:
        return replace(way, trouble=f"{next_one} does not answer on {device}")
    return way


def _path_mtu(route: dict[str, Any]) -> list[int]:
    """The MTU that the kernel has learned for the path, if any."""
    found: list[int] = []
    for metrics in route.get("metrics", []):
        if isinstance(metrics, dict) and isinstance(metrics.get("mtu"), int):
            found.append(metrics["mtu"])
    return found or [1 << 16]


def _carries(name: str, row: dict[str, Any], device: str) -> bool:
    """Whether this is the device, or the hardware port below it: a bridge has a link as long as any member has."""
    return name == device or (row.get("master") == device and name.endswith("-hw"))


def _up(row: dict[str, Any]) -> bool:
    return "LOWER_UP" in row.get("flags", [])


async def look(tunnel: Tunnel, space: Namespace) -> Way:
    """Ask the kernel. Never raises: what cannot be asked is a trouble too.

    Of two addresses of the far end both are looked at: the way is that to the first one, as narrow as the narrower one,
    and what is wrong with the second is its trouble too.
    """
    way = await _look(tunnel, space, tunnel.far)
    if way.trouble or tunnel.wireguard is not None or len(set(tunnel.remotes)) == 1:
        return way
    other = await _look(tunnel, space, tunnel.remotes[1])
    return replace(way, mtu=min(way.mtu, other.mtu) if other.mtu else way.mtu, trouble=other.trouble)


async def _look(tunnel: Tunnel, space: Namespace, far: str) -> Way:
    if not space.exists:
        return Way(trouble="the management port is not set up")
    try:
        source = ["from", tunnel.local] if tunnel.local and tunnel.wireguard is None else []
        said = await _ask(space, ["route", "get", far, *source])
        route = rows(said)
        links = rows(await _ask(space, ["link", "show"]))
        next_one = str(route[0].get("gateway", far)) if route else far
        neighbours = rows(await _ask(space, ["neighbour", "show", "to", next_one]))
    except UnreachableError as error:
        return Way(trouble=str(error))
    said = " ".join(said.split()).removeprefix("RTNETLINK answers: ")
    return judge(tunnel, route, links, neighbours, said, far=far)


def look_at_port(tunnel: Tunnel, device: str) -> Way:
    """The way of VLANs: the port's link and MTU. `device`: of the port, "" while it is missing. Never raises."""
    if not device:
        return Way(trouble=f"port {tunnel.port} is missing")
    try:
        mtu = netdev.mtu(device)
        link = (_SYS / device / "carrier").read_text().strip() == "1"
    except OSError as error:  # EINVAL: the port is down
        return Way(device, trouble=f"port {device} is down" if error.errno == errno.EINVAL else f"{device} is gone")
    return Way(device, mtu=mtu, trouble="" if link else f"{device} has no link")


Look = Callable[[Tunnel, Namespace], Awaitable[Way]]


async def _ask(space: Namespace, words: Sequence[str]) -> str:
    _, text = await run(space.command(["ip", "-j", *words]), LIMIT_S)
    return text
