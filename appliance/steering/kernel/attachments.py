# SPDX-License-Identifier: GPL-2.0-only
"""The devices of a datapath: ports and taps in their slots, each attached by XDP or tc.

Owns what the tables say about devices (`devices`, `targets`, `tx`) and the links of the attached programs, as long as
the datapath is open; what is pinned stays attached without it. Calls are short and synchronous, made from one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from socket import htonl
from typing import Protocol

from appliance.errors import DatapathError, HardwareError
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Role, Side, slot
from appliance.steering.kernel.links import FILLING, Links
from appliance.steering.kernel.objects import Kernel
from appliance.system import netdev_facts as devices


class Numbers(Protocol):
    """The numbers of hops and segments (steering/names.py)."""

    def get(self, kind: str, name: str) -> int | None:
        """The number, or None when the name never had one."""
        ...

    def number(self, kind: str, name: str) -> int:
        """The number, given now when the name had none."""
        ...


@dataclass
class Attachment:
    """A device in its place, for `show segments`: how frames are taken from it, and why so."""

    slot: int
    device: devices.Device
    segment: str
    side: Side
    hop: str  # "" for a port
    mode: str  # "xdp" | "tc"
    reason: str


class Attachments:
    """What is attached. `first_program(segment)`: the program that the ports of a segment (number) may begin in, or
    None for the common entry; `copy_flags(slot)`: what the device there must know of the copies that are wanted;
    `key(hop)`: by which the heartbeats of a hop (name) are recognized."""

    def __init__(
        self,
        kernel: Kernel,
        names: Numbers,
        first_program: Callable[[int], int | None],
        copy_flags: Callable[[int], int],
        key: Callable[[str], int],
    ) -> None:
        self._maps, self._names = kernel.maps, names
        self._first_program, self._copy_flags, self._key = first_program, copy_flags, key
        names_of = {"xdp": "entry_xdp", FILLING: "entry_filling_xdp", "tc": "entry_tc"}
        entries = {which: kernel.programs[name] for which, name in names_of.items()}
        self._links = Links(entries, kernel.pins / "links" if kernel.pins is not None else None)
        self._attached: dict[int, Attachment] = {}
        self._tags: dict[int, bool] = {}  # by slot: the hop may use tags
        self._may_change: dict[str, bool] = {}  # by segment: the configuration leaves the choice of its mode to us

    def attach_segment(
        self, segment: str, lan: str, wan: str, mode: str = "auto", *, whole: bool = False
    ) -> tuple[Attachment, Attachment]:
        """Put a segment's two ports (device names) in line. Idempotent; frames flow from the return on.

        `mode` "auto" takes native XDP when both ports have it, else tc: XDP can only send to devices that take part.
        `whole`: frames come with finished checksums, as from a wire, also where the device would leave them (a veth).
        HardwareError when a device is missing; DatapathError when the kernel refuses the mode that was asked for.
        """
        ports = {Side.LAN: devices.read(lan), Side.WAN: devices.read(wan)}
        number = self._names.number("segment", segment)
        places = {slot(0, number, side): port for side, port in ports.items()}
        for side, port in ports.items():
            self._enter_tables(Attachment(slot(0, number, side), port, segment, side, "", "", ""), tags=False)
        tried = ("xdp", "tc") if mode == "auto" else (mode,)
        attempt, reason = self._attach(places, tried, f"segment {segment}", whole=whole)
        for place in places:
            placed = self._attached[place]
            placed.mode = attempt
            placed.reason = "asked for by `attach`" if mode != "auto" else reason or "both ports have native XDP"
        self._may_change[segment] = mode == "auto"
        self._measure(segment)
        self.shorten()
        return self._attached[slot(0, number, Side.LAN)], self._attached[slot(0, number, Side.WAN)]

    def attach_hop(
        self, device: str, hop: str, segment: str, side: Side, *, mode: str = "auto", tags: bool = False
    ) -> Attachment:
        """Connect a hop's tap (device name) of one side. Idempotent; call again when the tap was made anew.

        `tags`: the hop may choose the next one by a tag. "auto" is the mode of the segment's ports, and tc where
        the tap has no native XDP. A device that XDP cannot send to (a tunnel) makes the whole segment use tc, unless
        its mode was asked for. Errors as `attach_segment`.
        """
        tap = devices.read(device)
        place = slot(self._names.number("hop", hop), self._names.number("segment", segment), side)
        self._enter_tables(Attachment(place, tap, segment, side, hop, "", ""), tags)
        port = self._attached.get(slot(0, self._names.number("segment", segment), Side.LAN))
        if port is not None and port.mode == "xdp" and not tap.sends():
            self._leave_xdp(segment, f"XDP cannot send to {tap.name} ({tap.driver}) of hop {hop}")
        tried = ("tc",) if port is not None and port.mode == "tc" else ("xdp", "tc")
        attempt, reason = self._attach({place: tap}, tried if mode == "auto" else (mode,), f"hop {hop}")
        placed = self._attached[place]
        placed.mode = attempt
        placed.reason = "asked for" if mode != "auto" else reason or f"as the ports of segment {segment}"
        self._measure(segment)
        return placed

    def _attach(
        self, places: dict[int, devices.Device], tried: tuple[str, ...], who: str, *, whole: bool = False
    ) -> tuple[str, str]:
        """Attach all of these by the first mode that works; that mode, and why not an earlier one."""
        reason = ""
        for attempt in tried:
            device = next(iter(places.values()))
            try:
                for place, device in places.items():
                    self._links.attach(place, device.ifindex, attempt, filling=device.leaves_checksums and not whole)
                # Only now: some drivers can be sent to only while a program is attached.
                unfit = [one for one in places.values() if attempt == "xdp" and not one.sends()]
                if unfit:
                    device = unfit[0]
                    raise DatapathError("XDP cannot send to it")
            except DatapathError as error:
                if attempt == tried[-1]:
                    raise DatapathError(f"{who}: {attempt} on {device.name} ({device.driver}): {error}") from error
                reason = f"{device.name} ({device.driver}): no native XDP: {error}"
                continue
            return attempt, reason
        raise DatapathError(f"{who}: no mode to attach by")

    def shorten(self) -> None:
        """Have the ports' frames begin in the present policy's own programs, where it has such."""
        for place, attached in self._attached.items():
            if not attached.hop:
                with suppress(DatapathError):  # what is there leads to the entry, which knows the present policy
                    self._links.shorten(place, self._first_program(self._names.number("segment", attached.segment)))

    def begins_in(self, attachment: Attachment) -> int | None:
        """The id of the program that the device's frames begin in."""
        return self._links.program(attachment.slot)

    def _leave_xdp(self, segment: str, reason: str) -> None:
        """Let the segment's devices use tc from now on; no frame is lost."""
        if not self._may_change.get(segment, True):
            raise DatapathError(f'segment {segment}: {reason}: set attach = "tc"')
        for place, attached in self._attached.items():
            if attached.segment == segment and attached.mode == "xdp":
                self._links.attach(place, attached.device.ifindex, "tc")
                attached.mode, attached.reason = "tc", reason

    def _enter_tables(self, attachment: Attachment, tags: bool) -> None:
        """Write the device into the tables, before its first frame can come."""
        device, place = attachment.device, attachment.slot
        if device.ifindex >= layout.MAX_DEVICES:
            raise HardwareError(f"{device.name}: ifindex {device.ifindex} is beyond {layout.MAX_DEVICES - 1}")
        old = self._maps["targets"].get(place)
        if old is not None and old.ifindex not in (0, device.ifindex):
            self._maps["devices"].set(old.ifindex, layout.DeviceValue())
        known = self._attached.get(place)
        if known is not None:
            attachment.mode, attachment.reason = known.mode, known.reason
        self._attached[place] = attachment
        self._maps["tx"].set(place, device.ifindex)
        self._tags[place] = tags
        self._measure(attachment.segment)

    def _measure(self, segment: str) -> None:
        """Write how long the frames are that each device of the segment takes; whoever sends to it must know."""
        for attachment in self._attached.values():
            if attachment.segment == segment:
                device = attachment.device
                flags = layout.TARGET_SG if device.sends_several() else 0
                value = layout.TargetValue(ifindex=device.ifindex, flags=flags, max=device.longest)
                self._maps["targets"].set(attachment.slot, value)
                tags = layout.DEVICE_TAGS if self._tags.get(attachment.slot) else 0
                self._write_device(attachment, tags | self._copy_flags(attachment.slot))

    def write_devices(self) -> None:
        """Write every device's flags anew: somebody wants copies of frames, or no longer does."""
        for segment in {attachment.segment for attachment in self._attached.values()}:
            self._measure(segment)

    def _write_device(self, attachment: Attachment, flags: int) -> None:
        number = self._names.number("segment", attachment.segment)
        # A port's frames leave by the other port; what a tap's hop sends out of its WAN side leaves by the WAN port.
        leaves = attachment.side if attachment.hop else attachment.side ^ 1
        peer = self._attached.get(slot(0, number, leaves))
        longest = peer.device.longest if peer is not None else layout.NO_MATCH
        self._maps["devices"].set(
            attachment.device.ifindex,
            layout.DeviceValue(
                role=Role.HOP if attachment.hop else Role.PORT,
                segment=number,
                side=attachment.side,
                hop=self._names.number("hop", attachment.hop) if attachment.hop else 0,
                slot=attachment.slot,
                flags=flags,
                peer_max=longest,
                peer_max_sg=longest if peer is None or peer.device.sends_several() else 0,
                key=htonl(self._key(attachment.hop)) if attachment.hop else 0,
            ),
        )

    def detach_segment(self, segment: str) -> None:
        """Take a segment's ports out; its frames then go nowhere (the relay should be in bypass)."""
        number = self._names.number("segment", segment)
        for side in Side:
            self._detach(slot(0, number, side))

    def detach_hop(self, hop: str, segment: str | None = None) -> None:
        """Take a hop's taps out, of one segment or of all."""
        number = self._names.get("hop", hop)
        if number is None:
            return
        for place in {*self._links.slots(), *self._attached}:
            if place // 32 == number and (segment is None or place // 2 % 16 == self._names.number("segment", segment)):
                self._detach(place)

    def _detach(self, place: int) -> None:
        target = self._maps["targets"].get(place)
        self._maps["targets"].set(place, layout.TargetValue())
        self._maps["tx"].delete(place)
        self._links.detach(place)
        if target is not None and target.ifindex:
            self._maps["devices"].set(target.ifindex, layout.DeviceValue())
        self._attached.pop(place, None)

    def drop_unclaimed(self) -> list[int]:
        """After a restart: detach what was adopted and has not been attached again since. Returns the slots."""
        gone = [place for place in self._links.slots() if place not in self._attached]
        for place in gone:
            self._detach(place)
        return gone

    def ifindex(self, place: int) -> int | None:
        """Of the device in this slot; None: there is none."""
        attached = self._attached.get(place)
        return attached.device.ifindex if attached is not None else None

    def all(self) -> list[Attachment]:
        """Everything that is attached, ports first."""
        return [self._attached[place] for place in sorted(self._attached)]

    def detach_all(self) -> None:
        """Take out everything, also what an earlier process attached."""
        for place in {*self._links.slots(), *self._attached}:
            self._detach(place)

    def close(self) -> None:
        """Let go of the links; pinned ones stay attached."""
        self._links.close()
