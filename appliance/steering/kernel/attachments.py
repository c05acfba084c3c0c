# SPDX-License-Identifier: GPL-2.0-only
"""The devices of a datapath: ports and taps in their slots (slots.py), each attached by XDP or tc (attacher.py).

Owns both and the links of the attached programs while the datapath is open; pinned links stay attached without it.
Calls are short and synchronous. They come from two threads, the event loop's and the one that switches the policy, so
what changes something takes its turn: a link's descriptor must not be closed while the other thread uses it.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

from appliance.errors import DatapathError
from appliance.steering.kernel.attacher import Attacher
from appliance.steering.kernel.layout import Side, slot
from appliance.steering.kernel.links import FILLING, Links, Standing, View
from appliance.steering.kernel.objects import Kernel
from appliance.steering.kernel.slots import Attachment, Numbers, Slots
from appliance.system import netdev_facts as devices

P = ParamSpec("P")
R = TypeVar("R")


def _in_turn(method: Callable[Concatenate[Attachments, P], R]) -> Callable[Concatenate[Attachments, P], R]:
    """One thread after the other."""

    @functools.wraps(method)
    def turn(self: Attachments, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._turn:
            return method(self, *args, **kwargs)

    return turn


class First(NamedTuple):
    """A program (descriptor) in which frames of ports begin. `own`: it is for one port, see `own_ways` in steer.h."""

    program: int
    own: bool


class Attachments:
    """What is attached. `first_program(slot)`: the program in which the frames of a port may begin, or None for the
    common entry; `copy_flags` and `key` as in `Slots`.

    `several`: slots of ports that deliver frames in several buffers, as far as known.
    """

    def __init__(
        self,
        kernel: Kernel,
        names: Numbers,
        first_program: Callable[[int], First | None],
        copy_flags: Callable[[int], int],
        key: Callable[[str], int],
    ) -> None:
        self._turn = threading.RLock()
        self._names, self._first_program = names, first_program
        self._slots = Slots(kernel, names, copy_flags, key)
        names_of = {"xdp": "entry_xdp", FILLING: "entry_filling_xdp", "tc": "entry_tc"}
        entries = {which: kernel.programs[name] for which, name in names_of.items()}
        self._links = Links(entries, kernel.pins / "links" if kernel.pins is not None else None)
        self._attacher = Attacher(self._slots, self._links)
        self.several: frozenset[int] = frozenset()

    def hold(self, hold: Callable[[str], str]) -> None:
        """`hold(segment)` says why no XDP program may come or go at its ports now; empty: it may."""
        self._attacher.hold = hold

    @_in_turn
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
        needs_tc: str = "",
    ) -> tuple[Attachment, Attachment]:
        """Put a segment's two ports (device names) in line. Idempotent; frames flow as soon as it returns.

        `mode` "auto" chooses native XDP if both ports have it and nothing is lost with it, else tc: XDP can only send
        to devices that have it. `mtu`: of both ports; 0 chooses the largest that XDP allows, and does not change it
        when they are attached again. `whole`: frames arrive with finished checksums, as from a wire, even from a device
        that may leave them unfinished (a veth). `patient`: raise a temporary error instead of trying the next mode,
        because the caller will call again. `needs_tc`: why the segment's hops need tc; "" if they do not.
        HardwareError if a device is missing; DatapathError if the kernel refuses the requested mode or MTU, or
        something would be lost with XDP.
        """
        ports = {Side.LAN: devices.read(lan), Side.WAN: devices.read(wan)}
        number = self._names.number("segment", segment)
        places = {slot(0, number, side): port for side, port in ports.items()}
        for side, port in ports.items():
            self._slots.enter(Attachment(slot(0, number, side), port, segment, side, "", "", ""), tags=False)
        self._attacher.attach_ports(segment, places, mode, mtu, whole=whole, patient=patient, needs_tc=needs_tc)
        several = {port.slot for port in self._slots.ports(segment) if self._attacher.delivers_several(port.device)}
        self.several = (self.several - places.keys()) | several
        self._slots.measure(segment)
        self.shorten()
        return self._slots[slot(0, number, Side.LAN)], self._slots[slot(0, number, Side.WAN)]

    def mtu(self, segment: str) -> int:
        """The MTU of a segment; 0: its ports are not attached."""
        return min((port.device.mtu for port in self._slots.ports(segment)), default=0)

    @_in_turn
    def attach_hop(
        self,
        device: str,
        hop: str,
        segment: str,
        side: Side,
        *,
        mode: str = "auto",
        tags: bool = False,
        out: str = "",
    ) -> Attachment:
        """Connect a hop's tap (device name) on one side. Idempotent; call it again after the tap was recreated.

        `tags`: the hop may choose the next one by a tag. `mode` "auto" is the mode of the segment's ports, or tc if
        the tap has no native XDP. A device that XDP cannot send to (a tunnel) makes the whole segment use tc, unless
        its mode is configured. `out`: another device, by which XDP sends frames to the hop. Errors as in
        `attach_segment`.
        """
        tap, sent_by = devices.read(device), devices.read(out) if out else None
        place = slot(self._names.number("hop", hop), self._names.number("segment", segment), side)
        self._slots.enter(Attachment(place, tap, segment, side, hop, "", "", sent_by), tags)
        placed = self._slots[place]
        self._attacher.attach_tap(placed, mode)
        self._slots.measure(segment)
        return placed

    @_in_turn
    def shorten(self) -> None:
        """Let the ports' frames begin in the current policy's own programs, if it has any."""
        for attached in self._slots.all():
            if not attached.hop:
                first = self._first_program(attached.slot)
                if first is not None and first.own and attached.slot in self.several:
                    first = None
                with suppress(DatapathError):  # the attached program leads to the entry, which knows the current policy
                    self._links.shorten(attached.slot, None if first is None else first.program)
                    self._slots.let_own(attached.slot, first is not None and first.own)

    # -- what other programs do to them

    @property
    def changes(self) -> int:
        """Counts our own changes: a view of a device from before the last change is void."""
        return self._links.changes

    def standings(self, views: Mapping[int, View]) -> list[tuple[Attachment, Standing]]:
        """Which attachments are not as we left them, according to the kernel's view of the devices (by slot)."""
        there = {attached.slot: attached for attached in self._slots.all()}  # another thread may detach one meanwhile
        found = [(there[place], self._links.standing(place, view)) for place, view in views.items() if place in there]
        return [(attached, standing) for attached, standing in found if standing is not Standing.RIGHT]

    @_in_turn
    def mend(self, attachment: Attachment) -> None:
        """Attach again what another program detached, replaced or precedes. Errors as in `Links.mend`.

        Nothing if it has been detached in another thread's turn.
        """
        if attachment.slot in self._links.slots():
            self._links.mend(attachment.slot)
            self.shorten()

    def withdraw(self, hops: Set[tuple[str, str]]) -> None:
        """These hops (name, segment) get no frames, because what comes out of one of their taps would be lost.

        Called every second from the event loop, which does not wait for its turn if that changes nothing: another
        thread may detach a device, for which the kernel takes half a second.
        """
        if hops != self._slots.withdrawn:
            with self._turn:
                self._slots.withdraw(hops)

    def begins_in(self, attachment: Attachment) -> int | None:
        """The id of the program in which the device's frames begin."""
        return self._links.program(attachment.slot)

    @_in_turn
    def write_devices(self) -> None:
        """Rewrite every device's flags, because copies of frames are wanted, or no longer are."""
        self._slots.write_devices()

    @_in_turn
    def detach_segment(self, segment: str) -> None:
        """Detach a segment's ports; its frames are then not forwarded (the relay should be in bypass)."""
        number = self._names.number("segment", segment)
        for side in Side:
            self._detach(slot(0, number, side))

    @_in_turn
    def detach_hop(self, hop: str, segment: str | None = None) -> None:
        """Detach a hop's taps, of one segment or of all."""
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

    @_in_turn
    def drop_unclaimed(self) -> list[int]:
        """After a restart: detach what was adopted and has not been attached again since. Returns the slots."""
        gone = [place for place in self._links.slots() if place not in self._slots]
        for place in gone:
            self._detach(place)
        return gone

    def ifindex(self, place: int) -> int | None:
        """The ifindex of the device in this slot; None: the slot is free."""
        return self._slots.ifindex(place)

    def all(self) -> list[Attachment]:
        """Everything that is attached, ports first."""
        return self._slots.all()

    def steers(self, attachment: Attachment) -> bool:
        """Whether it is the tap of a hop that chooses the next hop by tags."""
        return self._slots.steers(attachment)

    @_in_turn
    def detach_all(self) -> None:
        """Detach everything, including what an earlier process attached."""
        for place in {*self._links.slots(), *self._slots.places()}:
            self._detach(place)

    @_in_turn
    def close(self) -> None:
        """Close the links; pinned ones stay attached."""
        self._links.close()
