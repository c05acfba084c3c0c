# SPDX-License-Identifier: GPL-2.0-only
"""How a configuration takes effect at run time: the order of the parts' steps, and the observation that verifies it.

The relays of removed segments close first. Then the taps of added guests are created, the datapath switches in one
step, ports are attached, added segments begin, and guests follow their new configuration. So no frame is sent to a
guest that does not exist, and no port is taken from a link that still needs it. Remotes go like guests. Rolling back
takes the same steps with the old configuration. Removed guests power down when the commit is final. Owns nothing; at
the end `system.config` is the new configuration.
"""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from appliance.config.check.verify import hint
from appliance.config.commit import traffic_check
from appliance.config.commit.steps import Step
from appliance.config.schema.model import Config
from appliance.errors import ConfigError, HardwareError
from appliance.steering.kernel.layout import Loss, Outcome
from appliance.supervisor.system import System

log = logging.getLogger(__name__)

_LOST = (Outcome.NO_DEVICE, Outcome.OVERSIZE, Outcome.NO_PROGRAM)
_BUSY = (Loss.FULL, Loss.QUEUE)  # more traffic than a device can handle is not caused by the commit


class CommitSteps:
    """The steps over the parts of a system.

    `wake` makes the pulse check everything now; `configured` brings up what waited for a first valid configuration;
    `relays_closed` waits until the keeper has these relays in bypass, HardwareError if that takes too long.
    """

    def __init__(
        self,
        system: System,
        *,
        wake: Callable[[], None],
        configured: Callable[[Config], Awaitable[None]],
        relays_closed: Callable[[list[str]], Awaitable[None]],
    ) -> None:
        self._system = system
        self._wake, self._configured, self._relays_closed = wake, configured, relays_closed

    def steps(self) -> list[Step]:
        """All steps, in order."""
        return [
            Step("first configuration", self._first, due=lambda: self._system.config is None),
            Step("removing segments", self._segments_go),
            Step("adding guests", self._guests_come),
            Step("adding remotes", self._remotes_come),
            Step("steering", self._steer, self._prepare, self._forget, remarks=self._system.steering.remarks),
            Step("segments", self._segments, self._segments_prepare),
            Step("guests", self._guests, finish=self._guests_finish),
            Step("remotes", self._remotes, finish=self._remotes_finish),
            Step("access", self._access, self._access_prepare),
            Step("system", self._host),
        ]

    async def _first(self, new: Config) -> None:
        """After a start without a valid configuration: bring up the parts that waited for one."""
        system = self._system
        await system.steering.apply(new)
        system.segments.arrive(time.monotonic_ns(), new.segment, None, system.faults)
        await self._configured(new)

    async def _segments_go(self, new: Config) -> None:
        system = self._system
        relays = system.segments.leave(new.segment)
        self._wake()
        try:
            await self._relays_closed(relays)
        except HardwareError as error:
            raise HardwareError(f"{error}: its ports are left unchanged") from error

    async def _guests_come(self, new: Config) -> None:
        if self._system.guests is not None:
            await self._system.guests.add_new(new)

    async def _remotes_come(self, new: Config) -> None:
        if self._system.remotes is not None:
            await self._system.remotes.add_new(new)

    async def _prepare(self, new: Config) -> None:
        await self._system.steering.prepare(new)

    def _forget(self) -> None:
        self._system.steering.forget()

    async def _steer(self, new: Config) -> None:
        """From here on `new` is the configuration, also for parts that are still being started."""
        system = self._system
        await system.steering.apply(new)
        system.config, system.config_errors = new, []

    async def _segments_prepare(self, new: Config) -> None:
        """Only names in board.toml can be ports; whether they are plugged in is checked later."""
        board = self._system.board
        if board is None:
            return
        ports = [port.name for port in board.port if port.role == "data"]
        for segment in new.segment:
            for key, port in (("lan", segment.lan), ("wan", segment.wan)):
                if port not in ports:
                    what = f'this board has no port "{port}"{hint(port, ports)}'
                    raise ConfigError(f"segment {segment.name}: {key}", what)
        tunnels = [(f"remote {one.name}", one.tunnel) for one in new.remote]
        tunnels += [(f"serve {one.name}", one.tunnel) for one in new.serve]
        for who, tunnel in tunnels:
            if tunnel.port and tunnel.port not in ports:
                what = f'this board has no port "{tunnel.port}"{hint(tunnel.port, ports)}'
                raise ConfigError(f"{who}: tunnel: port", what)

    async def _segments(self, new: Config) -> None:
        system = self._system
        system.segments.arrive(time.monotonic_ns(), new.segment, system.keeper_state, system.faults)
        self._wake()

    async def _guests(self, new: Config) -> None:
        if self._system.guests is not None:
            await self._system.guests.apply(new)

    async def _guests_finish(self, new: Config) -> None:
        if self._system.guests is not None:
            await self._system.guests.remove_old(new)

    async def _remotes(self, new: Config) -> None:
        if self._system.remotes is not None:
            await self._system.remotes.apply(new)

    async def _remotes_finish(self, new: Config) -> None:
        if self._system.remotes is not None:
            await self._system.remotes.remove_old(new)

    async def _access_prepare(self, new: Config) -> None:
        if self._system.access is not None:
            await self._system.access.prepare(new)

    async def _access(self, new: Config) -> None:
        """Comes after everything that frames depend on, because it may end the session that made this commit."""
        if self._system.access is not None:
            await self._system.access.apply(new)

    async def _host(self, new: Config) -> None:
        """Set the host name; grace and watchdog times go to the keeper with the next check-in."""
        system = self._system
        if system.paths.root == Path("/"):
            try:
                socket.sethostname(new.system.hostname)
            except OSError as error:
                log.warning("host name %s: %s", new.system.hostname, error.strerror)
        self._wake()

    def down(self) -> dict[str, str]:
        """Hops without traffic now, with their state: a rule that blocks without them blocks from the commit on."""
        guests, remotes = self._system.guests, self._system.remotes
        now = time.monotonic_ns()
        hops = [guest.hop for guest in (guests.guests() if guests is not None else ())]
        hops += [remote.hop for remote in (remotes.remotes() if remotes is not None else ())]
        return {hop.name: hop.state.value for hop in hops if not hop.lease.remaining(now)}

    def look(self) -> traffic_check.Look:
        """The present state of the appliance, to verify a commit."""
        system = self._system
        datapath = system.steering.datapath
        counts = datapath.port_counts() if datapath is not None else {}
        segments = {}
        for name, unit in system.segments.units.items():
            ports = [count for (segment, _), count in counts.items() if segment == name]
            came = sum(port.total for port in ports)
            lost = sum(port.frames[outcome] for port in ports for outcome in _LOST)
            lost += sum(frames for port in ports for loss, frames in port.lost.items() if loss not in _BUSY)
            segments[name] = traffic_check.Segment(
                inline=unit.machine.relay == "inline",
                faults={**unit.faults, **system.faults(name)},
                came=came,
                went=came - lost,
                lost=lost,
            )
        return traffic_check.Look(datapath.generation if datapath is not None else None, segments)
