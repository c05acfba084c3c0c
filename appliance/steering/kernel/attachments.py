# SPDX-License-Identifier: GPL-2.0-only
"""The devices of a datapath: ports and taps in their slots, each attached by XDP or tc.

Owns what the tables say about devices (`devices`, `targets`, `tx`) and the links of the attached programs, as long as
the datapath is open; what is pinned stays attached without it. Calls are short and synchronous, made from one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from socket import htonl
from typing import Protocol

from appliance.errors import DatapathError, HardwareError
from appliance.steering.kernel import attach_mode, layout, losses
from appliance.steering.kernel.layout import Role, Side, slot
from appliance.steering.kernel.links import FILLING, Links, Standing, View
from appliance.steering.kernel.objects import Kernel
from appliance.system import netdev_facts as devices
from appliance.system import offloads


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


class _UnfitError(DatapathError):
    """Native XDP is there, but cannot do what is needed."""


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
        self._losses = losses.Place(kernel)
        self._first_program, self._copy_flags, self._key = first_program, copy_flags, key
        names_of = {"xdp": "entry_xdp", FILLING: "entry_filling_xdp", "tc": "entry_tc"}
        entries = {which: kernel.programs[name] for which, name in names_of.items()}
        self._links = Links(entries, kernel.pins / "links" if kernel.pins is not None else None)
        self._attached: dict[int, Attachment] = {}
        self._tags: dict[int, bool] = {}  # by slot: the hop may use tags
        self._withdrawn: Set[tuple[str, str]] = frozenset()  # hop and segment: see `withdraw`
        self._may_change: dict[str, bool] = {}  # by segment: the configuration leaves the choice of its mode to us
        self._asked: dict[str, tuple[str, int]] = {}  # by segment: mode and MTU of the configuration
        self._altering: dict[str, tuple[str, ...]] = {}  # by port: what its hardware does to frames, in words

    def attach_segment(
        self,
        segment: str,
        lan: str,
        wan: str,
        mode: str = "auto",
        *,
        whole: bool = False,
        mtu: int = 0,
        patient: bool = False,
    ) -> tuple[Attachment, Attachment]:
        """Put a segment's two ports (device names) in line. Idempotent; frames flow from the return on.

        `mode` "auto" takes native XDP when both ports have it and it loses nothing, else tc: XDP can only send to
        devices that take part. `mtu`: of both ports; 0 takes the largest that XDP allows, and leaves it as it is when
        they are attached again. `whole`: frames come with finished checksums, as from a wire, also where the device
        would leave them (a veth). `patient`: a passing error is raised, and the next mode not tried: the caller will
        call again.
        HardwareError when a device is missing; DatapathError when the kernel refuses the mode or the MTU that was asked
        for, or XDP would lose something.
        """
        ports = {Side.LAN: devices.read(lan), Side.WAN: devices.read(wan)}
        number = self._names.number("segment", segment)
        places = {slot(0, number, side): port for side, port in ports.items()}
        for side, port in ports.items():
            self._enter_tables(Attachment(slot(0, number, side), port, segment, side, "", "", ""), tags=False)
        self._altering |= {port.name: offloads.switch_off(port.name) for port in ports.values()}
        attempt, reason = self._attach_ports(segment, tuple(places), mode, mtu, whole=whole, patient=patient)
        for place in places:
            self._attached[place].mode, self._attached[place].reason = attempt, reason
        self._may_change[segment], self._asked[segment] = mode == "auto", (mode, mtu)
        self._measure(segment)
        self.shorten()
        return self._attached[slot(0, number, Side.LAN)], self._attached[slot(0, number, Side.WAN)]

    def _attach_ports(
        self, segment: str, places: tuple[int, ...], mode: str, mtu: int, *, whole: bool, patient: bool
    ) -> tuple[str, str]:
        """Attach a segment's ports by the best mode, with the largest MTU that goes with it; the mode, and why."""
        who = f"segment {segment}"
        there = {place: self._attached[place].device for place in places}
        hops = [one.hop for one in self._of(segment) if one.hop and not one.device.sends_several()]
        problem = attach_mode.refusal(mode, self._facts(there.values()))
        if problem:
            raise DatapathError(f"{who}: {problem}")
        why = "" if mode == "auto" else "asked for by `attach`"
        accepted: int | None = None
        for size in self._sizes(segment, there, (mode, mtu)):
            if not self._resize(there, size, demanded=mtu != 0, may_change=mode == "auto"):
                continue
            accepted = size if accepted is None else accepted
            choice = attach_mode.choose(mode, self._facts(there.values()), hops)
            if choice.tried[0] != "xdp":
                why = why or choice.reason
                break
            several = attach_mode.in_several_buffers(self._facts(there.values()))
            try:
                self._attach(there, "xdp", who, whole=whole, several=bool(several))
            except _UnfitError as error:
                why = str(error)
                break
            except DatapathError as error:
                if patient and error.passing:
                    raise
                why = str(error)
                if all(one.has_xdp() for one in there.values()):
                    continue  # perhaps with shorter frames
                break
            if several and hops:
                why = f"{why}; {several}, which skip {', '.join(dict.fromkeys(hops))}"
            return "xdp", why or "both ports have native XDP"
        if mode == "xdp":
            raise DatapathError(why)
        self._resize(there, accepted or 0)
        self._attach(there, "tc", who, whole=whole)
        return "tc", why.removeprefix(f"{who}: ")

    def _sizes(self, segment: str, there: dict[int, devices.Device], asked: tuple[str, int]) -> tuple[int, ...]:
        """The MTUs to try, in order; 0: as it is. Ports in line keep theirs, as a driver may lose the link over it."""
        _, mtu = asked
        if mtu:
            return (mtu,)
        in_line = all(self._links.mode(place, port.ifindex) is not None for place, port in there.items())
        if in_line and self._asked.get(segment, asked) == asked:
            return (0,)
        return (*attach_mode.auto_mtus(self._facts(there.values())), 0)

    def _resize(
        self, there: dict[int, devices.Device], size: int, *, demanded: bool = False, may_change: bool = False
    ) -> bool:
        """Give these ports an MTU (0: as it is); False: one of them does not take it, and they are as before.

        `demanded`: the configuration wants it, so that this is an error. `may_change`: where a driver refuses it
        because of XDP, leave XDP first.
        """
        before = dict(there)
        for place, port in before.items():
            try:
                there[place] = port.resized(size or port.mtu)
            except OSError as error:
                if may_change and demanded and self._links.mode(place, port.ifindex) == "xdp":
                    for one, other in before.items():
                        self._links.attach(one, other.ifindex, "tc")
                    there.update(before)
                    return self._resize(there, size, demanded=demanded)
                for one, other in before.items():
                    with suppress(OSError):
                        there[one] = other.resized(other.mtu)
                if demanded:
                    what = f"{port.name} ({port.driver}): an MTU of {size} is refused: {error.strerror}"
                    raise DatapathError(f"{what}; it has {port.mtu}") from error
                return False
        for place, port in there.items():
            self._attached[place].device = port
        return True

    def _of(self, segment: str) -> list[Attachment]:
        return [attachment for attachment in self._attached.values() if attachment.segment == segment]

    def _facts(self, ports: Iterable[devices.Device]) -> list[attach_mode.PortFacts]:
        return [
            attach_mode.PortFacts(
                port.name, port.driver, port.mtu, port.delivers_several(), self._altering.get(port.name, ())
            )
            for port in ports
        ]

    def mtu(self, segment: str) -> int:
        """The MTU that a segment's frames have; 0: its ports are not attached."""
        return min((one.device.mtu for one in self._of(segment) if not one.hop), default=0)

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
        ports = [one for one in self._of(segment) if not one.hop]
        by_xdp = any(port.mode == "xdp" for port in ports)
        if by_xdp and not tap.sends():
            self._leave_xdp(segment, f"XDP cannot send to {tap.name} ({tap.driver}) of hop {hop}")
        elif by_xdp and not tap.sends_several():
            self._mind_long_frames(segment, ports, hop)
        tried = ("tc",) if any(port.mode == "tc" for port in ports) else ("xdp", "tc")
        placed = self._attached[place]
        placed.mode, placed.reason = self._attach_tap(place, tap, tried if mode == "auto" else (mode,), hop, segment)
        if mode != "auto":
            placed.reason = "asked for"
        self._measure(segment)
        return placed

    def _mind_long_frames(self, segment: str, ports: list[Attachment], hop: str) -> None:
        """A hop whose taps take no frames in several buffers is there: such frames must not go around it."""
        several = attach_mode.in_several_buffers(self._facts(port.device for port in ports))
        if not several:
            return
        if self._may_change.get(segment, True):
            self._leave_xdp(segment, f"{several}, which guests get by tc only")
        for port in ports:
            if port.mode == "xdp" and several not in port.reason:
                port.reason = f"{port.reason}; {several}, which skip {hop}"

    def _attach_tap(
        self, place: int, tap: devices.Device, tried: tuple[str, ...], hop: str, segment: str
    ) -> tuple[str, str]:
        """Attach a tap by the first mode that works; that mode, and why not an earlier one."""
        reason = f"as the ports of segment {segment}"
        for attempt in tried:
            try:
                self._attach({place: tap}, attempt, f"hop {hop}")
            except DatapathError as error:
                if attempt == tried[-1]:
                    raise
                reason = str(error)
                continue
            return attempt, reason
        raise DatapathError(f"hop {hop}: no mode to attach by")

    def _attach(
        self, places: dict[int, devices.Device], mode: str, who: str, *, whole: bool = False, several: bool = False
    ) -> None:
        """Attach all of these. `several`: frames in several buffers come, too. DatapathError names the device.

        _UnfitError: XDP is there and not good enough.
        """
        device = next(iter(places.values()))
        try:
            for place, device in places.items():
                self._links.attach(place, device.ifindex, mode, filling=device.leaves_checksums and not whole)
        except DatapathError as error:
            what = "no native XDP: " if mode == "xdp" else "tc: "
            raise DatapathError(f"{who}: {device.name} ({device.driver}): {what}{error}", error.code) from error
        # Only now: some drivers can be sent to only while a program is attached.
        for device in places.values() if mode == "xdp" else ():
            if not device.sends():
                raise _UnfitError(f"{who}: {device.name} ({device.driver}): XDP cannot send to it")
            if several and not device.sends_several():
                what = "XDP cannot send frames in several buffers to it"
                raise _UnfitError(f"{who}: {device.name} ({device.driver}): {what}")

    def shorten(self) -> None:
        """Have the ports' frames begin in the present policy's own programs, where it has such."""
        for place, attached in self._attached.items():
            if not attached.hop:
                with suppress(DatapathError):  # what is there leads to the entry, which knows the present policy
                    self._links.shorten(place, self._first_program(self._names.number("segment", attached.segment)))

    # -- what other programs do to them

    @property
    def changes(self) -> int:
        """Counts our own changes: what was seen of a device before the last one says nothing."""
        return self._links.changes

    def standings(self, views: Mapping[int, View]) -> list[tuple[Attachment, Standing]]:
        """What is not as we left it, by what the kernel says of the devices (by slot)."""
        found = [(self._attached[place], self._links.standing(place, view)) for place, view in views.items()]
        return [(attached, standing) for attached, standing in found if standing is not Standing.RIGHT]

    def mend(self, attachment: Attachment) -> None:
        """Attach again what another program detached, replaced or stands before. Errors as `Links.mend`."""
        self._links.mend(attachment.slot)
        self.shorten()

    def withdraw(self, hops: Set[tuple[str, str]]) -> None:
        """These hops (name, segment) get no frames, because what comes out of one of their taps would be lost."""
        changed, self._withdrawn = hops ^ self._withdrawn, frozenset(hops)
        for segment in {segment for _, segment in changed}:
            self._measure(segment)

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
        self._losses.watch_this_namespace()
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
                if (attachment.hop, segment) in self._withdrawn:
                    value = layout.TargetValue()
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

    def steers(self, attachment: Attachment) -> bool:
        """Whether it is the tap of a hop that chooses by tags where its frames go."""
        return self._tags.get(attachment.slot, False)

    def detach_all(self) -> None:
        """Take out everything, also what an earlier process attached."""
        for place in {*self._links.slots(), *self._attached}:
            self._detach(place)

    def close(self) -> None:
        """Let go of the links; pinned ones stay attached."""
        self._links.close()
