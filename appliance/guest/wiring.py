# SPDX-License-Identifier: GPL-2.0-only
"""How the guests are connected: their taps, for which segments these are attached, and their third ports."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from appliance.config.schema import model
from appliance.errors import BypassError, GuestError
from appliance.guest.guest import Guest
from appliance.guest.port import management_port, tap
from appliance.guest.port.mac_address import port_addresses
from appliance.guest.port.management_lan import Lan
from appliance.health.overload import Load
from appliance.health.watch import TapPair
from appliance.hop.hop import HopLeases
from appliance.steering.kernel.layout import Side
from appliance.steering.kernel.recorder import Recorded
from appliance.steering.kernel.shunted_flow import ShuntedFlow

log = logging.getLogger(__name__)


class Datapath(Protocol):
    """What the guests need of the datapath (steering/datapath.py)."""

    @property
    def leases(self) -> HopLeases:
        """The hops' leases: until when each is available."""
        ...

    def hop_id(self, name: str) -> int:
        """The stable number of a hop."""
        ...

    def segment_id(self, name: str) -> int:
        """The stable number of a segment."""
        ...

    def mtu(self, segment: str) -> int:
        """The MTU of a segment; 0: its ports are not attached."""
        ...

    def heartbeat_key(self, hop: str) -> int:
        """The key by which the datapath recognizes the hop's heartbeats (32 bits, a secret of this bypassd)."""
        ...

    def attach_hop(self, device: str, hop: str, segment: str, side: Side, *, tags: bool = False) -> object:
        """Connect one tap of a hop; call it again after the tap was recreated."""
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

    def unsent(self, hop: str) -> dict[str, int]:
        """Frames for a hop that its taps did not deliver, by cause."""
        ...

    def detach_hop(self, hop: str, segment: str | None = None) -> object:
        """Disconnect a hop for good, from one segment or from all."""
        ...


class Wires(NamedTuple):
    """How one guest is connected; fields as in RunContext."""

    hop: int
    pairs: tuple[TapPair, ...]
    loads: dict[str, Load]
    mtus: Callable[[], tuple[int, ...]]
    management: management_port.Port | None


class Wiring:
    """The wiring of all guests."""

    def __init__(self, datapath: Datapath, lan: Lan) -> None:
        self._datapath, self._lan = datapath, lan
        self._served: dict[str, tuple[str, ...]] = {}  # by guest: the segments for which its taps are attached

    def served(self, name: str) -> tuple[str, ...]:
        """The segments for which a guest's taps are attached."""
        return self._served.get(name, ())

    def connect(self, config: model.Guest, segments: Sequence[str], *, tags: bool) -> Wires:
        """Create and attach a guest's taps for these segments, and detach its other taps.

        `tags`: the guest's tags decide the next hop. GuestError, DatapathError: the kernel refuses.
        """
        hop = self._datapath.hop_id(config.name)
        pairs: list[TapPair] = []
        loads: dict[str, Load] = {}
        for segment in segments:
            number = self._datapath.segment_id(segment)
            lan, wan = (tap.tap_name(hop, number, side) for side in Side)
            label = segment if len(segments) > 1 else ""
            pairs.append(TapPair(lan, wan, label, port_addresses(config, hop, len(pairs))))
            for device, side in ((lan, Side.LAN), (wan, Side.WAN)):
                tap.ensure(device)
                self._datapath.attach_hop(device, config.name, segment, side, tags=tags)
                loads[device] = self._datapath.load(config.name, segment, side)
        for segment in self.served(config.name):
            if segment not in segments:
                self._datapath.detach_hop(config.name, segment)
        self._served[config.name] = tuple(segments)
        third = management_port.port(config, hop, self._lan)

        def mtus() -> tuple[int, ...]:
            return tuple(self._datapath.mtu(segment) for segment in segments)

        return Wires(hop, tuple(pairs), loads, mtus, third)

    def retag(self, guest: Guest, on: bool) -> None:
        """Let a guest's tags decide the next hop, or not."""
        for segment, pair in zip(self.served(guest.name), guest.pairs, strict=False):
            for device, side in ((pair.lan, Side.LAN), (pair.wan, Side.WAN)):
                self._datapath.attach_hop(device, guest.name, segment, side, tags=on)

    def disconnect(self, name: str) -> None:
        """Detach the taps of a guest that was removed."""
        try:
            self._datapath.detach_hop(name)
        except BypassError as error:
            log.error("guest %s: its taps stay attached: %s", name, error)
        self._served.pop(name, None)

    def remove_others(self, guests: Iterable[Guest]) -> None:
        """Remove the taps and third ports that belong to none of these guests."""
        guests = list(guests)
        wanted = {device for guest in guests for pair in guest.pairs for device in (pair.lan, pair.wan)}
        management_port.tidy(((guest.config, guest.hop_number) for guest in guests), self._lan)
        for device in tap.existing():
            if device not in wanted:
                try:
                    tap.remove(device)
                except GuestError as error:
                    log.warning("%s; it is kept", error)
