# SPDX-License-Identifier: GPL-2.0-only
"""All guests: the part "guests" of bypassd.

Starts or adopts every guest, and ends guests that are no longer configured. `Hops` owns the guests and their tasks;
their processes, taps and leases outlive both. What connects them to the datapath is in wiring.py, the methods of the
control socket in api.py.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from appliance.api.schema import guests as answer
from appliance.causes import Cause
from appliance.config.schema import model
from appliance.config.schema.model import Config
from appliance.config.schema.served import served
from appliance.errors import BypassError
from appliance.guest import disk_space
from appliance.guest.agent.shunting import AgentShunts
from appliance.guest.failure import FailureHandler
from appliance.guest.guest import Guest
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
from appliance.hop.hops import Hops
from appliance.part import PATIENCE_NS, Alive
from appliance.paths import Paths
from appliance.steering.overlay_editor import Steered
from appliance.system.threads import to_the_end
from appliance.telemetry.ledger import Ledger
from appliance.telemetry.subject import Change

log = logging.getLogger(__name__)

CHECK_IN_S = 0.2
HOUSEKEEPING_S = 2.0


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
        self._guests: Hops[Guest, model.Guest] = Hops(
            "guest", make=self._make, forget=self._forget, removed=self._removed
        )
        self.disk_space = disk_space.Guard(paths.state, self.guests)
        self.failures = FailureHandler(
            config, paths, datapath, steered, transitions,
            hops=self._hop_numbers, retag=self._retag, shunts=lambda: AgentShunts(datapath, self._wiring.served, clock),
        )  # fmt: skip

    def _hop_numbers(self) -> dict[str, int]:
        names = [hop.name for hop in self._config.guest] + [hop.name for hop in self._config.remote]
        return {name: self._datapath.hop_id(name) for name in names}

    async def _retag(self, name: str, on: bool) -> None:
        """Let a guest's tags decide the next hop, or not."""
        await self._wiring.retag(name, on)

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
        loaded = self._config
        await self._guests.load(loaded.guest)
        await asyncio.to_thread(self.failures.load, list(self._guests))
        await self._end_others()
        await self._wiring.remove_others()
        await asyncio.to_thread(resources.forget_variables, self._paths, {guest.name for guest in self._guests})
        while self._config is not loaded:  # of a commit that came meanwhile
            loaded = self._config
            await self._guests.apply(loaded.guest, partial(self._follow, served(loaded)))
        self._guests.started()

    async def _make(self, config: model.Guest) -> Guest:
        self._datapath.record(config.name, config.recorder.frames, config.recorder.bytes)
        return Guest(
            config,
            await self._context_of(config),
            self._datapath.leases,
            self._transitions,
            order=self._order,
            events=self.failures,
        )

    async def _context_of(self, config: model.Guest) -> RunContext:
        """Connect a guest as the current configuration says."""
        wires = await self._wiring.connect(config, served(self._config)[config.name], tags=self._tags(config))
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
            if self._guests.get(folder.name) is None and (folder / STATE_FILE).exists():
                await to_the_end(partial(end_process, folder))
                await self._wiring.disconnect(folder.name)
        for guest in self._guests:
            if not (self._paths.guests / guest.name / STATE_FILE).exists():
                guest.hop.lease.revoke()

    async def run(self, alive: Alive) -> None:
        """Run all guests until cancelled."""
        housekeeping = self._clock()
        async with self._guests.running() as tasks:
            tasks.create_task(self.failures.run(self.guests), name="guest failures")
            tasks.create_task(self.disk_space.run(), name="disk space")
            while True:
                alive()
                self._guests.look(self._clock())
                await asyncio.sleep(CHECK_IN_S)
                if self._clock() - housekeeping > HOUSEKEEPING_S * 1e9:
                    housekeeping = self._clock()
                    for guest in self._guests:
                        if guest.current_run is not None:
                            guest.current_run.rotate_logs()

    # Another configuration

    async def add_new(self, new: Config) -> None:
        """Before the datapath switches: create the guests that `new` adds, with their taps. GuestError: impossible."""
        old, self._config = self._config, new
        if not self._guests.ready:
            return
        try:
            await self._guests.add_new(new.guest)
        except BypassError:
            self._config = old
            raise

    async def apply(self, new: Config) -> None:
        """After the switch: reconfigure every guest as `new` says. Those not in `new` keep running, without traffic.

        A commit may begin while bypassd is still starting: then `add_new` was not called for it.
        """
        self._config = new
        self._order.guests = new.guest
        self.failures.reconfigure(new)
        if self._guests.ready:
            await self._guests.apply(new.guest, partial(self._follow, served(new)))

    async def _follow(self, wanted: Mapping[str, Sequence[str]], guest: Guest, config: model.Guest) -> None:
        """Reconfigure one guest; `wanted`: the segments of each guest."""
        if config.tags != guest.config.tags:
            await self._retag(config.name, self._tags(config))
        self._datapath.record(config.name, config.recorder.frames, config.recorder.bytes)
        was = (guest.config.management, guest.config.management_mac, guest.config.queues)
        guest.reconfigure(config)
        moved = was != (config.management, config.management_mac, config.queues) or guest.new_context is not None
        if moved or tuple(wanted[config.name]) != self._wiring.served(config.name):
            guest.new_context = partial(self._context_of, config)
        else:
            guest.new_context = None

    async def remove_old(self, new: Config) -> None:
        """The commit is final: power down and remove the guests that are not in `new`."""
        self._config = new  # the part may have been made since the step before
        self._guests.remove_old(new.guest)

    async def _forget(self, guest: Guest) -> None:
        """Remove everything that belongs to a guest except its process."""
        await self._wiring.disconnect(guest.name)
        await to_the_end(partial(shutil.rmtree, self._paths.guests / guest.name, ignore_errors=True))
        await self._wiring.remove_others()

    def _removed(self, guest: Guest) -> None:
        self._transitions.record(Change.GUEST_OTHER, guest.name, guest.state.value, "removed", Cause.CONFIGURED)

    async def stop(self) -> None:
        """Nothing to do: guests, taps and leases outlive bypassd, and the tasks ended with `run`."""

    # Answers

    def guest(self, name: object) -> Guest:
        """The guest with this name; NotFoundError if there is none."""
        return self._guests.named(name)

    def guests(self) -> Iterable[Guest]:
        """All guests, in the order of the configuration."""
        return self._guests

    def summary(self) -> list[answer.Guest]:
        """All guests, for `show guests` and `show status`."""
        return [row(guest, self._clock(), self._datapath.unsent(guest.name)) for guest in self._guests]

    def details(self, name: str) -> answer.GuestDetails:
        """One guest with the evidence, for `show guest NAME`."""
        return details(self.guest(name), self._clock(), self._datapath.unsent(name))
