# SPDX-License-Identifier: GPL-2.0-only
"""All remotes, and what is served to other appliances: the part "remotes" of bypassd.

Sets up or adopts the tunnels of every remote, and removes those of remotes that are no longer configured. `Hops` owns
the remotes and their tasks; tunnels and leases outlive both. The methods of the control socket are in api.py.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from typing import Protocol

from appliance.api.schema import remotes as answer
from appliance.causes import Cause
from appliance.config.schema import encapsulations, model, served
from appliance.config.schema.model import Config
from appliance.config.schema.served import segment_of
from appliance.errors import BypassError, GuestError, UnreachableError
from appliance.hop.hops import Hops
from appliance.part import PATIENCE_NS, Alive
from appliance.paths import Paths
from appliance.remote import show
from appliance.remote.port_loops import PortLoops
from appliance.remote.remote import Place, Remote
from appliance.remote.serve import Serve, ServeDatapath, Where
from appliance.remote.serves import Serves
from appliance.remote.tunnels import Datapath
from appliance.system.command import run
from appliance.system.namespace import Namespace
from appliance.system.threads import to_the_end
from appliance.telemetry.ledger import Ledger
from appliance.telemetry.subject import Change
from appliance.tunnel import device, guard, secured, underlay
from appliance.tunnel.plan import plans

log = logging.getLogger(__name__)

CHECK_IN_S = 0.2
GUARD_S = 2.0
"""How often it is looked whether the management port still drops packets that no tunnel may send, and how many."""


class RemoteDatapath(Datapath, ServeDatapath, Protocol):
    """What the part needs of the datapath (steering/datapath.py)."""


class RemoteManager:
    """The part "remotes"."""

    name = "remotes"
    patience = PATIENCE_NS

    def __init__(
        self,
        config: Config,
        paths: Paths,
        datapath: RemoteDatapath,
        transitions: Ledger,
        *,
        space: Namespace,
        clock: Callable[[], int] = time.monotonic_ns,
        look: underlay.Look = underlay.look,
        port: Callable[[str], str] = lambda name: name,
    ) -> None:
        """`space`: the namespace of the management port, by which the outer packets go. `port(name)`: the device of a
        data port of the board, "" while it is missing."""
        self._config, self._paths, self._datapath, self._transitions = config, paths, datapath, transitions
        self._space, self._clock, self._look_at, self._port = space, clock, look, port
        self._remotes: Hops[Remote, model.Remote] = Hops(
            "remote", make=self._make, forget=self._forget, removed=self._removed
        )
        self.serves = Serves(self._make_serve)
        self._loops = PortLoops(datapath.heartbeat_key, self._heard)
        self._guarded: tuple[str, str] | None = None  # the device and the expression that are installed
        self._guarding = asyncio.Lock()
        self.dropped = 0  # packets that the filters of the management port dropped

    async def start(self) -> None:
        """Adopt what an earlier bypassd left, and remove what no remote wants."""
        self._paths.remotes.mkdir(parents=True, exist_ok=True)
        loaded = self._config
        await self._remotes.load(loaded.remote)
        for remote in self._remotes:
            remote.autostart()
        self.serves.load(loaded)
        await self._remove_others()
        while self._config is not loaded:  # of a commit that came meanwhile
            loaded = self._config
            await self._remotes.apply(loaded.remote, partial(self._follow, loaded))
            self.serves.follow(loaded)
        self._remotes.started()

    async def _make(self, remote: model.Remote) -> Remote:
        folder = self._paths.remotes / remote.name
        folder.mkdir(parents=True, exist_ok=True)
        paths = self._paths
        place = Place(
            self._datapath, self._space, folder, paths.config.parent, self._clock, paths.wireguard_key,
            self._look, self._guard,
        )  # fmt: skip
        return Remote(remote, self._segment(self._config, remote), place, self._transitions)

    async def _look(self, tunnel: model.Tunnel, space: Namespace) -> underlay.Way:
        """The way of a tunnel's packets, by the management port or by a port of their own. Never raises."""
        if encapsulations.on_port(tunnel):
            return underlay.look_at_port(tunnel, self._port(tunnel.port))
        return await self._look_at(tunnel, space)

    def _make_serve(self, one: model.Serve, segment: model.Segment) -> Serve:
        folder = self._paths.remotes / f"serve {one.name}"
        folder.mkdir(parents=True, exist_ok=True)
        place = Where(self._datapath, self._transitions, self._space, folder, self._paths.wireguard_key, self._look,
                      self._guard)  # fmt: skip
        return Serve(one, segment, place, heard=partial(self._heard, f"by serve {one.name}"))

    def _heard(self, where: str, remote: str) -> None:
        found = self._remotes.get(remote)
        if found is not None:
            found.looped(where)

    def _look_for_loops(self, now: int) -> None:
        """At the ports of segments that have remotes."""
        served_by: dict[str, list[str]] = {}
        for remote in self._remotes:
            served_by.setdefault(remote.segment, []).append(remote.name)
        self._loops.look(now, self._config.segment, served_by, self._port)

    @staticmethod
    def _segment(config: Config, remote: model.Remote) -> model.Segment:
        name = segment_of(config, remote)
        found = next((segment for segment in served.segments(config) if segment.name == name), None)
        if found is None:
            raise GuestError(f"remote {remote.name}: there is no segment that it could serve")
        return found

    async def _remove_others(self) -> None:
        """Remove tunnels of remotes that are no longer configured, and what was below them."""
        ends = [*(remote.tunnels for remote in self._remotes), *(one.tunnels for one in self.serves)]
        wanted = {name for one in ends for name in one.devices}
        for name in device.existing():
            if name not in wanted:
                try:
                    await device.remove(name)
                except UnreachableError as error:
                    log.warning("%s; it is kept", error)
        below = {one.secured.space for one in ends if one.secured is not None}
        for space in secured.existing(self._space):
            if space not in below:
                try:
                    await secured.remove(space)
                except UnreachableError as error:
                    log.warning("%s; it is kept", error)

    async def run(self, alive: Alive) -> None:
        """Run all remotes until cancelled."""
        async with self._remotes.running() as tasks:
            tasks.create_task(self._guard_always(), name="guard of the tunnels")
            with self.serves.running(tasks), closing(self._loops):
                while True:
                    alive()
                    now = self._clock()
                    self._remotes.look(now)
                    self.serves.look(now)
                    self._look_for_loops(now)
                    await asyncio.sleep(CHECK_IN_S)

    async def _guard_always(self) -> None:
        while True:
            await self._guard()
            await asyncio.sleep(GUARD_S)

    async def _guard(self) -> None:
        """Have the management port drop packets that no tunnel of ours may send, for as long as there are tunnels."""
        async with self._guarding:
            try:
                await self._guard_once()
            except BypassError as error:
                log.warning("forged packets of tunnels are not dropped: %s", error)
                self._guarded = None

    async def _guard_once(self) -> None:
        tunnels = [(one.way, one.tunnels.config.tunnel) for one in (*self._remotes, *self.serves)]
        there = [
            (way, tunnel)
            for way, tunnel in tunnels
            if way.device and tunnel.wireguard is None and not encapsulations.on_port(tunnel)
        ]
        device_of = next((way.device for way, _ in there), "")
        found = [plan for _, tunnel in there for plan in plans(tunnel)]
        wanted = (device_of, guard.expression(found)) if found else None
        if wanted != self._guarded or await self._count() is None:
            if self._space.exists:
                await device.close_listeners(
                    self._space, {plan.listener for plan in found if plan.listener is not None}
                )
            if wanted is None and self._guarded is not None:
                await run(self._space.command(guard.removal(self._guarded[0])), device.LIMIT_S)
            for words in guard.commands(found, device_of) if wanted is not None else ():
                status, text = await run(self._space.command(words), device.LIMIT_S)
                if status != 0:
                    raise UnreachableError(" ".join(text.split()))
            self._guarded = wanted

    async def _count(self) -> int | None:
        """How many packets were dropped; None: the filter is gone."""
        if self._guarded is None:
            return 0
        _, text = await run(self._space.command(guard.question(self._guarded[0])), device.LIMIT_S)
        found = guard.dropped(text)
        self.dropped = self.dropped if found is None else found
        return found

    # Another configuration

    async def add_new(self, new: Config) -> None:
        """Before the datapath switches: create the remotes that `new` adds. GuestError: impossible now."""
        old, self._config = self._config, new
        if not self._remotes.ready:
            return
        try:
            await self._remotes.add_new(new.remote)
        except BypassError:
            self._config = old
            raise
        await self.serves.withdraw(new)

    async def apply(self, new: Config) -> None:
        """After the switch: reconfigure every remote as `new` says. Those not in `new` go on, without traffic."""
        self._config = new
        if self._remotes.ready:
            await self._remotes.apply(new.remote, partial(self._follow, new))
            self.serves.follow(new)

    async def _follow(self, new: Config, remote: Remote, config: model.Remote) -> None:
        remote.reconfigure(config, self._segment(new, config))

    async def remove_old(self, new: Config) -> None:
        """The commit is final: take down and remove the remotes that are not in `new`."""
        self._config = new  # the part may have been made since the step before
        self._remotes.remove_old(new.remote)
        for name in await self.serves.remove_old(new):
            await to_the_end(partial(shutil.rmtree, self._paths.remotes / f"serve {name}", ignore_errors=True))

    async def _forget(self, remote: Remote) -> None:
        """Remove everything that belongs to a remote."""
        await remote.tunnels.take_down()
        await to_the_end(partial(shutil.rmtree, self._paths.remotes / remote.name, ignore_errors=True))

    def _removed(self, remote: Remote) -> None:
        self._transitions.record(Change.REMOTE_OTHER, remote.name, remote.state.value, "removed", Cause.CONFIGURED)

    async def stop(self) -> None:
        """Nothing to do: tunnels and leases outlive bypassd, and the tasks ended with `run`."""

    # Answers

    def remote(self, name: object) -> Remote:
        """The remote with this name; NotFoundError if there is none."""
        return self._remotes.named(name)

    def remotes(self) -> Iterable[Remote]:
        """All remotes, in the order of the configuration."""
        return self._remotes

    def summary(self) -> list[answer.Remote]:
        """All remotes, for `show remotes` and `show status`."""
        return [show.row(remote, self._clock(), self._datapath.unsent(remote.name)) for remote in self._remotes]

    def details(self, name: str) -> answer.RemoteDetails:
        """One remote with the evidence, for `show remote NAME`."""
        return show.details(self.remote(name), self._clock(), self._datapath.unsent(name), dropped=self.dropped)

    def served(self) -> list[answer.Serve]:
        """All that is served to other appliances, for `show serves` and `show status`."""
        return [show.serve(one, self._clock()) for one in self.serves]

    def serve_details(self, name: object) -> answer.ServeDetails:
        """One of them with its tunnels, for `show serve NAME`."""
        return show.serve_details(self.serves.named(name), self._clock())
