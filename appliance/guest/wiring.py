# SPDX-License-Identifier: GPL-2.0-only
"""How the guests are connected: their taps, for which segments these are attached, and their third ports."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence, Set
from functools import partial
from typing import NamedTuple, Protocol

from appliance.config.schema import model
from appliance.errors import BypassError, GuestError
from appliance.guest.port import management_port, tap
from appliance.guest.port.mac_address import port_addresses
from appliance.guest.port.management_lan import Lan
from appliance.health.overload import Load
from appliance.health.watch import TapPair
from appliance.hop.hop import HopLeases
from appliance.steering.hop_datapath import HopDatapath
from appliance.steering.kernel.layout import Side
from appliance.steering.kernel.recorder import Recorded
from appliance.steering.kernel.shunted_flow import ShuntedFlow
from appliance.system.threads import to_the_end

log = logging.getLogger(__name__)


class Datapath(HopDatapath, Protocol):
    """What the guests need of the datapath (steering/datapath.py)."""

    @property
    def leases(self) -> HopLeases:
        """The hops' leases: until when each is available."""
        ...

    def mtu(self, segment: str) -> int:
        """The MTU of a segment; 0: its ports are not attached."""
        ...

    def load(self, hop: str, segment: str, side: Side) -> Load:
        """The traffic of one direction through a hop: what enters at this side."""
        ...

    def record(self, hop: str, frames: int, kept: int) -> object:
        """Record the last `frames` frames sent to the hop (0: none), `kept` bytes of each."""
        ...

    def shunt(self, hop: str, flow: ShuntedFlow, time_ns: int, idle_ns: int, directions: int) -> None:
        """Frames of the flow skip the hop from now on; RefusedError if it has as many as it may have."""
        ...

    def unshunt(self, hop: str, flow: ShuntedFlow) -> None:
        """They go to the hop again."""
        ...

    def recorded(self, hop: str, after: int = 0) -> list[Recorded]:
        """The hop's recorded frames."""
        ...


class Wires(NamedTuple):
    """How one guest is connected; fields as in RunContext."""

    hop: int
    pairs: tuple[TapPair, ...]
    loads: dict[str, Load]
    mtus: Callable[[], tuple[int, ...]]
    management: management_port.Port | None


class _Connected(NamedTuple):
    """One guest as it was connected last."""

    config: model.Guest
    hop: int
    segments: tuple[str, ...]
    pairs: tuple[TapPair, ...]


class Wiring:
    """The wiring of all guests.

    Taps are made, attached, detached and removed in a thread, because the kernel waits for its other processors, and
    leases of all hops are due meanwhile; one such change after the other, in the order of the calls. A change that has
    begun is finished, also when bypassd ends.
    """

    def __init__(self, datapath: Datapath, lan: Lan) -> None:
        self._datapath, self._lan = datapath, lan
        self._connected: dict[str, _Connected] = {}  # by guest
        self._turn = asyncio.Lock()

    def served(self, name: str) -> tuple[str, ...]:
        """The segments for which a guest's taps are attached."""
        found = self._connected.get(name)
        return found.segments if found is not None else ()

    async def connect(self, config: model.Guest, segments: Sequence[str], *, tags: bool) -> Wires:
        """Create and attach a guest's taps for these segments, and detach its other taps.

        `tags`: the guest's tags decide the next hop. GuestError, DatapathError: the kernel refuses.
        """
        async with self._turn:
            hop = self._datapath.hop_id(config.name)
            pairs, loads = await to_the_end(partial(self._connect, config, hop, segments, tags))
            third = management_port.port(config, hop, self._lan)
            self._connected[config.name] = _Connected(config, hop, tuple(segments), pairs)

        def mtus() -> tuple[int, ...]:
            return tuple(self._datapath.mtu(segment) for segment in segments)

        return Wires(hop, pairs, loads, mtus, third)

    def _connect(
        self, config: model.Guest, hop: int, segments: Sequence[str], tags: bool
    ) -> tuple[tuple[TapPair, ...], dict[str, Load]]:
        """In a thread."""
        pairs: list[TapPair] = []
        loads: dict[str, Load] = {}
        for segment in segments:
            number = self._datapath.segment_id(segment)
            lan, wan = (tap.tap_name(hop, number, side) for side in Side)
            label = segment if len(segments) > 1 else ""
            pairs.append(TapPair(lan, wan, label, port_addresses(config, hop, len(pairs))))
            for device, side in ((lan, Side.LAN), (wan, Side.WAN)):
                tap.ensure(device, config.queues)
                self._datapath.attach_hop(device, config.name, segment, side, tags=tags)
                loads[device] = self._datapath.load(config.name, segment, side)
        for segment in self.served(config.name):
            if segment not in segments:
                self._datapath.detach_hop(config.name, segment)
        return tuple(pairs), loads

    async def retag(self, name: str, on: bool) -> None:
        """Let a guest's tags decide the next hop, or not."""
        async with self._turn:
            if (guest := self._connected.get(name)) is not None:
                await to_the_end(partial(self._retag, guest, on))

    def _retag(self, guest: _Connected, on: bool) -> None:
        """In a thread."""
        for segment, pair in zip(guest.segments, guest.pairs, strict=True):
            for device, side in ((pair.lan, Side.LAN), (pair.wan, Side.WAN)):
                self._datapath.attach_hop(device, guest.config.name, segment, side, tags=on)

    async def disconnect(self, name: str) -> None:
        """Detach the taps of a guest that was removed."""
        async with self._turn:
            try:
                await to_the_end(partial(self._datapath.detach_hop, name))
            except BypassError as error:
                log.error("guest %s: its taps stay attached: %s", name, error)
            self._connected.pop(name, None)

    async def remove_others(self) -> None:
        """Remove the taps and third ports that belong to no guest."""
        async with self._turn:
            guests = list(self._connected.values())
            management_port.tidy(((guest.config, guest.hop) for guest in guests), self._lan)
            wanted = {device for guest in guests for pair in guest.pairs for device in (pair.lan, pair.wan)}
            await to_the_end(partial(_remove_but, wanted))


def _remove_but(wanted: Set[str]) -> None:
    """Remove the taps that are not wanted. In a thread."""
    for device in tap.existing():
        if device not in wanted:
            try:
                tap.remove(device)
            except GuestError as error:
                log.warning("%s; it is kept", error)
