# SPDX-License-Identifier: GPL-2.0-only
"""All guests: the part "guests" of bypassd.

Makes and attaches the taps, starts or adopts every guest, ends what an earlier configuration left, and answers the
control socket. Owns the guests' tasks; their processes, taps and leases outlive it.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from appliance.api.rpc import Param, Params, Registry
from appliance.api.schema import guests as answer
from appliance.api.schema import methods
from appliance.api.schema.base import Done
from appliance.api.server import take_over
from appliance.causes import Cause
from appliance.config.schema import model
from appliance.config.schema.model import Config
from appliance.config.schema.served import served
from appliance.errors import BypassError, GuestError, NotFoundError
from appliance.guest.failure import Aftermath
from appliance.guest.guest import Guest, HopLeases, Ledger
from appliance.guest.image import api
from appliance.guest.image.store import Images, images_used
from appliance.guest.lifecycle import State
from appliance.guest.port import management_port, tap
from appliance.guest.port.mac_address import port_addresses
from appliance.guest.port.management_lan import Lan, lan_of
from appliance.guest.qemu.cgroup import Cgroups
from appliance.guest.qemu.command import Accel
from appliance.guest.qemu.hugepages import Pool
from appliance.guest.run import STATE_FILE, Setting, end_process
from appliance.guest.show import details, row
from appliance.guest.start_order import Order
from appliance.health.inband import new_nonce
from appliance.health.watch import TapPair
from appliance.part import PATIENCE_NS, Alive
from appliance.paths import Paths
from appliance.steering.kernel.layout import Side
from appliance.steering.kernel.recorder import Recorded
from appliance.steering.overlay_editor import Steered
from appliance.telemetry.subject import Change

log = logging.getLogger(__name__)

CHECK_IN_S = 0.2
HOUSEKEEPING_S = 10.0
LEAVING_S = 30.0  # a guest that was removed has this long to power down, before one of its name can be added again


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

    def attach_hop(self, device: str, hop: str, segment: str, side: Side, *, tags: bool = False) -> object:
        """Connect one tap of a hop; again after it was made anew."""
        ...

    def record(self, hop: str, frames: int, kept: int) -> object:
        """Keep the last frames handed to the hop (0: none), so many bytes of each."""
        ...

    def recorded(self, hop: str, after: int = 0) -> list[Recorded]:
        """The frames kept of the hop."""
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
        registry: Registry | None = None,
        accel: Accel | None = None,
        lan: Lan | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`accel` forces an accelerator for all guests: for machines where KVM is there and does not work.

        `lan` None: nobody else looks at the guests' ports on the management LAN.
        """
        self._config, self._paths, self._datapath, self._clock = config, paths, datapath, clock
        self._transitions, self._accel, self._nonce = transitions, accel, new_nonce()
        self._cgroups, self._order = Cgroups(paths.root / "sys/fs/cgroup"), Order(config.guest, clock)
        self._lan = lan or lan_of(paths)
        self._huge = Pool(paths.run / "hugepages")
        self._images = Images(paths.images, lambda: images_used(self._config))
        self._guests: dict[str, Guest] = {}
        self._served: dict[str, tuple[str, ...]] = {}  # by guest: the segments that its taps are attached for
        self._tasks: asyncio.TaskGroup | None = None
        self._begun = False  # `start` has made the guests; before it and after a failure only the configuration counts
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self.aftermath = Aftermath(
            config, paths, datapath, steered, transitions, hops=self._hop_numbers, retag=self._retag
        )
        if registry is not None:
            self.register(registry)
            self.aftermath.register(registry)

    def _hop_numbers(self) -> dict[str, int]:
        names = [hop.name for hop in self._config.guest] + [hop.name for hop in self._config.remote]
        return {name: self._datapath.hop_id(name) for name in names}

    def _retag(self, name: str, on: bool) -> None:
        """Let the tags of a guest decide its next hop, or not."""
        guest = self._guests.get(name)
        for segment, pair in zip(self._served.get(name, ()), guest.pairs if guest is not None else (), strict=False):
            for device, side in ((pair.lan, Side.LAN), (pair.wan, Side.WAN)):
                self._datapath.attach_hop(device, name, segment, side, tags=on)

    def _tags(self, config: model.Guest) -> bool:
        """Whether the guest's tags decide: it may use them, and its agent has not given that up."""
        return config.tags and config.name not in self.aftermath.policy.overlay.no_tags

    @property
    def name(self) -> str:
        """Of the part."""
        return "guests"

    @property
    def patience(self) -> int:
        """Longest silence (ns): five check-ins."""
        return PATIENCE_NS

    async def start(self) -> None:
        """Make and attach the taps, end what is not configured any more; guests start in `run`."""
        self._paths.guests.mkdir(parents=True, exist_ok=True)
        self._guests = {config.name: self._make(config) for config in self._config.guest}
        self.aftermath.load(self._guests.values())
        self._end_others()
        self._remove_taps()
        self._begun = True

    def _make(self, config: model.Guest) -> Guest:
        self._datapath.record(config.name, config.recorder.frames, config.recorder.bytes)
        return Guest(
            config,
            self._place(config),
            self._datapath.leases,
            self._transitions,
            order=self._order,
            aftermath=self.aftermath,
        )

    def _place(self, config: model.Guest) -> Setting:
        """Make and attach the taps that a guest has as the configuration is now, and take its others out."""
        hop = self._datapath.hop_id(config.name)
        segments = served(self._config)[config.name]
        pairs: list[TapPair] = []
        for segment in segments:
            number = self._datapath.segment_id(segment)
            lan, wan = (tap.tap_name(hop, number, side) for side in Side)
            label = segment if len(segments) > 1 else ""
            pairs.append(TapPair(lan, wan, label, port_addresses(config, hop, len(pairs))))
            for device, side in ((lan, Side.LAN), (wan, Side.WAN)):
                tap.ensure(device)
                self._datapath.attach_hop(device, config.name, segment, side, tags=self._tags(config))
        left = self._served.get(config.name, ())
        for segment in left:
            if segment not in segments:
                self._datapath.detach_hop(config.name, segment)
        self._served[config.name] = tuple(segments)
        third = management_port.port(config, hop, self._lan)
        return Setting(
            self._paths,
            hop,
            tuple(pairs),
            self._nonce,
            self._cgroups,
            self._huge,
            accel=self._accel,
            management=third,
            clock=self._clock,
            space=self._lan.space,
        )

    def _remove_taps(self) -> None:
        """Remove the taps that no guest has."""
        wanted = {device for guest in self._guests.values() for pair in guest.pairs for device in (pair.lan, pair.wan)}
        management_port.tidy(((guest.config, guest.hop) for guest in self._guests.values()), self._lan)
        for device in tap.existing():
            if device not in wanted:
                try:
                    tap.remove(device)
                except GuestError as error:
                    log.warning("%s; it is left alone", error)

    def _end_others(self) -> None:
        """End guests that are not configured any more; take the lease from those that do not run."""
        for folder in self._paths.guests.iterdir():
            if folder.name not in self._guests and (folder / STATE_FILE).exists():
                end_process(folder)
                self._datapath.detach_hop(folder.name)
        for name, guest in self._guests.items():
            if not (self._paths.guests / name / STATE_FILE).exists():
                guest.lease.revoke()

    async def run(self, alive: Alive) -> None:
        """Carry all guests through their lives."""
        housekeeping = self._clock()
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._lives, self._leaving = {}, {}
                for guest in self._guests.values():
                    self._live(guest)
                self._tasks.create_task(self.aftermath.run(self.guests), name="aftermath")
                while True:
                    alive()
                    for guest in self._guests.values():
                        guest.measure()
                    await asyncio.sleep(CHECK_IN_S)
                    if self._clock() - housekeeping > HOUSEKEEPING_S * 1e9:
                        housekeeping = self._clock()
                        for guest in self._guests.values():
                            if guest.run_now is not None:
                                guest.run_now.rotate_logs()
        finally:
            self._begun, self._tasks = False, None

    def _live(self, guest: Guest) -> None:
        assert self._tasks is not None
        guest.autostart()
        self._lives[guest.name] = self._tasks.create_task(guest.run(), name=f"guest {guest.name}")

    # Another configuration

    async def arrive(self, new: Config) -> None:
        """Before the datapath switches: what `new` adds has its taps, and no frame yet. GuestError: it cannot."""
        old, self._config = self._config, new
        if not self._begun:
            return
        try:
            for config in new.guest:
                if config.name in self._leaving:
                    async with asyncio.timeout(LEAVING_S):
                        await asyncio.wait({self._leaving[config.name]})
                if config.name not in self._guests:
                    self._guests[config.name] = self._make(config)
        except TimeoutError:
            self._config = old
            raise GuestError("a guest of this name is still being stopped: try again") from None
        except BypassError:
            self._config = old
            raise

    async def apply(self, new: Config) -> None:
        """After the switch: guests live as `new` says. One that it does not name goes on without traffic.

        A commit may begin while bypassd is still coming up: then this may be the first that the guests hear of `new`.
        """
        self._config, wanted = new, served(new)
        self._order.guests = new.guest
        self.aftermath.reconfigure(new)
        if not self._begun:
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
            moved = third != (config.management, config.management_mac) or guest.place is not None
            if moved or tuple(wanted[config.name]) != self._served[config.name]:
                guest.place = partial(self._place, config)
            else:
                guest.place = None
            if config.name not in self._lives and self._tasks is not None:
                self._live(guest)
        for name in [name for name in self._guests if name not in self._lives]:
            if name not in {config.name for config in new.guest}:
                self._forget(name)  # it arrived for a commit that was taken back
        order = [config.name for config in new.guest]
        order += [name for name in self._guests if name not in order]
        self._guests = {name: self._guests[name] for name in order}

    async def finish(self, new: Config) -> None:
        """The commit is final: guests that `new` does not name power down and go."""
        names = {config.name for config in new.guest}
        for name in [name for name in self._guests if name not in names and name not in self._leaving]:
            if self._tasks is not None:
                leave = self._tasks.create_task(self._leave(self._guests[name]), name=f"leave {name}")
                self._leaving[name] = leave

    def _forget(self, name: str) -> None:
        """Let go of what is a guest's and is not a process."""
        try:
            self._datapath.detach_hop(name)
        except BypassError as error:
            log.error("guest %s: its taps stay attached: %s", name, error)
        self._served.pop(name, None)
        del self._guests[name]
        shutil.rmtree(self._paths.guests / name, ignore_errors=True)
        self._remove_taps()

    async def _leave(self, guest: Guest) -> None:
        """Stop a guest for good, and let go of all that is its."""
        guest.stop()
        while not guest.idle:
            await asyncio.sleep(CHECK_IN_S)
        life = self._lives.pop(guest.name, None)
        if life is not None:
            life.cancel()
            await asyncio.wait({life})
        guest.lease.revoke()
        self._forget(guest.name)
        self._transitions.record(Change.GUEST_OTHER, guest.name, guest.state.value, "removed", Cause.CONFIGURED)
        self._leaving.pop(guest.name, None)

    async def stop(self) -> None:
        """Nothing: guests, taps and leases outlive bypassd, and the tasks ended with `run`."""

    # What the console asks

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
        return [row(guest, self._clock()) for guest in self._guests.values()]

    def register(self, registry: Registry) -> None:
        """Add the methods guests.show and guest.*, images.show and image.*."""
        self._images.tidy()
        api.register(registry, self._images)
        name = {"name": Param("string", "the guest's name")}

        async def show_all(_: Params) -> list[answer.Guest]:
            return self.summary()

        async def show(params: Params) -> answer.GuestDetails:
            return details(self.guest(params["name"]), self._clock())

        async def start(params: Params) -> Done:
            return Done(self.guest(params["name"]).start())

        async def stop(params: Params) -> Done:
            return Done(self.guest(params["name"]).stop())

        async def drain(params: Params) -> Done:
            return Done(self.guest(params["name"]).drain())

        async def pause(params: Params) -> Done:
            return Done(await self.guest(params["name"]).pause(True))

        async def resume(params: Params) -> Done:
            return Done(await self.guest(params["name"]).pause(False))

        async def command(params: Params) -> Done:
            value = params.get("value", 0)
            if not isinstance(value, int):
                raise GuestError("value must be a whole number")
            return Done(self.guest(params["name"]).tell(str(params["word"]), value))

        async def console(params: Params) -> answer.Console:
            guest = self.guest(params["name"])
            guest.console.check_room()
            take_over(guest.console.attach)
            return answer.Console(state=guest.state.value)

        async def log_(params: Params) -> answer.Log:
            guest = self.guest(params["name"])
            text = guest.console.tail(max(1, params.get("lines", 40))).decode(errors="replace")
            lines = [line.rstrip("\r") for line in text.split("\n")]
            return answer.Log(file=str(guest.console.log_file), lines=lines)

        count = {"lines": Param("integer", "how many of the last; 40 when left out", required=False)}
        add = registry.add
        add(methods.GUEST_LOG, log_, doc="What a guest printed on its serial line.", params={**name, **count})
        add(methods.GUEST_CONSOLE, console, "operator", "The connection becomes the guest's serial line.", name)
        add(methods.GUESTS_SHOW, show_all, doc="Every guest: state, cause, lease, process.")
        add(methods.GUEST_SHOW, show, doc="One guest with the evidence of its checks.", params=name)
        add(methods.GUEST_START, start, "operator", "Start a guest, or take it back into service.", name)
        add(methods.GUEST_STOP, stop, "operator", "Take the traffic from a guest, then power it down.", name)
        add(methods.GUEST_PAUSE, pause, "operator", "Take the traffic from a guest and stop its processors.", name)
        add(methods.GUEST_RESUME, resume, "operator", "Let a paused guest go on; it must prove itself again.", name)
        add(methods.GUEST_DRAIN, drain, "operator", "Give a guest no new flows.", name)
        add(
            methods.GUEST_COMMAND,
            command,
            "operator",
            "Send a command to the guest's agent (demo guest: hang, freeze, drop, slow, resume, exit).",
            {
                **name,
                "word": Param("string", "the command"),
                "value": Param("integer", "its number, where it takes one", required=False),
            },
        )


__all__ = ["Datapath", "GuestManager", "State", "served"]
