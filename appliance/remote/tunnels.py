# SPDX-License-Identifier: GPL-2.0-only
"""The two tunnels of one remote, as the taps of a hop."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Protocol

from appliance.config.schema.model import Remote, Segment
from appliance.health.inband import Direction, neighbour_address
from appliance.health.inband_streams import TapPair
from appliance.health.overload import Load
from appliance.hop.hop import HopLeases
from appliance.remote.ends import Ends
from appliance.steering.hop_datapath import HopDatapath
from appliance.steering.kernel.ip_devices import IpDevices
from appliance.steering.kernel.layout import Side
from appliance.system.namespace import Namespace
from appliance.tunnel import device
from appliance.tunnel.joint import attach as connect
from appliance.tunnel.joint import attach_egress
from appliance.tunnel.plan import device_name


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


class Tunnels(Ends):
    """The devices of one remote on one segment."""

    def __init__(
        self, config: Remote, segment: Segment, datapath: Datapath, *, space: Namespace, own_key: Path
    ) -> None:
        """`space`: of the management port; `own_key`: the file with the appliance's WireGuard key."""
        self._config, self.segment, self._datapath = config, segment.name, datapath
        number, index = datapath.hop_id(config.name), datapath.segment_id(segment.name)
        lan, wan = (device_name(number, index, side) for side in Side)
        super().__init__(
            f"remote {config.name}", config.tunnel, (lan, wan), number, segment.mtu, space=space, own_key=own_key
        )
        # Heartbeats through a tunnel of IP have the addresses by which the datapath knows them when they come back.
        inside = [neighbour_address(number, way).hex(":") for way in Direction]
        self.parted = False
        self.pair = TapPair(lan, wan, addresses=(inside[0], inside[1]))

    @property
    def config(self) -> Remote:
        """The remote's table; another one has the same tunnel."""
        return self._config

    @config.setter
    def config(self, config: Remote) -> None:
        self._config, self._tunnel = config, config.tunnel

    def alike(self, other: Tunnels) -> bool:
        """Whether these are the same devices."""
        mine = (self.config.tunnel, self.segment, self._mtu)
        return mine == (other.config.tunnel, other.segment, other._mtu)

    async def part(self, parted: bool) -> None:
        """Have the datapath take no frame of theirs, and send none; heartbeats still leave. Or the opposite.

        DatapathError: the kernel refuses.
        """
        self.parted = parted
        await asyncio.to_thread(self._disconnect if parted else self.attach)

    def _connect(self) -> None:
        if self.parted:
            return
        for name, side in zip(self.names, Side, strict=True):
            self._datapath.attach_hop(name, self.config.name, self.segment, side, tags=self.config.tags)

    def _disconnect(self) -> None:
        self._datapath.detach_hop(self.config.name, self.segment)

    async def _join(self) -> None:
        """Have headers taken off before tunnels of IP, and put back on return."""
        for one, side in zip(self._joints, Side, strict=False):
            programs = self._datapath.ip_devices.join(self.config.name, side, *one.indexes)
            await connect(one.name, *programs)

    async def _fitted(self, mtu: int) -> None:
        """Have TCP connections fit, if that is wanted."""
        if not self._tunnel.mss_clamp:
            return
        for name in self.names:
            program = self._datapath.ip_devices.clamp(socket.if_nametoindex(name), mtu)
            await attach_egress(name, program)

    def clamped(self) -> int | None:
        """TCP connections that were made to fit; None: that is not wanted."""
        if not self._tunnel.mss_clamp:
            return None
        there = {name: index for index, name in socket.if_nameindex()}
        return sum(self._datapath.ip_devices.clamped(there[name]) for name in self.names if name in there)

    def _leave(self) -> None:
        """The opposite of `_join` and `_fitted`."""
        there = {name: index for index, name in socket.if_nameindex()} if self._tunnel.mss_clamp else {}
        for name in self.names:
            if name in there:
                self._datapath.ip_devices.release(there[name])
        for one in self._joints:
            self._datapath.ip_devices.leave(one.present)

    def loads(self) -> dict[str, Load]:
        """The traffic through the remote, by the device where it enters."""
        load, name = self._datapath.load, self.config.name
        return {device: load(name, self.segment, side) for device, side in zip(self.names, Side, strict=True)}

    def counters(self) -> dict[str, device.Counters]:
        """The counters of both devices, by side. `no_header`: packets that a tunnel of IP returned and whose frame
        nobody knows, or that were none of IP."""
        if not self._joints:
            return super().counters()
        sides = ("lan", "wan")
        found = {side: device.counters(one.tunnel) for side, one in zip(sides, self._joints, strict=True)}
        for counted, one in zip(found.values(), self._joints, strict=True):
            counted["no_header"] = self._datapath.ip_devices.dropped(one.present)
        return found
