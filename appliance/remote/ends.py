# SPDX-License-Identifier: GPL-2.0-only
"""Two tunnel devices, one a side, and what is below them: made or adopted, fitted to the way, removed.

What the datapath makes of them (a hop: tunnels.py, a segment: serve.py) is left to `_connect` and `_disconnect`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path

from appliance.config.check.verify_remote import misfit
from appliance.config.schema import encapsulations, limits
from appliance.config.schema.model import Tunnel
from appliance.errors import BypassError, RefusedError, UnreachableError
from appliance.steering.kernel.layout import Side
from appliance.system.namespace import Namespace
from appliance.tunnel import device
from appliance.tunnel.joint import Joint, joint
from appliance.tunnel.plan import Plan, plans
from appliance.tunnel.secured import Secured
from appliance.tunnel.underlay import Look, Way

log = logging.getLogger(__name__)


class Ends(ABC):
    """Our ends of two tunnels. They outlive this object and bypassd.

    `who`: whose they are, for messages; `names`: of the devices of the LAN side and of the WAN side; `number`: of the
    WireGuard device; `mtu`: that frames must have to cross whole, 0: Ethernet's.
    """

    def __init__(
        self,
        who: str,
        tunnel: Tunnel,
        names: tuple[str, str],
        number: int,
        mtu: int,
        *,
        space: Namespace,
        own_key: Path,
    ) -> None:
        """`space`: of the management port; `own_key`: the file with the appliance's WireGuard key."""
        self._who, self._tunnel, self.names, self._mtu, self._space = who, tunnel, names, mtu, space
        self.warning = ""
        self._indexes: tuple[int, ...] = ()
        self.secured = Secured(tunnel, number, space, own_key) if tunnel.wireguard is not None else None

    @abstractmethod
    def _connect(self) -> None:
        """Have the datapath take the frames that come out of the devices, and send to them. DatapathError."""

    @abstractmethod
    def _disconnect(self) -> None:
        """The opposite. BypassError: they stay attached. May run in a thread."""

    @abstractmethod
    async def _join(self) -> None:
        """Connect what stands between the devices and tunnels of IP. UnreachableError, DatapathError."""

    @abstractmethod
    def _leave(self) -> None:
        """The opposite."""

    @abstractmethod
    async def _fitted(self, mtu: int, way: Way) -> None:
        """The devices have this MTU now, and their packets this way. UnreachableError: the kernel refuses."""

    def _planned(self) -> list[tuple[str, Plan, Side]]:
        return list(zip(self.names, plans(self._tunnel), Side, strict=True))

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
        return [joint(name) for name in self.names] if encapsulations.carries_ip(self._tunnel) else []

    @property
    def devices(self) -> list[str]:
        """All devices of the two tunnels, those behind the first ones included."""
        return [*self.names, *(one.tunnel for one in self._joints)]

    def attach(self) -> None:
        """Have the datapath take the frames that come out of the devices, and send to them. DatapathError."""
        self._connect()
        self._indexes = self._present()

    async def look(self, look: Look) -> Way:
        """The way of their packets as it is now, with what is known against WireGuard on it. Never raises."""
        way = await look(self._tunnel, self._space)
        if self.secured is None or way.trouble or not self._indexes:
            return way
        return replace(way, trouble=await self.secured.look())

    async def find_way(self, look: Look) -> Way:
        """The way of their packets. UnreachableError: there is none now. RefusedError: it is too narrow."""
        tunnel = self._tunnel
        way = await look(tunnel, self._space)
        if not way.mtu:
            raise UnreachableError(way.trouble or f"no way to {tunnel.far} is known")
        if encapsulations.on_port(tunnel):  # the port has no other use
            least = encapsulations.outer_mtu(tunnel, self._mtu or encapsulations.ETHERNET_MTU)
            way = replace(way, mtu=await asyncio.to_thread(device.widen, way.device, least))
        if not tunnel.mss_clamp and (what := misfit(tunnel, self._mtu, way.mtu)):
            raise RefusedError(what)
        return way

    async def set_up(self, way: Way, folder: Path) -> None:
        """Make the devices, or go on with those that are there. `folder`: a run folder for files in memory.

        UnreachableError: not now. DatapathError, HardwareError: the kernel refuses.
        """
        space, anew, source = self._space, False, way.source
        if encapsulations.on_port(self._tunnel):
            source = way.device
        if self.secured is not None:
            space, anew = self.secured.space, await self.secured.set_up(folder, way.mtu)
            source = self.secured.address
        if anew or not self.adoptable:
            for name, plan, _ in self._planned():
                await device.make(name, plan, space, source)
        await self.fit(way)
        await self._join()
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
        tunnel = self._tunnel
        most = min(encapsulations.inner_mtu(tunnel, way.mtu), limits.MAX_MTU)
        for name, _, _ in self._planned():
            device.fit(name, max(most, 68))
        wanted = self._mtu or encapsulations.ETHERNET_MTU
        longest = most + encapsulations.FRAME_BEYOND_MTU
        narrow = f"the way to {tunnel.far} carries {way.mtu} bytes only: frames longer than {longest} {self.then}"
        warning = narrow if most < wanted else ""
        if warning != self.warning:
            self.warning = warning
            if warning:
                log.warning("%s: %s", self._who, warning)
        await self._fitted(most, way)
        if self._indexes:
            self.attach()  # for the length of the frames that they take now

    then = "skip the remote"
    """What becomes of longer frames, for messages."""

    async def take_down(self) -> None:
        """Detach and remove the devices. What cannot be removed is logged."""
        try:
            # In a thread, because the kernel waits for its other processors, and leases of other hops are due.
            await asyncio.to_thread(self._disconnect)
        except BypassError as error:
            log.error("%s: its tunnels stay attached: %s", self._who, error)
        self._indexes = ()
        self._leave()
        for name in self.names:
            try:
                await device.remove(name)
            except UnreachableError as error:
                log.warning("%s", error)
        if self.secured is not None:
            try:
                await self.secured.take_down()
            except UnreachableError as error:
                log.warning("%s", error)

    def counters(self) -> dict[str, device.Counters]:
        """The counters of both devices, by side."""
        return {side: device.counters(name) for side, name in zip(("lan", "wan"), self.names, strict=True)}
