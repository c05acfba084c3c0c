# SPDX-License-Identifier: GPL-2.0-only
"""All guests: the part "guests" of bypassd.

Creates and attaches the taps, starts or adopts every guest, and ends guests that are no longer configured. Owns the
guests' tasks; their processes, taps and leases outlive it. The methods of the control socket are in api.py.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from appliance.api.schema import guests as answer
from appliance.causes import Cause
from appliance.config.schema import model
from appliance.config.schema.model import Config
from appliance.config.schema.served import served
from appliance.errors import BypassError, GuestError, NotFoundError
from appliance.guest import disk_space
from appliance.guest.failure import FailureHandler
from appliance.guest.guest import Guest, Ledger
from appliance.guest.image.store import Images, images_used
from appliance.guest.port import management_port, tap
from appliance.guest.port.mac_address import port_addresses
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
from appliance.health.inband import make_nonce
from appliance.health.overload import Load
from appliance.health.watch import TapPair
from appliance.hop.hop import HopLeases
from appliance.part import PATIENCE_NS, Alive
from appliance.paths import Paths
from appliance.steering.kernel.layout import Side
from appliance.steering.kernel.recorder import Recorded
from appliance.steering.overlay_editor import Steered
from appliance.system.threads import to_the_end
from appliance.telemetry.subject import Change

log = logging.getLogger(__name__)

CHECK_IN_S = 0.2
HOUSEKEEPING_S = 2.0
REMOVE_S = 30.0  # how long a commit waits for a removed guest to power down before it adds one of the same name


class Datapath(Protocol):
    """What the guests need of the datapath (steering/datapath.py)."""

    @property
    def leases(self) -> HopLeases:
        """Until when each hop is available."""
        ...

    def hop_id(self, name: str) -> int:
        """The stable number of a hop."""
        ...

    def segment_id(self, name: str) -> int:
        """The stable number of a segment."""
        ...

    def mtu(self, segment: str) -> int:
        """The MTU that a segment's frames have; 0: its ports are not attached."""
        ...

    def heartbeat_key(self, hop: str) -> int:
        """By which the datapath recognizes the hop's heartbeats (32 bits, a secret of this bypassd)."""
        ...

    def attach_hop(self, device: str, hop: str, segment: str, side: Side, *, tags: bool = False) -> object:
        """Connect one tap of a hop; again after the tap was recreated."""
        ...

    def load(self, hop: str, segment: str, side: Side) -> Load:
        """The traffic of one direction through a hop: that which enters at this side."""
        ...

    def record(self, hop: str, frames: int, kept: int) -> object:
        """Keep the last `frames` frames sent to the hop (0: none), `kept` bytes of each."""
        ...

    def recorded(self, hop: str, after: int = 0) -> list[Recorded]:
        """The frames kept of the hop."""
        ...

    def unsent(self, hop: str) -> dict[str, int]:
        """Frames for a hop that its taps never handed over, by cause."""
        ...

    def detach_hop(self, hop: str, segment: str | None = None) -> object:
        """Disconnect a hop for good, from one segment or from all."""
        ...


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
        """`accel` forces an accelerator for all guests: for machines where KVM exists and does not work.

        `lan` None: nobody else uses the guests' ports on the management LAN.
        """
        self._config, self._paths, self._datapath, self._clock = config, paths, datapath, clock
        self._transitions, self._accel = transitions, accel
        self._cgroups, self._order = Cgroups(paths.root / "sys/fs/cgroup"), StartOrder(config.guest, clock)
        self._lan = lan or lan_of(paths)
        self._huge = Pool(paths.run / "hugepages")
        self.images = Images(paths.images, lambda: images_used(self._config))
        self._guests: dict[str, Guest] = {}
        self.disk_space = disk_space.Guard(paths.state, self.guests)
        self._served: dict[str, tuple[str, ...]] = {}  # by guest: the segments for which its taps are attached
        self._tasks: asyncio.TaskGroup | None = None
        self._started = False  # the guests were made; before, and after a failure, a commit only sets `_config`
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._removing: dict[str, asyncio.Task[None]] = {}
        self.failures = FailureHandler(
            config, paths, datapath, steered, transitions, hops=self._hop_numbers, retag=self._retag
        )

    def _hop_numbers(self) -> dict[str, int]:
        names = [hop.name for hop in self._config.guest] + [hop.name for hop in self._config.remote]
        return {name: self._datapath.hop_id(name) for name in names}

    def _retag(self, name: str, on: bool) -> None:
        """Let a guest's tags decide the next hop, or not."""
        guest = self._guests.get(name)
        for segment, pair in zip(self._served.get(name, ()), guest.pairs if guest is not None else (), strict=False):
            for device, side in ((pair.lan, Side.LAN), (pair.wan, Side.WAN)):
                self._datapath.attach_hop(device, name, segment, side, tags=on)

    def _tags(self, config: model.Guest) -> bool:
        """Whether the guest's tags decide: the administrator allows it, and its agent has not turned them off."""
        return config.tags and config.name not in self.failures.policy.overlay.no_tags

    @property
    def name(self) -> str:
        """Of the part."""
        return "guests"

    @property
    def patience(self) -> int:
        """Longest silence (ns): five check-ins."""
        return PATIENCE_NS

    async def start(self) -> None:
        """Create and attach the taps, end guests that are no longer configured; guests start in `run`."""
        self._paths.guests.mkdir(parents=True, exist_ok=True)
        self._guests = {config.name: self._make(config) for config in self._config.guest}
        await asyncio.to_thread(self.failures.load, self._guests.values())
        await self._end_others()
        self._remove_taps()
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
        """Create and attach the taps that a guest has in the present configuration, and detach its others."""
        hop = self._datapath.hop_id(config.name)
        segments = served(self._config)[config.name]
        pairs: list[TapPair] = []
        loads: dict[str, Load] = {}
        for segment in segments:
            number = self._datapath.segment_id(segment)
            lan, wan = (tap.tap_name(hop, number, side) for side in Side)
            label = segment if len(segments) > 1 else ""
            pairs.append(TapPair(lan, wan, label, port_addresses(config, hop, len(pairs))))
            for device, side in ((lan, Side.LAN), (wan, Side.WAN)):
                tap.ensure(device)
                self._datapath.attach_hop(device, config.name, segment, side, tags=self._tags(config))
                loads[device] = self._datapath.load(config.name, segment, side)
        left = self._served.get(config.name, ())
        for segment in left:
            if segment not in segments:
                self._datapath.detach_hop(config.name, segment)
        self._served[config.name] = tuple(segments)
        third = management_port.port(config, hop, self._lan)
        return RunContext(
            self._paths,
            hop,
            tuple(pairs),
            make_nonce(self._datapath.heartbeat_key(config.name)),
            self._cgroups,
            self._huge,
            accel=self._accel,
            mtus=lambda: tuple(self._datapath.mtu(segment) for segment in segments),
            management=third,
            clock=self._clock,
            space=self._lan.space,
            loads=loads,
        )

    def _remove_taps(self) -> None:
        """Remove the taps that belong to no guest."""
        wanted = {device for guest in self._guests.values() for pair in guest.pairs for device in (pair.lan, pair.wan)}
        management_port.tidy(((guest.config, guest.hop_number) for guest in self._guests.values()), self._lan)
        for device in tap.existing():
            if device not in wanted:
                try:
                    tap.remove(device)
                except GuestError as error:
                    log.warning("%s; it is kept", error)

    async def _end_others(self) -> None:
        """End guests that are no longer configured; revoke the lease of those that do not run."""
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
        """Before the datapath switches: create the guests that `new` adds, with their taps. GuestError: it cannot."""
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
        """After the switch: reconfigure every guest as `new` says. One that it does not name runs on without traffic.

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
            if moved or tuple(wanted[config.name]) != self._served[config.name]:
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
        """The commit is final: guests that `new` does not name are powered down and removed."""
        names = {config.name for config in new.guest}
        for name in [name for name in self._guests if name not in names and name not in self._removing]:
            if self._tasks is not None:
                task = self._tasks.create_task(self._remove(self._guests[name]), name=f"remove {name}")
                self._removing[name] = task

    def _forget(self, name: str) -> None:
        """Remove all that belongs to a guest besides its process."""
        try:
            self._datapath.detach_hop(name)
        except BypassError as error:
            log.error("guest %s: its taps stay attached: %s", name, error)
        self._served.pop(name, None)
        del self._guests[name]
        shutil.rmtree(self._paths.guests / name, ignore_errors=True)
        self._remove_taps()

    async def _remove(self, guest: Guest) -> None:
        """Stop a guest for good, and remove all that belongs to it."""
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
        """The guest of that name; NotFoundError otherwise."""
        try:
            return self._guests[str(name)]
        except KeyError:
            known = ", ".join(self._guests) or "none"
            raise NotFoundError(f'there is no guest "{name}"; there is: {known}') from None

    def guests(self) -> Iterable[Guest]:
        """All of them, in the configuration's order."""
        return self._guests.values()

    def summary(self) -> list[answer.Guest]:
        """All guests, for `show guests` and `show status`."""
        return [row(guest, self._clock(), self._datapath.unsent(guest.name)) for guest in self._guests.values()]

    def details(self, name: str) -> answer.GuestDetails:
        """One guest with the evidence, for `show guest NAME`."""
        return details(self.guest(name), self._clock(), self._datapath.unsent(name))
