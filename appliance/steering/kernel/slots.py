# SPDX-License-Identifier: GPL-2.0-only
"""Which device is in which slot, and its entries in the tables `devices`, `targets` and `tx`.

Knows nothing about programs: a device with a slot may not be attached yet, and an attached one may have been left by an
earlier process.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass
from socket import htonl
from typing import Protocol

from appliance.errors import HardwareError
from appliance.steering.kernel import layout, losses
from appliance.steering.kernel.layout import Role, Side, slot
from appliance.steering.kernel.objects import Kernel
from appliance.system import netdev_facts as devices


class Numbers(Protocol):
    """Numbers of hops and segments (steering/names.py)."""

    def get(self, kind: str, name: str) -> int | None:
        """The number, or None if the name never had one."""
        ...

    def number(self, kind: str, name: str) -> int:
        """The number; a new one if the name had none."""
        ...


@dataclass
class Attachment:
    """A device in its slot, for `show segments`: how frames are taken from it, and why."""

    slot: int
    device: devices.Device
    segment: str
    side: Side
    hop: str  # "" for a port
    mode: str  # "xdp" | "tc"
    reason: str
    out: devices.Device | None = None  # a hop: where XDP sends frames for it; None: the same device

    @property
    def sent_by(self) -> devices.Device:
        """The device by which XDP sends frames to the slot."""
        return self.out or self.device


class Slots:
    """The slots of one datapath. `copy_flags(slot)`: the device's flags for the copies that are wanted; `key(hop)`: the
    key by which the heartbeats of a hop (name) are recognized."""

    def __init__(
        self, kernel: Kernel, names: Numbers, copy_flags: Callable[[int], int], key: Callable[[str], int]
    ) -> None:
        self._maps, self._names, self._own_ways = kernel.maps, names, kernel.own_ways
        self._own: set[int] = set()  # slots of ports whose device has its own program
        self._losses = losses.Place(kernel)
        self._copy_flags, self._key = copy_flags, key
        self._attached: dict[int, Attachment] = {}
        self._tags: dict[int, bool] = {}  # by slot: the hop may use tags
        self.withdrawn: Set[tuple[str, str]] = frozenset()  # hop and segment: see `withdraw`

    # -- the devices

    def __getitem__(self, place: int) -> Attachment:
        return self._attached[place]

    def __contains__(self, place: int) -> bool:
        return place in self._attached

    def places(self) -> Set[int]:
        """The slots that have a device."""
        return self._attached.keys()

    def all(self) -> list[Attachment]:
        """Everything that is attached, ports first."""
        return [attachment for _, attachment in sorted(self._attached.copy().items())]

    def of(self, segment: str) -> list[Attachment]:
        """What is attached for a segment."""
        return [attachment for attachment in list(self._attached.values()) if attachment.segment == segment]

    def ports(self, segment: str) -> list[Attachment]:
        """The ports of a segment."""
        return [attachment for attachment in self.of(segment) if not attachment.hop]

    def ifindex(self, place: int) -> int | None:
        """The ifindex of the device in this slot; None: the slot is free."""
        attached = self._attached.get(place)
        return attached.device.ifindex if attached is not None else None

    def steers(self, attachment: Attachment) -> bool:
        """Whether it is the tap of a hop that chooses the next hop by tags."""
        return self._tags.get(attachment.slot, False)

    # -- the tables

    def enter(self, attachment: Attachment, tags: bool) -> None:
        """Write a device into the tables before its first frame can arrive. HardwareError: its ifindex is too large."""
        device, place = attachment.device, attachment.slot
        if device.ifindex >= layout.MAX_DEVICES:
            raise HardwareError(f"{device.name}: ifindex {device.ifindex} is beyond {layout.MAX_DEVICES - 1}")
        old = self._maps["targets"].get(place)
        if old is not None and old.ifindex not in (0, device.ifindex):
            self.let_own(place, False)
            self._maps["devices"].set(old.ifindex, layout.DeviceValue())
        known = self._attached.get(place)
        out = attachment.out.ifindex if attachment.out is not None else 0
        if known is not None and known.out is not None and known.out.ifindex != out:
            self._maps["devices"].set(known.out.ifindex, layout.DeviceValue())
        if known is not None:
            attachment.mode, attachment.reason = known.mode, known.reason
        self._attached[place] = attachment
        self._losses.watch_this_namespace()
        self._maps["tx"].set(place, attachment.sent_by.ifindex)
        self._tags[place] = tags
        self.measure(attachment.segment)

    def measure(self, segment: str) -> None:
        """Write how long a frame each device of the segment accepts, for the programs that send to it."""
        for attachment in self._attached.values():
            if attachment.segment == segment:
                device, out = attachment.device, attachment.sent_by
                flags = layout.TARGET_SG if out.sends_several() else 0
                longest = min(device.longest, out.longest)
                value = layout.TargetValue(ifindex=device.ifindex, flags=flags, max=longest)
                if (attachment.hop, segment) in self.withdrawn:
                    value = layout.TargetValue()
                self._maps["targets"].set(attachment.slot, value)
                self._write_device(attachment, self._flags(attachment))

    def write_devices(self) -> None:
        """Rewrite every device's flags, because copies of frames are wanted, or no longer are."""
        for segment in {attachment.segment for attachment in self._attached.values()}:
            self.measure(segment)

    def withdraw(self, hops: Set[tuple[str, str]]) -> None:
        """These hops (name, segment) get no frames, because what comes out of one of their taps would be lost."""
        changed, self.withdrawn = hops ^ self.withdrawn, frozenset(hops)
        for segment in {segment for _, segment in changed}:
            self.measure(segment)

    def _write_device(self, attachment: Attachment, flags: int) -> None:
        number = self._names.number("segment", attachment.segment)
        # A port's frames leave by the other port; what a tap's hop sends out of its WAN side leaves by the WAN port.
        leaves = attachment.side if attachment.hop else attachment.side ^ 1
        peer = self._attached.get(slot(0, number, leaves))
        longest = peer.device.longest if peer is not None else layout.NO_MATCH
        if not attachment.hop and (flags or attachment.slot not in self._own):
            self._own_ways.write(0, 0, attachment.slot)
        value = layout.DeviceValue(
            role=Role.HOP if attachment.hop else Role.PORT,
            segment=number,
            side=attachment.side,
            hop=self._names.number("hop", attachment.hop) if attachment.hop else 0,
            slot=attachment.slot,
            flags=flags,
            peer_max=longest,
            peer_max_sg=longest if peer is None or peer.device.sends_several() else 0,
            key=htonl(self._key(attachment.hop)) if attachment.hop else 0,
        )
        self._maps["devices"].set(attachment.device.ifindex, value)
        if attachment.out is not None:  # what it loses is lost on the way to this slot
            self._maps["devices"].set(attachment.out.ifindex, value)
        if not attachment.hop and not flags and attachment.slot in self._own:
            self._own_ways.write(0, longest, attachment.slot)

    def let_own(self, place: int, own: bool) -> None:
        """Whether the port's frames begin in a program for it alone; that is then told what it may do."""
        if own is (place in self._own):
            return
        if own:
            self._own.add(place)
            self._write_device(self._attached[place], self._flags(self._attached[place]))
        else:
            self._own.discard(place)
            self._own_ways.write(0, 0, place)

    def _flags(self, attachment: Attachment) -> int:
        tags = layout.DEVICE_TAGS if self._tags.get(attachment.slot) else 0
        return tags | self._copy_flags(attachment.slot)

    def send_nothing_to(self, place: int) -> int:
        """Send no more frames to the slot; frames from it are still forwarded. Returns the device's ifindex, or 0."""
        target = self._maps["targets"].get(place)
        self._maps["targets"].set(place, layout.TargetValue())
        self._maps["tx"].delete(place)
        return target.ifindex if target is not None else 0

    def leave(self, place: int, ifindex: int) -> None:
        """Free the slot: the device with this ifindex no longer has a program of ours."""
        if place < layout.MAX_SEGMENTS * 2:
            self.let_own(place, False)
            self._own_ways.write(0, 0, place)
        if ifindex:
            self._maps["devices"].set(ifindex, layout.DeviceValue())
        left = self._attached.pop(place, None)
        if left is not None and left.out is not None:
            self._maps["devices"].set(left.out.ifindex, layout.DeviceValue())
