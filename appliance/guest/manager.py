# SPDX-License-Identifier: GPL-2.0-only
"""All guests: the part "guests" of bypassd.

Starts or adopts every guest, and ends guests that are no longer configured. Owns the guests' tasks; their processes,
taps and leases outlive it. What connects them to the datapath is in wiring.py, the methods of the control socket in
api.py.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Iterable
from functools import partial

from appliance.api.schema import guests as answer
from appliance.causes import Cause
from appliance.config.schema import model
from appliance.config.schema.model import Config
from appliance.config.schema.served import served
from appliance.errors import BypassError, GuestError, NotFoundError
from appliance.guest import disk_space
from appliance.guest.agent.shunting import AgentShunts
from appliance.guest.failure import FailureHandler
from appliance.guest.guest import Guest, Ledger
from appliance.guest.image.store import Images, images_used
from appliance.guest.port.management_lan import Lan, lan_of
from appliance.guest.process_start import end_process
from appliance.guest.qemu import resources
from appliance.guest.qemu.cgroup import Cgroups
from appliance.guest.qemu.command import Accel
from appliance.guest.qemu.hugepages import Pool
from appliance.guest.qemu.record import STATE_FILE
from appliance.guest.run_context import RunContext
from appliance.guest.show import details, row
from appliance.guest.start_order import StartOrder
from appliance.guest.wiring import Datapath, Wiring
from appliance.health.inband import make_nonce
from appliance.part import PATIENCE_NS, Alive
from appliance.paths import Paths
from appliance.steering.overlay_editor import Steered
from appliance.system.threads import to_the_end
from appliance.telemetry.subject import Change

log = logging.getLogger(__name__)

CHECK_IN_S = 0.2
HOUSEKEEPING_S = 2.0
REMOVE_S = 30.0  # how long a commit waits for a removed guest to power down before it adds one of the same name


class GuestManager:
    """The part "guests"."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        datapath: Datapath,
        transitions: Ledger,
        *,
        steered: Steered,
        accel: Accel | None = None,
        lan: Lan | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`accel` forces an accelerator for all guests: for machines where KVM exists but does not work.

        `lan` None: nobody else uses the guests' ports on the management LAN.
        """
        self._config, self._paths, self._datapath, self._clock = config, paths, datapath, clock
        self._transitions, self._accel = transitions, accel
        self._cgroups, self._order = Cgroups(paths.root / "sys/fs/cgroup"), StartOrder(config.guest, clock)
        self._lan = lan or lan_of(paths)
        self._wiring = Wiring(datapath, self._lan)
        self._huge = Pool(paths.run / "hugepages")
        self.images = Images(paths.images, lambda: images_used(self._config))
        self._guests: dict[str, Guest] = {}
        self.disk_space = disk_space.Guard(paths.state, self.guests)
        self._tasks: asyncio.TaskGroup | None = None
        self._started = False  # the guests exist; before that, and after a failure, a commit only sets `_config`
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._removing: dict[str, asyncio.Task[None]] = {}
        self.failures = FailureHandler(
            config, paths, datapath, steered, transitions,
            hops=self._hop_numbers, retag=self._retag, shunts=lambda: AgentShunts(datapath, self._wiring.served, clock),
        )  # fmt: skip

    def _hop_numbers(self) -> dict[str, int]:
        names = [hop.name for hop in self._config.guest] + [hop.name for hop in self._config.remote]
        return {name: self._datapath.hop_id(name) for name in names}

    def _retag(self, name: str, on: bool) -> None:
        """Let a guest's tags decide the next hop, or not."""
        if (guest := self._guests.get(name)) is not None:
            self._wiring.retag(guest, on)

    def _tags(self, config: model.Guest) -> bool:
        """Whether the guest's tags decide the next hop: allowed, and its agent has not turned them off."""
        return config.tags and config.name not in self.failures.policy.overlay.no_tags

    @property
    def name(self) -> str:
        """The part's name."""
        return "guests"

    @property
    def patience(self) -> int:
        """The longest permitted silence (ns): five check-ins."""
        return PATIENCE_NS

    async def start(self) -> None:
        """Create and attach the taps, end guests that are no longer configured; guests start in `run`."""
        self._paths.guests.mkdir(parents=True, exist_ok=True)
        self._guests = {config.name: self._make(config) for config in self._config.guest}
        await asyncio.to_thread(self.failures.load, self._guests.values())
        await self._end_others()
        self._wiring.remove_others(self._guests.values())
        await asyncio.to_thread(resources.forget_variables, self._paths, set(self._guests))
        self._started = True

    def _make(self, config: model.Guest) -> Guest:
        self._datapath.record(config.name, config.recorder.frames, config.recorder.bytes)
        return Guest(
            config,
            self._context_of(config),
            self._datapath.leases,
            self._transitions,
            order=self._order,
            events=self.failures,
        )

    def _context_of(self, config: model.Guest) -> RunContext:
        """Connect a guest as the current configuration says."""
        wires = self._wiring.connect(config, served(self._config)[config.name], tags=self._tags(config))
        return RunContext(
            self._paths,
            wires.hop,
            wires.pairs,
            make_nonce(self._datapath.heartbeat_key(config.name)),
            self._cgroups,
            self._huge,
            accel=self._accel,
            mtus=wires.mtus,
            management=wires.management,
            clock=self._clock,
            space=self._lan.space,
            loads=wires.loads,
        )

    async def _end_others(self) -> None:
        """End guests that are no longer configured, and revoke the leases of those that are not running."""
        for folder in list(self._paths.guests.iterdir()):
            if folder.name not in self._guests and (folder / STATE_FILE).exists():
                await to_the_end(partial(end_process, folder))
                self._datapath.detach_hop(folder.name)
        for name, guest in self._guests.items():
            if not (self._paths.guests / name / STATE_FILE).exists():
                guest.hop.lease.revoke()

    async def run(self, alive: Alive) -> None:
        """Run all guests until cancelled."""
        housekeeping = self._clock()
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._lives, self._removing = {}, {}
                for guest in self._guests.values():
                    self._live(guest)
                self._tasks.create_task(self.failures.run(self.guests), name="guest failures")
                self._tasks.create_task(self.disk_space.run(), name="disk space")
                while True:
                    alive()
                    for guest in self._guests.values():
                        guest.hop.measure()
                    await asyncio.sleep(CHECK_IN_S)
                    if self._clock() - housekeeping > HOUSEKEEPING_S * 1e9:
                        housekeeping = self._clock()
                        for guest in self._guests.values():
                            if guest.current_run is not None:
                                guest.current_run.rotate_logs()
        finally:
            self._started, self._tasks = False, None

    def _live(self, guest: Guest) -> None:
        assert self._tasks is not None
        guest.autostart()
        self._lives[guest.name] = self._tasks.create_task(guest.run(), name=f"guest {guest.name}")

    # Another configuration

    async def add_new(self, new: Config) -> None:
        """Before the datapath switches: create the guests that `new` adds, with their taps. GuestError: impossible."""
        old, self._config = self._config, new
        if not self._started:
            return
        try:
            for config in new.guest:
                if config.name in self._removing:
                    async with asyncio.timeout(REMOVE_S):
                        await asyncio.wait({self._removing[config.name]})
                if config.name not in self._guests:
                    self._guests[config.name] = self._make(config)
        except TimeoutError:
            self._config = old
            raise GuestError("a guest of this name is still being stopped: try again later") from None
        except BypassError:
            self._config = old
            raise

    async def apply(self, new: Config) -> None:
        """After the switch: reconfigure every guest as `new` says. Those not in `new` keep running, without traffic.

        A commit may begin while bypassd is still starting: then `add_new` was not called for it.
        """
        self._config, wanted = new, served(new)
        self._order.guests = new.guest
        self.failures.reconfigure(new)
        if not self._started:
            return
        for config in new.guest:
            if config.name not in self._guests:
                self._guests[config.name] = self._make(config)
            guest = self._guests[config.name]
            if config.tags != guest.config.tags:
                self._retag(config.name, self._tags(config))
            self._datapath.record(config.name, config.recorder.frames, config.recorder.bytes)
            third = (guest.config.management, guest.config.management_mac)
            guest.reconfigure(config)
            moved = third != (config.management, config.management_mac) or guest.new_context is not None
            if moved or tuple(wanted[config.name]) != self._wiring.served(config.name):
                guest.new_context = partial(self._context_of, config)
            else:
                guest.new_context = None
            if config.name not in self._lives and self._tasks is not None:
                self._live(guest)
        for name in [name for name in self._guests if name not in self._lives]:
            if name not in {config.name for config in new.guest}:
                self._forget(name)  # it was added by a commit that was rolled back
        order = [config.name for config in new.guest]
        order += [name for name in self._guests if name not in order]
        self._guests = {name: self._guests[name] for name in order}

    async def remove_old(self, new: Config) -> None:
        """The commit is final: power down and remove the guests that are not in `new`."""
        names = {config.name for config in new.guest}
        for name in [name for name in self._guests if name not in names and name not in self._removing]:
            if self._tasks is not None:
                task = self._tasks.create_task(self._remove(self._guests[name]), name=f"remove {name}")
                self._removing[name] = task

    def _forget(self, name: str) -> None:
        """Remove everything that belongs to a guest except its process."""
        self._wiring.disconnect(name)
        del self._guests[name]
        shutil.rmtree(self._paths.guests / name, ignore_errors=True)
        self._wiring.remove_others(self._guests.values())

    async def _remove(self, guest: Guest) -> None:
        """Stop a guest for good and remove everything that belongs to it."""
        guest.stop()
        while not guest.idle:
            await asyncio.sleep(CHECK_IN_S)
        life = self._lives.pop(guest.name, None)
        if life is not None:
            life.cancel()
            await asyncio.wait({life})
        guest.hop.lease.revoke()
        self._forget(guest.name)
        self._transitions.record(Change.GUEST_OTHER, guest.name, guest.state.value, "removed", Cause.CONFIGURED)
        self._removing.pop(guest.name, None)

    async def stop(self) -> None:
        """Nothing to do: guests, taps and leases outlive bypassd, and the tasks ended with `run`."""

    # Answers

    def guest(self, name: object) -> Guest:
        """The guest with this name; NotFoundError if there is none."""
        try:
            return self._guests[str(name)]
        except KeyError:
            known = ", ".join(self._guests) or "none"
            raise NotFoundError(f'there is no guest "{name}"; there is: {known}') from None

    def guests(self) -> Iterable[Guest]:
        """All guests, in the order of the configuration."""
        return self._guests.values()

    def summary(self) -> list[answer.Guest]:
        """All guests, for `show guests` and `show status`."""
        return [row(guest, self._clock(), self._datapath.unsent(guest.name)) for guest in self._guests.values()]

    def details(self, name: str) -> answer.GuestDetails:
        """One guest with the evidence, for `show guest NAME`."""
        return details(self.guest(name), self._clock(), self._datapath.unsent(name))
