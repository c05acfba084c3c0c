# SPDX-License-Identifier: GPL-2.0-only
"""The two tunnels of one remote: made or adopted, attached to the datapath, fitted to the way, removed."""

from __future__ import annotations

import asyncio
import logging
import socket
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from appliance.config.check.verify_remote import misfit
from appliance.config.schema import encapsulations, limits
from appliance.config.schema.model import Remote, Segment
from appliance.errors import BypassError, RefusedError, UnreachableError
from appliance.health.inband import Direction, neighbour_address
from appliance.health.inband_streams import TapPair
from appliance.health.overload import Load
from appliance.hop.hop import HopLeases
from appliance.steering.hop_datapath import HopDatapath
from appliance.steering.kernel.ip_devices import IpDevices
from appliance.steering.kernel.layout import Side
from appliance.system.namespace import Namespace
from appliance.tunnel import device
from appliance.tunnel.joint import Joint, joint
from appliance.tunnel.joint import attach as connect
from appliance.tunnel.plan import Plan, device_name, plans
from appliance.tunnel.secured import Secured
from appliance.tunnel.underlay import Look, Way

log = logging.getLogger(__name__)


class Datapath(HopDatapath, Protocol):
    """What remotes need of the datapath (steering/datapath.py)."""

    @property
    def leases(self) -> HopLeases:
        """The hops' leases: until when each is available."""
        ...

    def load(self, hop: str, segment: str, side: Side) -> Load:
        """The traffic of one direction through the hop: that which enters at this side."""
        ...

    @property
    def ip_devices(self) -> IpDevices:
        """What is between the datapath and tunnels that carry IP."""
        ...

    def exchanged(self, hop: str) -> tuple[int, int]:
        """Frames sent to the hop, and frames that came back from it, without heartbeats."""
        ...


class Tunnels:
    """The devices of one remote on one segment. They outlive this object and bypassd."""

    def __init__(
        self, config: Remote, segment: Segment, datapath: Datapath, *, space: Namespace, own_key: Path
    ) -> None:
        """`space`: of the management port; `own_key`: the file with the appliance's WireGuard key."""
        self.config, self.segment = config, segment.name
        self._mtu, self._datapath, self._space = segment.mtu, datapath, space
        number, index = datapath.hop_id(config.name), datapath.segment_id(segment.name)
        names = [device_name(number, index, side) for side in Side]
        # Heartbeats through a tunnel of IP have the addresses by which the datapath knows them when they come back.
        inside = [neighbour_address(number, way).hex(":") for way in Direction]
        self.pair = TapPair(names[Side.LAN], names[Side.WAN], addresses=(inside[0], inside[1]))
        self.warning = ""
        self._indexes: tuple[int, ...] = ()
        below = config.tunnel.wireguard is not None
        self.secured = Secured(config.tunnel, number, space, own_key) if below else None

    @property
    def names(self) -> tuple[str, str]:
        """The devices of the LAN side and of the WAN side."""
        return self.pair.lan, self.pair.wan

    def _planned(self) -> list[tuple[str, Plan, Side]]:
        names = (self.pair.lan, self.pair.wan)
        return list(zip(names, plans(self.config.tunnel), Side, strict=True))

    def alike(self, other: Tunnels) -> bool:
        """Whether these are the same devices."""
        mine = (self.config.tunnel, self.segment, self._mtu)
        return mine == (other.config.tunnel, other.segment, other._mtu)

    @property
    def adoptable(self) -> bool:
        """Whether both devices are there as this configuration wants them."""
        return all(device.mark_of(name) == plan.mark for name, plan, _ in self._planned())

    @property
    def there(self) -> bool:
        """Whether the devices are still those that were attached, and nothing below them is missing."""
        complete = self.secured is None or not self.secured.gone
        return complete and bool(self._indexes) and self._indexes == self._present()

    def _present(self) -> tuple[int, ...]:
        try:
            return tuple(socket.if_nametoindex(name) for name in self.devices)
        except OSError:
            return ()

    @property
    def _joints(self) -> list[Joint]:
        return [joint(name) for name in self.names] if encapsulations.carries_ip(self.config.tunnel) else []

    @property
    def devices(self) -> list[str]:
        """All devices of the two tunnels, those behind the hop's own included."""
        return [*self.names, *(one.tunnel for one in self._joints)]

    def attach(self) -> None:
        """Have the datapath take the frames that come out of the devices, and send to them. DatapathError."""
        for name, _, side in self._planned():
            self._datapath.attach_hop(name, self.config.name, self.segment, side, tags=self.config.tags)
        self._indexes = self._present()

    async def look(self, look: Look) -> Way:
        """The way of their packets as it is now, with what is known against WireGuard on it. Never raises."""
        way = await look(self.config.tunnel, self._space)
        if self.secured is None or way.trouble or not self._indexes:
            return way
        return replace(way, trouble=await self.secured.look())

    async def find_way(self, look: Look) -> Way:
        """The way of their packets. UnreachableError: there is none now. RefusedError: it is too narrow."""
        tunnel = self.config.tunnel
        way = await look(tunnel, self._space)
        if not way.mtu:
            raise UnreachableError(way.trouble or f"no way to {tunnel.far} is known")
        if encapsulations.on_port(tunnel):  # the port has no other use
            least = encapsulations.outer_mtu(tunnel, self._mtu or encapsulations.ETHERNET_MTU)
            way = replace(way, mtu=await asyncio.to_thread(device.widen, way.device, least))
        if what := misfit(tunnel, self._mtu, way.mtu):
            raise RefusedError(what)
        return way

    async def set_up(self, way: Way, folder: Path) -> None:
        """Make the devices, or go on with those that are there. `folder`: the remote's run folder.

        UnreachableError: not now. DatapathError, HardwareError: the kernel refuses.
        """
        space, anew, source = self._space, False, way.source
        if encapsulations.on_port(self.config.tunnel):
            source = way.device
        if self.secured is not None:
            space, anew = self.secured.space, await self.secured.set_up(folder, way.mtu)
            source = self.secured.address
        if anew or not self.adoptable:
            for name, plan, _ in self._planned():
                await device.make(name, plan, space, source)
        await self.fit(way)
        for one, side in zip(self._joints, Side, strict=False):
            programs = self._datapath.ip_devices.join(self.config.name, side, *one.indexes)
            await connect(one.name, *programs)
        await asyncio.to_thread(self.attach)
        for name, plan, _ in self._planned():
            if device.mark_of(name) != plan.mark:
                await device.finish(name, plan)

    async def fit(self, way: Way) -> None:
        """Let the devices take what crosses the way whole, and not more. UnreachableError: the kernel refuses."""
        if not way.mtu:
            return
        if self.secured is not None:
            await self.secured.fit(way.mtu)
        tunnel = self.config.tunnel
        most = min(encapsulations.inner_mtu(tunnel, way.mtu), limits.MAX_MTU)
        for name, _, _ in self._planned():
            device.fit(name, max(most, 68))
        wanted = self._mtu or encapsulations.ETHERNET_MTU
        longest = most + encapsulations.FRAME_BEYOND_MTU
        narrow = f"the way to {tunnel.far} carries {way.mtu} bytes only: frames longer than {longest} skip the remote"
        warning = narrow if most < wanted else ""
        if warning != self.warning:
            self.warning = warning
            if warning:
                log.warning("remote %s: %s", self.config.name, warning)
        if self._indexes:
            self.attach()  # for the length of the frames that they take now

    async def take_down(self) -> None:
        """Detach and remove the devices. What cannot be removed is logged."""
        try:
            # In a thread, because the kernel waits for its other processors, and leases of other hops are due.
            await asyncio.to_thread(self._datapath.detach_hop, self.config.name, self.segment)
        except BypassError as error:
            log.error("remote %s: its tunnels stay attached: %s", self.config.name, error)
        self._indexes = ()
        for one in self._joints:
            self._datapath.ip_devices.leave(one.present)
        for name in (self.pair.lan, self.pair.wan):
            try:
                await device.remove(name)
            except UnreachableError as error:
                log.warning("%s", error)
        if self.secured is not None:
            try:
                await self.secured.take_down()
            except UnreachableError as error:
                log.warning("%s", error)

    def loads(self) -> dict[str, Load]:
        """The traffic through the remote, by the device where it enters."""
        load, name = self._datapath.load, self.config.name
        return {device: load(name, self.segment, side) for device, side in zip(self.names, Side, strict=True)}

    def counters(self) -> dict[str, device.Counters]:
        """The counters of both devices, by side. `no_header`: packets that a tunnel of IP returned and whose frame
        nobody knows, or that were none of IP."""
        sides = ("lan", "wan")
        if not self._joints:
            return {side: device.counters(name) for side, name in zip(sides, self.names, strict=True)}
        found = {side: device.counters(one.tunnel) for side, one in zip(sides, self._joints, strict=True)}
        for counted, one in zip(found.values(), self._joints, strict=True):
            counted["no_header"] = self._datapath.ip_devices.dropped(one.present)
        return found
