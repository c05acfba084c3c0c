# SPDX-License-Identifier: GPL-2.0-only
"""The pair of veth devices by which XDP reaches the management port, for tunnels with way = "xdp".

    datapath -> tx1.0l ══ te1.0l: headers on -> management port       (the other end: in its namespace)
    datapath <- tr1.0l (the kernel's tunnel)
                tx1.0l -> tr1.0l: what came back from the other end, as it was

The programs are the datapath's (bpf/encap.h). Names follow that of the hop's device. The pair outlives bypassd. At the
other end a filter drops whatever the program would leave to the stack there.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from appliance.errors import UnreachableError
from appliance.system import netdev
from appliance.system.command import run
from appliance.system.namespace import Namespace
from appliance.system.xdp_features import XdpFeature, xdp_features
from appliance.tunnel.joint import attachment

LIMIT_S = 5.0
Words = list[str]
_DROP_ALL = "1,6 0 0 2"  # classic BPF for tc: return TC_ACT_SHOT


class Pair(NamedTuple):
    """`out`: where the datapath sends; `inside`: the other end."""

    out: str
    inside: str


def pair(name: str) -> Pair:
    """That of a hop's device: "tr1.0l" has "tx1.0l" and "te1.0l"."""
    return Pair(f"tx{name[2:]}", f"te{name[2:]}")


class Underlay(NamedTuple):
    """Where packets leave. `route`: ifindex that routes name; `port`: ifindex of the port; `trouble`: why XDP cannot
    send them, "" if it can."""

    route: int = 0
    port: int = 0
    name: str = ""
    trouble: str = ""


async def make(name: str, space: Namespace) -> None:
    """Make the pair, down, or go on with the one that is there. UnreachableError: the kernel refuses."""
    out, inside = pair(name)
    if out not in {known for _, known in socket.if_nameindex()}:
        peer = f"peer name {out} netns {threading.get_native_id()}"
        await _do(space.command(["ip", *f"link add {inside} type veth {peer}".split()]))


async def attach(name: str, space: Namespace, by_kernel: Path) -> int:
    """Attach the programs, which are pinned beside `by_kernel`, and bring the pair up.

    Returns the ifindex of the other end. UnreachableError: the kernel refuses.
    """
    out, inside = pair(name)
    await _do(space.command(["tc", "qdisc", "replace", "dev", inside, "clsact"]))
    where = f"filter replace dev {inside} ingress protocol all pref 1 handle 1 bpf direct-action bytecode".split()
    await _do(space.command(["tc", *where, _DROP_ALL]))
    await _do(space.command(_program(inside, by_kernel.with_name("encap_xdp"))))
    # A veth hands on what XDP sends back from its other end only while it has a program itself.
    await _do(_program(out, by_kernel.with_name("pass_xdp")))
    for words in attachment(out, by_kernel):
        await _do(words)
    try:
        index = await asyncio.to_thread(space.inside, partial(_quiet, inside))
        await asyncio.to_thread(_quiet, out)
    except OSError as error:
        raise UnreachableError(f"{out} cannot be set up: {error.strerror}") from error
    return index


def _program(device: str, pinned: Path) -> Words:
    """The command that attaches a pinned program natively, in place of an earlier one."""
    return ["ip", "-force", "link", "set", "dev", device, "xdpdrv", "pinned", str(pinned)]


def _quiet(device: str) -> int:
    """Up, and sending nothing of its own; returns the ifindex."""
    netdev.disable_ipv6(device)
    netdev.change_flags(device, netdev.IFF_NOARP | netdev.IFF_UP)
    return socket.if_nametoindex(device)


async def fit(name: str, space: Namespace, mtu: int) -> None:
    """Give both ends this MTU. UnreachableError: it is refused.

    In a thread, as whatever changes a device here: the kernel has one lock for all of that, which others may hold long.
    """
    out, inside = pair(name)
    try:
        if netdev.mtu(out) == mtu:
            return  # set last, so the other end has it too
        await asyncio.to_thread(space.inside, partial(netdev.set_mtu, inside, mtu))
        await asyncio.to_thread(netdev.set_mtu, out, mtu)
    except OSError as error:
        raise UnreachableError(f"{out}: an MTU of {mtu} is refused: {error.strerror}") from error


def judge(links: Sequence[dict[str, Any]], device: str) -> Underlay:
    """The port below the device that routes name, from `ip -j -d link show`. Pure."""
    by_name = {str(row.get("ifname")): row for row in links}
    row = by_name.get(device)
    if row is None:
        return Underlay(trouble=f"{device} is gone")
    route = int(row["ifindex"])
    if row.get("linkinfo", {}).get("info_kind") != "bridge":
        return Underlay(route, route, device)
    members = [one for one in links if one.get("master") == device]
    if len(members) != 1:
        return Underlay(
            route, trouble=f"guests are on the LAN of {device}: only its bridge knows who is behind which port"
        )
    return Underlay(route, int(members[0]["ifindex"]), str(members[0]["ifname"]))


async def underlay(device: str, space: Namespace, programs: Path) -> Underlay:
    """The same from the kernel; a driver that XDP can only send to while it has a program gets one that passes all."""
    _, text = await run(space.command(["ip", "-j", "-d", "link", "show"]), LIMIT_S)
    try:
        links = json.loads(text or "[]")
    except ValueError:
        links = []
    found = judge([row for row in links if isinstance(row, dict)], device)
    if found.trouble or await _can_send(found.port, space):
        return found
    words = ["ip", "link", "set", "dev", found.name, "xdpdrv", "pinned", str(programs / "pass_xdp")]
    status, said = await run(space.command(words), LIMIT_S)
    if status == 0 and await _can_send(found.port, space):
        return found
    why = " ".join(said.split()).removeprefix("Error: ") if status else "its driver sends none"
    return found._replace(trouble=f"XDP cannot send to {found.name}: {why}")


async def _can_send(index: int, space: Namespace) -> bool:
    def sends() -> bool:
        features = xdp_features(index)
        return features is not None and XdpFeature.SEND in features

    return await asyncio.to_thread(lambda: space.inside(sends))


def prepare(space: Namespace) -> tuple[int, int]:
    """Let look-ups be made as for packets of our own; returns the range of their UDP source ports.

    The kernel answers them for devices that forward. Loopback is such a device then; nothing arrives there that is not
    for this system. UnreachableError: it refuses.
    """

    def inside() -> tuple[int, int]:
        for version in (4, 6):
            netdev.set_sysctl(f"ipv{version}/conf/lo/forwarding", "1")
        least, most = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        return int(least), int(most)

    try:
        return space.inside(inside)
    except (OSError, ValueError) as error:
        raise UnreachableError(f"routes cannot be looked up by XDP: {error}") from error


async def _do(words: Sequence[str]) -> None:
    status, text = await run(words, LIMIT_S)
    if status != 0:
        raise UnreachableError(f"{' '.join(words[-8:])}: {' '.join(text.split())}")
