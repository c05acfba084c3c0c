# SPDX-License-Identifier: GPL-2.0-only
"""All remotes: the part "remotes" of bypassd.

Sets up or adopts the tunnels of every remote, and removes those of remotes that are no longer configured. Owns the
remotes' tasks; tunnels and leases outlive it. The methods of the control socket are in api.py.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Iterable

from appliance.api.schema import remotes as answer
from appliance.causes import Cause
from appliance.config.schema import model
from appliance.config.schema.model import Config
from appliance.config.schema.served import segment_of
from appliance.errors import BypassError, GuestError, NotFoundError, UnreachableError
from appliance.part import PATIENCE_NS, Alive
from appliance.paths import Paths
from appliance.remote import show
from appliance.remote.remote import Ledger, Place, Remote
from appliance.remote.tunnels import Datapath
from appliance.system.command import run
from appliance.system.namespace import Namespace
from appliance.telemetry.subject import Change
from appliance.tunnel import device, guard, underlay
from appliance.tunnel.plan import plans

log = logging.getLogger(__name__)

CHECK_IN_S = 0.2
GUARD_S = 2.0
"""How often it is looked whether the management port still drops packets that no tunnel may send, and how many."""
REMOVE_S = 30.0
"""How long a commit waits for a removed remote's tunnels to be gone before it adds one of the same name."""


class RemoteManager:
    """The part "remotes"."""

    name = "remotes"
    patience = PATIENCE_NS

    def __init__(
        self,
        config: Config,
        paths: Paths,
        datapath: Datapath,
        transitions: Ledger,
        *,
        space: Namespace,
        clock: Callable[[], int] = time.monotonic_ns,
        look: underlay.Look = underlay.look,
    ) -> None:
        """`space`: the namespace of the management port, by which the outer packets go."""
        self._config, self._paths, self._datapath, self._transitions = config, paths, datapath, transitions
        self._space, self._clock, self._look_at = space, clock, look
        self._remotes: dict[str, Remote] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._started = False  # the remotes exist; before that, and after a failure, a commit only sets `_config`
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._removing: dict[str, asyncio.Task[None]] = {}
        self._guarded: tuple[str, str] | None = None  # the device and the expression that are installed
        self.dropped = 0  # packets that the filters of the management port dropped

    async def start(self) -> None:
        """Adopt what an earlier bypassd left, and remove what no remote wants."""
        self._paths.remotes.mkdir(parents=True, exist_ok=True)
        self._remotes = {}
        for config in self._config.remote:
            remote = self._remotes[config.name] = self._make(self._config, config)
            remote.autostart()
        await self._remove_others()
        self._started = True

    def _make(self, config: Config, remote: model.Remote) -> Remote:
        folder = self._paths.remotes / remote.name
        folder.mkdir(parents=True, exist_ok=True)
        place = Place(self._datapath, self._space, folder, self._paths.config.parent, self._clock, self._look_at)
        return Remote(remote, self._segment(config, remote), place, self._transitions)

    @staticmethod
    def _segment(config: Config, remote: model.Remote) -> model.Segment:
        name = segment_of(config, remote)
        found = next((segment for segment in config.segment if segment.name == name), None)
        if found is None:
            raise GuestError(f"remote {remote.name}: there is no segment that it could serve")
        return found

    async def _remove_others(self) -> None:
        """Remove tunnels of remotes that are no longer configured."""
        wanted = {name for remote in self._remotes.values() for name in remote.tunnels.names}
        for name in device.existing():
            if name not in wanted:
                try:
                    await device.remove(name)
                except UnreachableError as error:
                    log.warning("%s; it is kept", error)

    async def run(self, alive: Alive) -> None:
        """Run all remotes until cancelled."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._lives, self._removing = {}, {}
                for remote in self._remotes.values():
                    self._live(remote)
                self._tasks.create_task(self._guard(), name="guard of the tunnels")
                while True:
                    alive()
                    for remote in self._remotes.values():
                        remote.hop.measure()
                    await asyncio.sleep(CHECK_IN_S)
        finally:
            self._started, self._tasks = False, None

    def _live(self, remote: Remote) -> None:
        assert self._tasks is not None
        remote.autostart()
        self._lives[remote.name] = self._tasks.create_task(remote.run(), name=f"remote {remote.name}")

    async def _guard(self) -> None:
        """Have the management port drop packets that no tunnel of ours may send, for as long as there are tunnels."""
        while True:
            try:
                await self._guard_once()
            except BypassError as error:
                log.warning("forged packets of tunnels are not dropped: %s", error)
                self._guarded = None
            await asyncio.sleep(GUARD_S)

    async def _guard_once(self) -> None:
        there = [remote for remote in self._remotes.values() if remote.way.device]
        device_of = next((remote.way.device for remote in there), "")
        found = [plan for remote in there for plan in plans(remote.tunnels.config.tunnel)]
        wanted = (device_of, guard.expression(found)) if found else None
        if wanted != self._guarded or await self._count() is None:
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
        if not self._started:
            return
        try:
            for config in new.remote:
                if config.name in self._removing:
                    async with asyncio.timeout(REMOVE_S):
                        await asyncio.wait({self._removing[config.name]})
                if config.name not in self._remotes:
                    self._remotes[config.name] = self._make(new, config)
        except TimeoutError:
            self._config = old
            raise GuestError("a remote of this name is still being removed: try again later") from None
        except GuestError:
            self._config = old
            raise

    async def apply(self, new: Config) -> None:
        """After the switch: reconfigure every remote as `new` says. Those not in `new` go on, without traffic."""
        self._config = new
        if not self._started:
            return
        for config in new.remote:
            if config.name not in self._remotes:
                self._remotes[config.name] = self._make(new, config)
            remote = self._remotes[config.name]
            remote.reconfigure(config, self._segment(new, config))
            if config.name not in self._lives and self._tasks is not None:
                self._live(remote)
        names = {config.name for config in new.remote}
        for name in [name for name in self._remotes if name not in self._lives and name not in names]:
            self._forget(name)  # it was added by a commit that was rolled back
        order = [config.name for config in new.remote]
        order += [name for name in self._remotes if name not in order]
        self._remotes = {name: self._remotes[name] for name in order}

    async def remove_old(self, new: Config) -> None:
        """The commit is final: take down and remove the remotes that are not in `new`."""
        names = {config.name for config in new.remote}
        for name in [name for name in self._remotes if name not in names and name not in self._removing]:
            if self._tasks is not None:
                task = self._tasks.create_task(self._remove(self._remotes[name]), name=f"remove {name}")
                self._removing[name] = task

    def _forget(self, name: str) -> None:
        del self._remotes[name]
        shutil.rmtree(self._paths.remotes / name, ignore_errors=True)

    async def _remove(self, remote: Remote) -> None:
        """Stop a remote for good and remove everything that belongs to it."""
        remote.stop()
        while not remote.idle:
            await asyncio.sleep(CHECK_IN_S)
        life = self._lives.pop(remote.name, None)
        if life is not None:
            life.cancel()
            await asyncio.wait({life})
        remote.hop.lease.revoke()
        await remote.tunnels.take_down()
        self._forget(remote.name)
        self._transitions.record(Change.REMOTE_OTHER, remote.name, remote.state.value, "removed", Cause.CONFIGURED)
        self._removing.pop(remote.name, None)

    async def stop(self) -> None:
        """Nothing to do: tunnels and leases outlive bypassd, and the tasks ended with `run`."""

    # Answers

    def remote(self, name: object) -> Remote:
        """The remote with this name; NotFoundError if there is none."""
        try:
            return self._remotes[str(name)]
        except KeyError:
            known = ", ".join(self._remotes) or "none"
            raise NotFoundError(f'there is no remote "{name}"; there is: {known}') from None

    def remotes(self) -> Iterable[Remote]:
        """All remotes, in the order of the configuration."""
        return self._remotes.values()

    def summary(self) -> list[answer.Remote]:
        """All remotes, for `show remotes` and `show status`."""
        return [
            show.row(remote, self._clock(), self._datapath.unsent(remote.name)) for remote in self._remotes.values()
        ]

    def details(self, name: str) -> answer.RemoteDetails:
        """One remote with the evidence, for `show remote NAME`."""
        return show.details(self.remote(name), self._clock(), self._datapath.unsent(name), dropped=self.dropped)
