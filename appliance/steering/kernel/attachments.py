# SPDX-License-Identifier: GPL-2.0-only
"""The devices of a datapath: ports and taps in their slots (slots.py), each attached by XDP or tc (attacher.py).

Owns both and the links of the attached programs, as long as the datapath is open; what is pinned stays attached without
it. Calls are short and synchronous, made from one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from contextlib import suppress

from appliance.errors import DatapathError
from appliance.steering.kernel.attacher import Attacher
from appliance.steering.kernel.layout import Side, slot
from appliance.steering.kernel.links import FILLING, Links, Standing, View
from appliance.steering.kernel.objects import Kernel
from appliance.steering.kernel.slots import Attachment, Numbers, Slots
from appliance.system import netdev_facts as devices


class Attachments:
    """What is attached. `first_program(segment)`: the program that the ports of a segment (number) may begin in, or
    None for the common entry; `copy_flags` and `key` as in `Slots`."""

    def __init__(
        self,
        kernel: Kernel,
        names: Numbers,
        first_program: Callable[[int], int | None],
        copy_flags: Callable[[int], int],
        key: Callable[[str], int],
    ) -> None:
        self._names, self._first_program = names, first_program
        self._slots = Slots(kernel, names, copy_flags, key)
        names_of = {"xdp": "entry_xdp", FILLING: "entry_filling_xdp", "tc": "entry_tc"}
        entries = {which: kernel.programs[name] for which, name in names_of.items()}
        self._links = Links(entries, kernel.pins / "links" if kernel.pins is not None else None)
        self._attacher = Attacher(self._slots, self._links)

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
            self._slots.enter(Attachment(slot(0, number, side), port, segment, side, "", "", ""), tags=False)
        self._attacher.attach_ports(segment, places, mode, mtu, whole=whole, patient=patient)
        self._slots.measure(segment)
        self.shorten()
        return self._slots[slot(0, number, Side.LAN)], self._slots[slot(0, number, Side.WAN)]

    def mtu(self, segment: str) -> int:
        """The MTU that a segment's frames have; 0: its ports are not attached."""
        return min((port.device.mtu for port in self._slots.ports(segment)), default=0)

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
        self._slots.enter(Attachment(place, tap, segment, side, hop, "", ""), tags)
        placed = self._slots[place]
        self._attacher.attach_tap(placed, mode)
        self._slots.measure(segment)
        return placed

    def shorten(self) -> None:
        """Have the ports' frames begin in the present policy's own programs, where it has such."""
        for attached in self._slots.all():
            if not attached.hop:
                with suppress(DatapathError):  # what is there leads to the entry, which knows the present policy
                    number = self._names.number("segment", attached.segment)
                    self._links.shorten(attached.slot, self._first_program(number))

    # -- what other programs do to them

    @property
    def changes(self) -> int:
        """Counts our own changes: what was seen of a device before the last one says nothing."""
        return self._links.changes

    def standings(self, views: Mapping[int, View]) -> list[tuple[Attachment, Standing]]:
        """What is not as we left it, by what the kernel says of the devices (by slot)."""
        found = [(self._slots[place], self._links.standing(place, view)) for place, view in views.items()]
        return [(attached, standing) for attached, standing in found if standing is not Standing.RIGHT]

    def mend(self, attachment: Attachment) -> None:
        """Attach again what another program detached, replaced or stands before. Errors as `Links.mend`."""
        self._links.mend(attachment.slot)
        self.shorten()

    def withdraw(self, hops: Set[tuple[str, str]]) -> None:
        """These hops (name, segment) get no frames, because what comes out of one of their taps would be lost."""
        self._slots.withdraw(hops)

    def begins_in(self, attachment: Attachment) -> int | None:
        """The id of the program that the device's frames begin in."""
        return self._links.program(attachment.slot)

    def write_devices(self) -> None:
        """Write every device's flags anew: somebody wants copies of frames, or no longer does."""
        self._slots.write_devices()

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
        for place in {*self._links.slots(), *self._slots.places()}:
            if place // 32 == number and (segment is None or place // 2 % 16 == self._names.number("segment", segment)):
                self._detach(place)

    def _detach(self, place: int) -> None:
        ifindex = self._slots.send_nothing_to(place)
        self._links.detach(place)
        self._slots.leave(place, ifindex)

    def drop_unclaimed(self) -> list[int]:
        """After a restart: detach what was adopted and has not been attached again since. Returns the slots."""
        gone = [place for place in self._links.slots() if place not in self._slots]
        for place in gone:
            self._detach(place)
        return gone

    def ifindex(self, place: int) -> int | None:
        """Of the device in this slot; None: there is none."""
        return self._slots.ifindex(place)

    def all(self) -> list[Attachment]:
        """Everything that is attached, ports first."""
        return self._slots.all()

    def steers(self, attachment: Attachment) -> bool:
        """Whether it is the tap of a hop that chooses by tags where its frames go."""
        return self._slots.steers(attachment)

    def detach_all(self) -> None:
        """Take out everything, also what an earlier process attached."""
        for place in {*self._links.slots(), *self._slots.places()}:
            self._detach(place)

    def close(self) -> None:
        """Let go of the links; pinned ones stay attached."""
        self._links.close()
