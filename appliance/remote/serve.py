# SPDX-License-Identifier: GPL-2.0-only
"""One [[serve]]: the far end of another appliance's remote, whose frames go through hops of this one.

To the datapath it is a segment whose ports are the two tunnels, with one rule (config/schema/served.py), so everything
that steers the frames of a link steers these. There is no relay: while its hops are not available, frames are dropped,
the other appliance's heartbeats among them, and it bypasses us. So what that one shows is what the hops do. Tunnels
outlive bypassd.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.config.schema.model import Segment
from appliance.errors import BypassError, UnreachableError
from appliance.hop.hop import HopLeases
from appliance.part import happens
from appliance.remote.ends import Ends
from appliance.remote.loop_watch import LoopWatch
from appliance.steering.kernel.layout import Side
from appliance.system import netdev
from appliance.system.namespace import Namespace
from appliance.telemetry.ledger import Ledger
from appliance.telemetry.subject import Change
from appliance.tunnel.plan import served_name
from appliance.tunnel.underlay import Look, Way

log = logging.getLogger(__name__)

TICK_S, LOOK_TICKS = 1.0, 5
"""How often the devices are looked at; the way at each fifth time, or each time while something is against it."""
RETRY_FIRST_S, RETRY_LAST_S = 1.0, 30.0
FIRST_NUMBER = 128
"""Of WireGuard devices: behind those of hops."""


class ServeState(StrEnum):
    """Whether the tunnels work; whether hops are available is shown apart."""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"


class ServeDatapath(Protocol):
    """What this needs of the datapath (steering/datapath.py)."""

    @property
    def leases(self) -> HopLeases:
        """Until when each hop is available."""
        ...

    def segment_id(self, name: str) -> int:
        """The stable number of a segment."""
        ...

    def heartbeat_key(self, hop: str) -> int:
        """The key in the source addresses of a hop's heartbeats."""
        ...

    def attach_segment(self, segment: str, lan: str, wan: str, mode: str = "auto", *, mtu: int = 0) -> object:
        """Put two ports in line."""
        ...

    def detach_segment(self, segment: str) -> None:
        """Take them out."""
        ...


class ServedTunnels(Ends):
    """The two tunnels, as the ports of a segment."""

    then = "are dropped"

    def __init__(
        self, config: model.Serve, segment: Segment, datapath: ServeDatapath, *, space: Namespace, own_key: Path
    ) -> None:
        self.config, self._segment, self._datapath = config, segment.name, datapath
        number = datapath.segment_id(segment.name)
        lan, wan = (served_name(number, side) for side in Side)
        who = f"serve {config.name}"
        super().__init__(
            who, config.tunnel, (lan, wan), FIRST_NUMBER + number, segment.mtu, space=space, own_key=own_key
        )

    def _connect(self) -> None:
        lan, wan = self.names
        self._datapath.attach_segment(self._segment, lan, wan, "tc", mtu=netdev.mtu(lan))

    def _disconnect(self) -> None:
        self._datapath.detach_segment(self._segment)

    async def _join(self) -> None:
        """Tunnels of IP are refused: guests get frames."""

    async def _fitted(self, mtu: int, way: Way) -> None:
        """The other appliance makes connections fit."""

    def _leave(self) -> None:
        """There is nothing."""

    def withdraw(self) -> None:
        """Before the policy forgets the segment: no frame may come back that was in no hop."""
        self._indexes = ()
        self._disconnect()


@dataclass(frozen=True)
class Where:
    """Where one belongs. `space`: of the management port; `folder`: a run folder of its own.

    `own_key`: the file with the appliance's WireGuard key. `guard`: has forged packets dropped. Never raises.
    """

    datapath: ServeDatapath
    ledger: Ledger
    space: Namespace
    folder: Path
    own_key: Path
    look: Look
    guard: Callable[[], Awaitable[None]]


class Serve:
    """See the module. `segment`: its own in the datapath; `heard(remote)`: a heartbeat of this one of ours came in."""

    def __init__(self, config: model.Serve, segment: Segment, where: Where, *, heard: Callable[[str], None]) -> None:
        self.config, self.name, self._segment, self._where = config, config.name, segment, where
        self.tunnels = self._tunnels()
        self.state, self.cause, self.detail = ServeState.STARTING, Cause.STARTING, ""
        self.way = Way()
        self._rebuild, self._withdrawn, self._nudge = False, False, asyncio.Event()
        self._groups: Mapping[str, Sequence[str]] = {}
        self._remotes: tuple[str, ...] = ()
        self._loops = LoopWatch(where.datapath.heartbeat_key, heard)

    def _tunnels(self) -> ServedTunnels:
        where = self._where
        return ServedTunnels(self.config, self._segment, where.datapath, space=where.space, own_key=where.own_key)

    def adopt(self) -> None:
        """bypassd starts: attach the tunnels that are there, at once."""
        if not self.tunnels.adoptable:
            return
        try:
            self.tunnels.attach()
        except (BypassError, OSError) as error:
            log.error("serve %s: its tunnels are not adopted: %s", self.name, error)

    async def withdraw(self) -> None:
        """Return no more frames, from before the switch to a policy that does not serve them until `reconfigure`."""
        self._withdrawn = True
        self._loops.close()
        try:
            await asyncio.to_thread(self.tunnels.withdraw)
        except BypassError as error:
            log.error("serve %s: its tunnels stay attached: %s", self.name, error)

    def reconfigure(
        self, config: model.Serve, segment: Segment, groups: Mapping[str, Sequence[str]], remotes: Sequence[str]
    ) -> None:
        """Use `config` from now on. `groups`: their members; `remotes`: those whose heartbeats would be a loop."""
        same = (config.tunnel, config.mtu) == (self.config.tunnel, self.config.mtu)
        self.config, self._segment, self._groups = config, segment, groups
        self._rebuild, self._withdrawn = self._rebuild or not same, False
        self._remotes = tuple(remotes)
        self._nudge.set()

    def look(self, now: int) -> None:
        """Often: listen for loops."""
        self._loops.follow(self._remotes, self.tunnels.names if self.tunnels.there and not self._withdrawn else ())
        self._loops.step(now)

    @property
    def up(self) -> bool:
        """Whether its tunnels work."""
        return self.state is ServeState.UP

    def unavailable(self, now: int) -> list[str]:
        """The hops of its path, or all members of a group, that are not available."""
        return [name for name in self.config.path if not self._reachable(name, now)]

    def _reachable(self, name: str, now: int) -> bool:
        leases = self._where.datapath.leases
        return any(leases.available(hop, now) for hop in self._groups.get(name, (name,)))

    async def run(self) -> None:
        """Set the tunnels up and look after them until cancelled, which leaves them working."""
        wait = RETRY_FIRST_S
        try:
            while True:
                if self._withdrawn:
                    await self._sleep(None)
                    continue
                try:
                    await self._begin()
                    wait = RETRY_FIRST_S
                    await self._live()
                except (BypassError, OSError) as error:
                    cause = Cause.TUNNEL_DOWN if isinstance(error, UnreachableError) else Cause.TUNNEL_FAILED
                    self._move(ServeState.DOWN, cause, str(error))
                    await self._sleep(wait)
                    wait = min(wait * 2, RETRY_LAST_S)
        finally:
            self._loops.close()

    async def _sleep(self, seconds: float | None) -> None:
        """Until something has changed, or for so long."""
        await happens(self._nudge, seconds)
        self._nudge.clear()

    async def _begin(self) -> None:
        if self._rebuild or not self.tunnels.adoptable:
            await self.tunnels.take_down()
            self.tunnels, self._rebuild = self._tunnels(), False
        self.way = await self.tunnels.find_way(self._where.look)
        await self._where.guard()  # before a packet could come out of the tunnels
        await self.tunnels.set_up(self.way, self._where.folder)
        if self._withdrawn:  # meanwhile
            await asyncio.to_thread(self.tunnels.withdraw)
            return
        self._judge()

    async def _live(self) -> None:
        turns = 0
        while not self._rebuild and self.tunnels.there:
            await self._sleep(TICK_S)
            turns += 1
            if self._rebuild or (turns % LOOK_TICKS and not self.way.trouble):
                continue
            self.way = await self.tunnels.look(self._where.look)
            if self.tunnels.there:
                await self.tunnels.fit(self.way)
            self._judge()
        if not self._rebuild and not self._withdrawn:
            self._move(ServeState.DOWN, Cause.TUNNEL_FAILED, "its tunnels were removed by another program")

    def _judge(self) -> None:
        if self.way.trouble:
            self._move(ServeState.DOWN, Cause.TUNNEL_DOWN, self.way.trouble)
        else:
            self._move(ServeState.UP, Cause.NONE, "")

    def _move(self, state: ServeState, cause: Cause, detail: str) -> None:
        if (state, cause, detail) == (self.state, self.cause, self.detail):
            return
        old, self.state, self.cause, self.detail = self.state, state, cause, detail
        change = Change.SERVE_UP if state is ServeState.UP else Change.SERVE_DOWN
        self._where.ledger.record(change, self.name, old.value, state.value, cause, detail=detail)
