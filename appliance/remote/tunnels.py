# SPDX-License-Identifier: GPL-2.0-only
"""The two tunnels of one remote, as the taps of a hop."""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from pathlib import Path
from typing import Protocol

from appliance.config.schema.model import Remote, Segment
from appliance.errors import BypassError
from appliance.health.inband import Direction, neighbour_address
from appliance.health.inband_streams import TapPair
from appliance.health.overload import Load
from appliance.hop.hop import HopLeases
from appliance.remote.ends import Ends
from appliance.steering.hop_datapath import HopDatapath
from appliance.steering.kernel.encaps import GENEVE_PORTS, Encaps, Headers
from appliance.steering.kernel.ip_devices import IpDevices
from appliance.steering.kernel.layout import Encapsulated, Side
from appliance.system.namespace import Namespace
from appliance.tunnel import device, xdp_pair
from appliance.tunnel.joint import attach as connect
from appliance.tunnel.joint import attach_egress
from appliance.tunnel.plan import device_name, plans
from appliance.tunnel.underlay import Way

log = logging.getLogger(__name__)


class Datapath(HopDatapath, Protocol):
    """What remotes need of the datapath (steering/datapath.py)."""

    def attach_hop(
        self, device: str, hop: str, segment: str, side: Side, *, tags: bool = False, out: str = ""
    ) -> object:
        """Connect one device of a hop; `out`: another one, by which XDP sends frames to it."""
        ...

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

    @property
    def encaps(self) -> Encaps:
        """The headers that XDP puts around frames."""
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
        pairs = [xdp_pair.pair(name).out for name in (lan, wan)] if self.by_xdp else [lan, wan]
        self._entries = (pairs[0], pairs[1])
        self.pair = TapPair(lan, wan, addresses=(inside[0], inside[1]), entries=self._entries)
        self.not_by_xdp = ""  # why XDP cannot send now, where that is wanted
        self._inside: tuple[int, ...] = ()  # ifindexes of the pairs' other ends
        self._put: object = None  # what XDP puts on now
        self._ports = (0, 0)
        self._folder, self._way, self._carried = Path(), Way(), 0  # 0: not known yet

    @property
    def by_xdp(self) -> bool:
        """Whether XDP is to put the outer headers on."""
        return self._tunnel.way == "xdp"

    @property
    def devices(self) -> list[str]:
        """All devices of the two tunnels in this namespace."""
        return [*super().devices, *(self._entries if self.by_xdp else ())]

    @property
    def adoptable(self) -> bool:
        """Whether all of them are there as this configuration wants them."""
        there = {name for _, name in socket.if_nameindex()}
        return super().adoptable and (not self.by_xdp or there.issuperset(self._entries))

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
        for name, entry, side in zip(self.names, self._entries, Side, strict=True):
            out = entry if entry != name else ""
            self._datapath.attach_hop(name, self.config.name, self.segment, side, tags=self.config.tags, out=out)

    def _disconnect(self) -> None:
        self._datapath.detach_hop(self.config.name, self.segment)

    async def _join(self) -> None:
        """Have headers taken off before tunnels of IP, and put back on return."""
        for one, side in zip(self._joints, Side, strict=False):
            programs = self._datapath.ip_devices.join(self.config.name, side, *one.indexes)
            await connect(one.name, *programs)
        if self.by_xdp:
            await self._pair_up()

    async def _pair_up(self) -> None:
        """Make the pairs by which XDP reaches the management port."""
        datapath, name = self._datapath, self.config.name
        self._ports, found = await asyncio.to_thread(xdp_pair.prepare, self._space), []
        for tunnel, out, side in zip(self.names, self._entries, Side, strict=True):
            await xdp_pair.make(tunnel, self._space)
            by_kernel = datapath.ip_devices.by_kernel(
                name, side, socket.if_nametoindex(out), socket.if_nametoindex(tunnel)
            )
            found.append(await xdp_pair.attach(tunnel, self._space, by_kernel))
            await xdp_pair.fit(tunnel, self._space, self._carried)
        self._inside, self._folder, self._put = tuple(found), by_kernel.parent, None
        await self._encapsulate()

    async def _encapsulate(self) -> None:
        """Tell XDP what to put on, and where to send it; or to leave that to the kernel, and why."""
        way, tunnel, encaps = self._way, self._tunnel, self._datapath.encaps
        under = await xdp_pair.underlay(way.device, self._space, self._folder)
        wanted = (way.source, under)
        if wanted == self._put:
            return
        source = tunnel.local or way.source
        trouble = under.trouble or ("" if source else "our address is not known")
        for plan, side, here in zip(plans(tunnel), Side, self._inside, strict=True):
            place = encaps.place(self._datapath.hop_id(self.config.name), side)
            if trouble:
                encaps.put_nothing(here, place)
                continue
            ports = self._ports if plan.tunnel.kind == "vxlan" else GENEVE_PORTS
            headers = Headers(tunnel.kind, source, plan.remote, plan.key, plan.port, ports)
            await asyncio.to_thread(self._space.inside, partial(encaps.lead_to, place, under.port))
            encaps.put(here, place, headers, under.route)
        self._put, self.not_by_xdp = wanted, trouble

    async def _fitted(self, mtu: int, way: Way) -> None:
        """Have XDP follow the way, and TCP connections fit, if either is wanted."""
        self._way, self._carried = way, mtu
        if self._inside:
            for name in self.names:
                await xdp_pair.fit(name, self._space, mtu)
            try:
                await self._encapsulate()
            except BypassError as error:  # it goes on as it did, and only heartbeats end that
                log.warning("remote %s: whether XDP can send is not known: %s", self.config.name, error)
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
        if not self.by_xdp:
            return
        number = self._datapath.hop_id(self.config.name)
        for here, side in zip(self._inside, Side, strict=False):
            self._datapath.encaps.forget(here, self._datapath.encaps.place(number, side))
        outs = {name: index for index, name in socket.if_nameindex()}
        self._datapath.ip_devices.leave(outs[name] for name in self._entries if name in outs)
        self._inside, self._put = (), None

    def encapsulated(self) -> dict[Side, dict[Encapsulated, int]] | None:
        """What became of the frames that XDP may encapsulate, by side; None: it is not to."""
        if not self.by_xdp:
            return None
        encaps, number = self._datapath.encaps, self._datapath.hop_id(self.config.name)
        return {side: encaps.frames(encaps.place(number, side)) for side in Side}

    def loads(self) -> dict[str, Load]:
        """The traffic through the remote, by the device where it enters."""
        load, name = self._datapath.load, self.config.name
        return {device: load(name, self.segment, side) for device, side in zip(self._entries, Side, strict=True)}

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
