# SPDX-License-Identifier: GPL-2.0-only
"""Makes, finds again and removes tunnel devices. The devices outlive bypassd, like the taps of guests.

A device is recognized by its name and its mark (plan.py), which is set last: what a crash left half made is made anew.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Sequence
from pathlib import Path

from appliance.config.schema import encapsulations
from appliance.errors import RefusedError, UnreachableError
from appliance.system import netdev
from appliance.system.command import run
from appliance.system.namespace import Namespace
from appliance.tunnel import joint, xdp_pair
from appliance.tunnel.plan import NAME, Listener, Plan, listeners

LIMIT_S = 5.0
"""How long one call of `ip` may take."""
QUEUE = 1000
_SYS = Path("/sys/class/net")


def existing() -> list[str]:
    """The names of all devices that look like ours."""
    return [name for _, name in socket.if_nameindex() if NAME.fullmatch(name)]


def mark_of(name: str) -> str:
    """What the device is marked with; "" if it is not there, or not complete."""
    try:
        return (_SYS / name / "ifalias").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


async def make(name: str, plan: Plan, space: Namespace, source: str = "") -> None:
    """Make the device, down, without its mark. UnreachableError: the kernel or the management port refuses.

    `space` is where its outer packets go, from `source` if the configuration does not say; a VLAN's go out of the port
    `source`. A device of this name is removed first.
    """
    if not plan.on_port and not space.exists:
        raise UnreachableError("the management port is not set up yet")
    await remove(name)
    if plan.on_port:
        await _ip(["ip", *plan.creation(name, source)], plan)
        _prepare(name)
        return
    tunnel = joint.joint(name).tunnel if plan.carries_ip else name
    # What a crash left between the two steps. It fails where nothing is.
    await run(space.command(["ip", "link", "delete", tunnel]), LIMIT_S)
    if plan.listener is not None and plan.listener not in await open_listeners(space):
        await _ip(space.command(["ip", *plan.listener.words("add")]), plan)
    await _ip(space.command(["ip", *plan.creation(tunnel, source)]), plan)
    await _ip(space.command(["ip", "link", "set", tunnel, "netns", str(os.getpid())]), plan)
    if plan.carries_ip:
        await joint.make(name)
    _prepare(name, tunnel)


def _prepare(*names: str) -> None:
    """Devices that send nothing of their own."""
    try:
        for device in dict.fromkeys(names):
            netdev.disable_ipv6(device)
            netdev.change_flags(device, netdev.IFF_NOARP)
            netdev.set_queue_length(device, QUEUE)
    except OSError as error:
        raise UnreachableError(f"tunnel {names[0]} cannot be set up: {error.strerror}") from error


def widen(port: str, least: int) -> int:
    """Give a port of VLANs at least this MTU; returns the one that it has. RefusedError: its driver has no such one."""
    try:
        if netdev.mtu(port) < least:
            netdev.set_mtu(port, least)
        return netdev.mtu(port)
    except OSError as error:
        raise RefusedError(f"port {port} takes no MTU of {least}, which the VLANs need: {error.strerror}") from error


async def open_listeners(space: Namespace) -> set[Listener]:
    """The UDP ports at which the kernel takes GRE in this namespace."""
    _, text = await run(space.command(["ip", "-j", "fou", "show"]), LIMIT_S)
    return listeners(text)


async def close_listeners(space: Namespace, wanted: Collection[Listener]) -> None:
    """Close those that no tunnel wants any more. UnreachableError: `ip` cannot be run."""
    for listener in await open_listeners(space) - set(wanted):
        await run(space.command(["ip", *listener.words("del")]), LIMIT_S)


async def finish(name: str, plan: Plan) -> None:
    """Bring the device up and mark it as complete; its frames are taken by the datapath by now."""
    try:
        netdev.change_flags(name, netdev.IFF_UP)
        if plan.carries_ip:
            joint.up(name)
    except OSError as error:
        raise UnreachableError(f"tunnel {name} cannot be set up: {error.strerror}") from error
    await _ip(["ip", "link", "set", name, "alias", plan.mark], plan)


def fit(name: str, mtu: int) -> None:
    """Give the device, and what is behind it, this MTU: longer frames skip the remote, and are counted.

    UnreachableError: it is refused.
    """
    behind = joint.joint(name)
    there = {known for _, known in socket.if_nameindex()}
    try:
        for device in (behind.tunnel, behind.pair, name):
            if (device == name or device in there) and netdev.mtu(device) != mtu:
                netdev.set_mtu(device, mtu)
    except OSError as error:
        raise UnreachableError(f"tunnel {name}: an MTU of {mtu} is refused: {error.strerror}") from error


async def remove(name: str) -> None:
    """Remove the device, and what is behind it. Does nothing if there is none; UnreachableError: the kernel refuses."""
    there = {known for _, known in socket.if_nameindex()}
    for device in (joint.joint(name).tunnel, xdp_pair.pair(name).out, name):
        if device in there:
            status, text = await run(["ip", "link", "delete", device], LIMIT_S)
            if status != 0 and (_SYS / device).exists():
                raise UnreachableError(f"tunnel {device} cannot be removed: {_line(text)}")


async def _ip(words: Sequence[str], plan: Plan) -> None:
    status, text = await run(words, LIMIT_S)
    if status == 0:
        return
    said, kind = _line(text), plan.tunnel.kind
    if "Unknown device type" in said or "not supported" in said:
        needs = encapsulations.KINDS[kind].needs[plan.version]
        over = f" over IPv{plan.version}" if plan.version else ""
        raise UnreachableError(f"the kernel has no {kind}{over}: it was built without {needs}")
    if "Address already in use" in said:
        said = f"UDP port {plan.port} of the management port is in use by another program"
    elif "File exists" in said:
        what = f"key {plan.key} is" if encapsulations.KINDS[kind].keyed else "its addresses are"
        what = f"VLAN {plan.key} is" if plan.on_port else what
        said = f"{what} in use by a tunnel that is not ours"
    raise UnreachableError(f"{kind} to {plan.remote}: {said}")


def _line(text: str) -> str:
    return " ".join(text.split()).removeprefix("Error: ").removeprefix("RTNETLINK answers: ")


class Counters(dict[str, int]):
    """What a device has counted since it was made, by the kernel's names."""


COUNTED = (
    "rx_packets", "tx_packets", "rx_errors", "rx_crc_errors", "rx_fifo_errors", "rx_frame_errors", "rx_dropped",
    "tx_errors", "tx_dropped", "tx_carrier_errors",
)  # fmt: skip


def counters(name: str) -> Counters:
    """The counters of one device; without those that it does not have, empty if it is gone."""
    found = Counters()
    for key in COUNTED:
        try:
            found[key] = int((_SYS / name / "statistics" / key).read_text())
        except (OSError, ValueError):
            continue
    return found
