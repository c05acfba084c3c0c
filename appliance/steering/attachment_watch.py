# SPDX-License-Identifier: GPL-2.0-only
"""Checks that the datapath is still attached where we put it: asks the kernel about each device, repairs what it can.

Another program may detach ours, replace it, or put itself before it; the descriptors that we hold do not show the last.
Ours is then attached again at once. If another XDP program has the place, or a program keeps coming back, the segment
has a fault and its relay goes to bypass. A hop whose tap cannot be repaired gets no frames, because those that it sends
would be lost.

Lives as long as the part "steering".
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Mapping, Set
from typing import NamedTuple, Protocol

from appliance.causes import Cause
from appliance.contest import Contest
from appliance.errors import DatapathError
from appliance.steering.kernel.links import Standing, View, read_view
from appliance.steering.kernel.slots import Attachment
from appliance.system import netlink

log = logging.getLogger(__name__)


class Fault(NamedTuple):
    """Why a segment cannot be inline."""

    cause: Cause
    detail: str


class Devices(Protocol):
    """What is watched: Attachments, as far as this module needs them."""

    @property
    def changes(self) -> int: ...
    def all(self) -> list[Attachment]: ...
    def standings(self, views: Mapping[int, View]) -> list[tuple[Attachment, Standing]]: ...
    def mend(self, attachment: Attachment) -> None: ...
    def withdraw(self, hops: Set[tuple[str, str]]) -> None: ...


class Seen(NamedTuple):
    """What the kernel said. `changes`: our own changes before it was asked."""

    changes: int
    views: dict[int, View]


_DONE = {
    Standing.DETACHED: "another program detached the datapath",
    Standing.REPLACED: "another program replaced the datapath's program",
    Standing.BEHIND: "another program was put before the datapath",
}


class AttachmentWatch:
    """See the module. `repaired(port, cause, how)` is called for each repair on a port."""

    def __init__(
        self, repaired: Callable[[str, Cause, str], None], hold: Callable[[str], str] = lambda segment: ""
    ) -> None:
        """`hold`: see `Steering`."""
        self._repaired, self._hold = repaired, hold
        self._contests: dict[int, tuple[Contest, Fault | None]] = {}  # by slot
        self._said: dict[int, str] = {}  # by slot: what is wrong, logged once
        self.faults: dict[str, Fault] = {}  # by segment
        self.cleared: set[str] = set()  # segments from whose ports another XDP program has gone: see `Steering`
        self._blocked: set[str] = set()

    def judge(self, devices: Devices, seen: Seen, now: int) -> None:
        """Repair what differs in the kernel, and determine the faults."""
        if seen.changes != devices.changes:
            return  # it is as we have made it since
        faults: dict[str, Fault] = {}
        hopeless: set[tuple[str, str]] = set()
        wrong = devices.standings(seen.views)
        for attached, standing in wrong:
            fault = self._mend(devices, attached, standing, seen.views[attached.slot], now)
            if fault is not None and attached.hop:
                hopeless.add((attached.hop, attached.segment))
            elif fault is not None:
                faults.setdefault(attached.segment, fault)
            self._tell(attached, fault.detail if fault else "")
        for attached in self._right(devices, seen, wrong):
            contest, fault = self._contests.get(attached.slot, (None, None))
            if contest is not None and fault is not None and contest.going_on(now) and not attached.hop:
                faults.setdefault(attached.segment, fault)
            self._tell(attached, "")
        devices.withdraw(hopeless)
        blocked = {attached.segment for attached, standing in wrong if standing is Standing.BLOCKED}
        self.cleared |= self._blocked - blocked
        self._blocked = blocked
        self.faults = faults

    def forgive(self) -> None:
        """An operator has made sure that no other program interferes any more."""
        self._contests.clear()

    @staticmethod
    def _right(devices: Devices, seen: Seen, wrong: list[tuple[Attachment, Standing]]) -> list[Attachment]:
        others = {attached.slot for attached, _ in wrong}
        return [each for each in devices.all() if each.slot in seen.views and each.slot not in others]

    def _mend(self, devices: Devices, attached: Attachment, standing: Standing, view: View, now: int) -> Fault | None:
        """Repair one attachment; returns the fault if that is not enough."""
        name = attached.device.name
        if standing is Standing.BLOCKED:
            return Fault(Cause.FOREIGN_PROGRAM, f"{name}: XDP program {view.xdp} takes frames before the datapath's tc")
        held = "" if attached.hop or attached.mode != "xdp" else self._hold(attached.segment)
        if held:  # it is repaired when this fault has brought the segment to bypass
            return Fault(Cause.PROGRAM_DETACHED, f"{name}: {_DONE[standing]}; {held}")
        try:
            devices.mend(attached)
        except DatapathError as error:
            if error.code in (errno.EBUSY, errno.EEXIST) and view.xdp:
                return Fault(Cause.FOREIGN_PROGRAM, f"{name}: XDP program {view.xdp} has the datapath's place")
            return Fault(Cause.PROGRAM_DETACHED, f"{name}: cannot be attached again: {error}")
        contest, _ = self._contests.get(attached.slot, (Contest(), None))
        often = contest.repaired(now)
        if not often:  # a single repair is reported here, a contest by its fault
            log.warning("%s: %s; it is attached again", name, _DONE[standing])
        if not often and not attached.hop:
            self._repaired(name, Cause.PROGRAM_DETACHED, f"{_DONE[standing]}; it was attached again")
        fault = Fault(Cause.PROGRAM_DETACHED, f"{name}: {_DONE[standing]} {often} times in a minute") if often else None
        self._contests[attached.slot] = contest, fault
        return fault

    def _tell(self, attached: Attachment, trouble: str) -> None:
        if trouble and self._said.get(attached.slot) != trouble:
            log.error("%s", trouble)
        if trouble:
            self._said[attached.slot] = trouble
        else:
            self._said.pop(attached.slot, None)


def look(devices: Devices) -> Callable[[], Seen]:
    """Note what is attached; the returned function asks the kernel about it, in any thread. It raises OSError."""
    changes = devices.changes
    places = [(attached.slot, attached.device.ifindex, attached.mode) for attached in devices.all()]

    def ask() -> Seen:
        views = {}
        links = netlink.read_links({ifindex for _, ifindex, _ in places})
        for slot, ifindex, mode in places:
            link = links[ifindex]
            if link is None:
                continue  # a port's device is the matter of the part "links", a tap's that of its guest
            try:
                views[slot] = read_view(ifindex, mode, link.program)
            except DatapathError:
                continue  # it went away meanwhile
        return Seen(changes, views)

    return ask
