# SPDX-License-Identifier: GPL-2.0-only
"""How the devices of a segment are attached, up to which length frames pass, and why. Pure.

XDP is fast and sees frames as the driver has them: a tag that hardware has stripped, or packets that it has merged, are
lost to it, and a frame that is longer than one buffer cannot be handed to a tap. tc has no such limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from appliance.config.schema.limits import ONE_BUFFER_MTU
from appliance.system.netdev_facts import ETHERNET_HEADER, VLAN_HEADER

ETHERNET_MTU = 1500
AUTO_MTUS = (ONE_BUFFER_MTU, 3050, 1582, ETHERNET_MTU)
"""The MTUs to try when the configuration does not set one, largest first.

A page without what XDP reserves in it; three KiB; what drivers that may use small buffers hold in one, which is an
Ethernet frame with a pile of tags or labels; and what every driver takes.
"""
_WHOLE_PAGES = frozenset(("virtio_net", "veth", "mlx5_core"))
_SMALL_BUFFER_MTU = 1582


class PortFacts(NamedTuple):
    """A port as it is now.

    `several`: by XDP it may deliver frames in several buffers. `altering`: what its hardware does to frames and cannot
    be kept from, in words.
    """

    name: str
    driver: str
    mtu: int
    several: bool
    altering: tuple[str, ...]

    @property
    def one_buffer(self) -> int:
        """The largest MTU whose frames lie in one buffer."""
        if not self.several:
            return self.mtu  # the driver refuses XDP, or the MTU, when they do not
        return ONE_BUFFER_MTU if self.driver in _WHOLE_PAGES else _SMALL_BUFFER_MTU


class Choice(NamedTuple):
    """The modes to try, in order, and why not XDP; "" if XDP is possible."""

    tried: tuple[str, ...]
    reason: str = ""


def auto_mtus(ports: Sequence[PortFacts]) -> tuple[int, ...]:
    """What is tried at these ports, the largest first: nothing that would not lie in one buffer, as guests may come."""
    most = min((port.one_buffer for port in ports if port.several), default=AUTO_MTUS[0])
    return tuple(mtu for mtu in AUTO_MTUS if mtu <= most)


def longest(mtu: int) -> int:
    """The longest frame that passes a port of this MTU, in bytes with its header and a tag."""
    return mtu + ETHERNET_HEADER + VLAN_HEADER


def choose(asked: str, ports: Sequence[PortFacts], hops: Sequence[str], needs_tc: str = "") -> Choice:
    """`asked`: by the configuration. `hops`: who is attached to the segment and takes frames in one buffer only.

    `needs_tc`: why XDP is out of the question, as `needs_tc` below says.
    """
    if asked != "auto":
        return Choice((asked,))
    if needs_tc:
        return Choice(("tc",), needs_tc)
    for port in ports:
        if port.altering:
            what = " and ".join(port.altering)
            return Choice(("tc",), f"{port.name} ({port.driver}) delivers {what}, which XDP cannot undo")
    reason = in_several_buffers(ports)
    if reason and hops:
        return Choice(("tc",), f"{reason}, which guests get by tc only")
    return Choice(("xdp", "tc"))


def needs_tc(tunnels: Sequence[str], mirrors: Sequence[str]) -> str:
    """Why XDP cannot serve a segment with these hops; "" if it can.

    `tunnels`: those that are reached through a tunnel of the kernel. `mirrors`: those that get copies.
    """
    if tunnels:
        return f"XDP cannot send to the tunnels of {', '.join(tunnels)}"
    if mirrors:
        return f"XDP cannot copy frames to mirrors: {', '.join(mirrors)}"
    return ""


def in_several_buffers(ports: Iterable[PortFacts]) -> str:
    """Which frames arrive in several buffers by XDP; "" none."""
    for port in ports:
        if port.mtu > port.one_buffer:
            frames = f"frames longer than {longest(port.one_buffer)} bytes"
            return f"{port.name} ({port.driver}) has an MTU of {port.mtu}: {frames} come in several buffers"
    return ""


def refusal(asked: str, ports: Sequence[PortFacts]) -> str:
    """Why the configured mode is not possible; "" if it is."""
    for port in ports if asked == "xdp" else ():
        if port.altering:
            what = " and ".join(port.altering)
            return f'{port.name} ({port.driver}) delivers {what}, which XDP cannot undo: set attach = "tc" or "auto"'
    return ""
