# SPDX-License-Identifier: GPL-2.0-only
"""All guests: the part "guests" of bypassd.

Makes and attaches the taps, starts or adopts every guest, ends what an earlier configuration left, and answers the
control socket. Owns the guests' tasks; their processes, taps and leases outlive it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from appliance.config.model import Config
from appliance.errors import GuestError, NotFoundError
from appliance.guest import taps
from appliance.guest.command import Accel
from appliance.guest.guest import Guest, HopPath, Ledger
from appliance.guest.lifecycle import State
from appliance.guest.run import STATE_FILE, Setting, end_process
from appliance.guest.show import details, row
from appliance.health.inband import new_nonce
from appliance.health.watch import TapPair
from appliance.parts import PATIENCE_NS, Alive
from appliance.paths import Paths
from appliance.rpc import Param, Params, Registry
from appliance.steering.layout import Side

log = logging.getLogger(__name__)

CHECK_IN_S = 0.2
HOUSEKEEPING_S = 10.0


class Datapath(HopPath, Protocol):
    """What the guests need of the datapath (steering/datapath.py)."""

    def hop_id(self, name: str) -> int:
        """The stable number of a hop."""
        ...

    def segment_id(self, name: str) -> int:
        """The stable number of a segment."""
        ...

    def attach_hop(self, device: str, hop: str, segment: str, side: Side, *, tags: bool = False) -> object:
        """Connect one tap of a hop; again after it was made anew."""
        ...

    def detach_hop(self, hop: str) -> object:
        """Disconnect a hop for good."""
        ...


def served(config: Config, name: str) -> list[str]:
    """The segments whose rules lead to this guest, directly or through a group; every segment when no rule does."""
    ways = {name}
    for group in config.group:
        if name in (*(member.hop for member in group.balance), *group.standby):
            ways.add(group.name)
    everywhere = [segment.name for segment in config.segment]
    found: set[str] = set()
    for rule in config.rule:
        if ways.intersection(rule.path):
            found.update([rule.segment] if rule.segment else everywhere)
    return [segment for segment in everywhere if segment in found] or everywhere


class GuestManager:
    """The part "guests"."""

    def __init__(
        self,
        config: Config,
        paths: Paths,
        datapath: Datapath,
        transitions: Ledger,
        registry: Registry | None = None,
        *,
        accel: Accel | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`accel` forces an accelerator for all guests: for machines where KVM is there and does not work."""
        self._config, self._paths, self._datapath, self._clock = config, paths, datapath, clock
        self._transitions, self._accel, self._nonce = transitions, accel, new_nonce()
        self._guests: dict[str, Guest] = {}
        if registry is not None:
            self.register(registry)

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
        wanted: set[str] = set()
        self._guests = {}
        for config in self._config.guest:
            hop = self._datapath.hop_id(config.name)
            segments = served(self._config, config.name)
            pairs = []
            for segment in segments:
                number = self._datapath.segment_id(segment)
                lan, wan = (taps.tap_name(hop, number, side) for side in Side)
                pairs.append(TapPair(lan, wan, segment if len(segments) > 1 else ""))
                for device, side in ((lan, Side.LAN), (wan, Side.WAN)):
                    taps.ensure(device)
                    self._datapath.attach_hop(device, config.name, segment, side, tags=config.tags)
                    wanted.add(device)
            setting = Setting(self._paths, hop, tuple(pairs), self._nonce, self._accel, self._clock)
            self._guests[config.name] = Guest(config, setting, self._datapath, self._transitions)
        self._end_others()
        for device in taps.existing():
            if device not in wanted:
                try:
                    taps.remove(device)
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
        async with asyncio.TaskGroup() as tasks:
            for guest in self._guests.values():
                guest.autostart()
                tasks.create_task(guest.run(), name=f"guest {guest.name}")
            while True:
                alive()
                await asyncio.sleep(CHECK_IN_S)
                if self._clock() - housekeeping > HOUSEKEEPING_S * 1e9:
                    housekeeping = self._clock()
                    for guest in self._guests.values():
                        if guest.run_now is not None:
                            guest.run_now.rotate_logs()

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

    def summary(self) -> list[dict[str, object]]:
        """One row a guest, for `show guests` and `show status`."""
        return [row(guest, self._clock()) for guest in self._guests.values()]

    def register(self, registry: Registry) -> None:
        """Add the methods guests.show and guest.*."""
        name = {"name": Param("string", "the guest's name")}

        async def show_all(_: Params) -> object:
            return self.summary()

        async def show(params: Params) -> object:
            return details(self.guest(params["name"]), self._clock())

        async def start(params: Params) -> object:
            return {"message": self.guest(params["name"]).start()}

        async def stop(params: Params) -> object:
            return {"message": self.guest(params["name"]).stop()}

        async def drain(params: Params) -> object:
            return {"message": self.guest(params["name"]).drain()}

        async def command(params: Params) -> object:
            value = params.get("value", 0)
            if not isinstance(value, int):
                raise GuestError("value must be a whole number")
            return {"message": self.guest(params["name"]).tell(str(params["word"]), value)}

        registry.add("guests.show", show_all, doc="Every guest: state, cause, lease, process.")
        registry.add("guest.show", show, doc="One guest with the evidence of its checks.", params=name)
        registry.add("guest.start", start, "operator", "Start a guest, or take it back into service.", name)
        registry.add("guest.stop", stop, "operator", "Take the traffic from a guest, then power it down.", name)
        registry.add("guest.drain", drain, "operator", "Give a guest no new flows.", name)
        registry.add(
            "guest.command",
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
