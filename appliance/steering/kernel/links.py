# SPDX-License-Identifier: GPL-2.0-only
"""Where the datapath's entry programs are attached: one BPF link a device, pinned by slot.

Owns the links' descriptors. A pinned link stays attached without this process; an unpinned one goes with it. Another
program may detach or replace what is attached all the same: `standing` compares with what the kernel says of a device.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from appliance.errors import DatapathError
from appliance.system import libbpf

FILLING = "filling"  # by XDP, for devices that hand over frames whose checksums are not finished
_ATTACH = {"xdp": (libbpf.BPF_XDP, libbpf.XDP_FLAGS_DRIVER), "tc": (libbpf.BPF_TCX_INGRESS, libbpf.BPF_F_BEFORE)}


class View(NamedTuple):
    """What the kernel says of a device: the id of its XDP program (0: none), and those of TCX ingress in order."""

    xdp: int
    tcx: tuple[int, ...]


class Standing(Enum):
    """How an attachment is found."""

    RIGHT = auto()
    DETACHED = auto()  # nothing has its place
    REPLACED = auto()  # another program runs in its place, by a link of ours or of somebody else
    BEHIND = auto()  # another program sees the frames first, and can be overtaken
    BLOCKED = auto()  # another program sees the frames first, and cannot: XDP, where we use tc


@dataclass
class Link:
    """An attachment. `ifindex` 0: its device is gone."""

    fd: int
    mode: str
    ifindex: int
    program: int  # its id
    filling: bool


class Links:
    """By slot. `programs`: descriptor of the entry program of each mode, and of FILLING."""

    def __init__(self, programs: dict[str, int], pins: Path | None) -> None:
        """Take over what is pinned. A pin that cannot be opened is removed."""
        self._programs, self._pins = programs, pins
        self._ids = {mode: libbpf.info(fd, libbpf.ProgramInfo()).id for mode, fd in programs.items()}
        self._links: dict[int, Link] = {}
        self._changes = 0
        for path in sorted(pins.iterdir()) if pins is not None else ():
            try:
                fd = libbpf.get_pinned(path)
                about = libbpf.info(fd, libbpf.LinkInfo())
            except DatapathError:
                path.unlink(missing_ok=True)
                continue
            mode = "tc" if about.attach_type == libbpf.BPF_TCX_INGRESS else "xdp"
            filling = about.prog_id == self._ids[FILLING]
            self._links[int(path.name)] = Link(fd, mode, about.ifindex, about.prog_id, filling)

    def slots(self) -> list[int]:
        """Slots with a link."""
        return list(self._links)

    def mode(self, slot: int, ifindex: int) -> str | None:
        """How the slot is attached to this very device, or None."""
        link = self._links.get(slot)
        if link is None:
            return None
        return link.mode if libbpf.info(link.fd, libbpf.LinkInfo()).ifindex == ifindex else None

    def attach(self, slot: int, ifindex: int, mode: str, *, filling: bool = False) -> None:
        """Attach in this mode ("xdp" is native, or "tc"); keeps a link that is right, and replaces its program if old.

        `filling`: by XDP, finish the checksums of its frames.
        Changing the mode loses no frame: the new link is there before the old one goes. DatapathError when the
        kernel refuses; the old link then stays.
        """
        old = self._links.get(slot)
        which = FILLING if filling and mode == "xdp" else mode
        program = self._programs[which]
        if old is not None and self.mode(slot, ifindex) == mode:
            if old.program != self._ids[which]:
                libbpf.link_update(old.fd, program)
                old.program = self._ids[which]
                self._changes += 1
            old.filling = which == FILLING
            return
        self._replace(slot, ifindex, mode, which)

    def _replace(self, slot: int, ifindex: int, mode: str, which: str) -> None:
        """A new link in the slot; the old one goes when the new one is there."""
        attach_type, flags = _ATTACH[mode]
        fd = libbpf.link_create(self._programs[which], ifindex, attach_type, flags)
        self.detach(slot)
        self._links[slot] = Link(fd, mode, ifindex, self._ids[which], which == FILLING)
        if self._pins is not None:
            libbpf.pin(fd, self._pins / str(slot))
        self._changes += 1

    def shorten(self, slot: int, program: int | None) -> None:
        """Have the frames of a port that is attached by plain XDP begin in this program; None: in the entry again.

        DatapathError when the kernel refuses; they then go on as before.
        """
        link = self._links.get(slot)
        if link is None or link.mode != "xdp" or link.filling:
            return
        wanted = self._programs["xdp"] if program is None else program
        number = self._ids["xdp"] if program is None else libbpf.info(program, libbpf.ProgramInfo()).id
        if link.program != number:
            libbpf.link_update(link.fd, wanted)
            link.program = number
            self._changes += 1

    def program(self, slot: int) -> int | None:
        """The id of the program that the slot's frames begin in."""
        link = self._links.get(slot)
        return None if link is None else link.program

    def standing(self, slot: int, view: View) -> Standing:
        """How the slot's attachment is found on its device; a slot without a link is right as it is."""
        link = self._links.get(slot)
        return Standing.RIGHT if link is None else _standing(link.mode, link.program, view)

    def mend(self, slot: int) -> None:
        """Attach again, before all others, what another program detached, replaced or stands before.

        DatapathError when the kernel refuses; `code` EBUSY: another XDP program has the place.
        """
        old = self._links[slot]
        which = FILLING if old.filling else old.mode
        there = libbpf.info(old.fd, libbpf.LinkInfo()).ifindex == old.ifindex
        self._changes += 1
        if there and old.mode == "xdp":
            libbpf.link_update(old.fd, self._programs[which])
            old.program = self._ids[which]
            return
        if there:  # TCX takes no program twice: for a few microseconds frames go past
            libbpf.link_detach(old.fd)
        self._replace(slot, old.ifindex, old.mode, which)

    def detach(self, slot: int) -> None:
        """Detach and forget; nothing happens when the slot is free."""
        link = self._links.pop(slot, None)
        if link is None:
            return
        self._changes += 1
        if self._pins is not None:
            (self._pins / str(slot)).unlink(missing_ok=True)
        try:
            libbpf.link_detach(link.fd)
        except DatapathError:
            pass  # the device is gone, and its attachment with it
        os.close(link.fd)

    @property
    def changes(self) -> int:
        """Counts what was attached, replaced and detached here: a view from before the last change says nothing."""
        return self._changes

    def close(self) -> None:
        """Close descriptors: pinned links stay attached, others go."""
        for link in self._links.values():
            os.close(link.fd)
        self._links = {}


def _standing(mode: str, program: int, view: View) -> Standing:
    """Pure."""
    if mode == "xdp":
        if view.xdp == program:
            return Standing.RIGHT
        return Standing.REPLACED if view.xdp else Standing.DETACHED
    if view.xdp:
        return Standing.BLOCKED
    if program not in view.tcx:
        return Standing.DETACHED
    return Standing.RIGHT if view.tcx[0] == program else Standing.BEHIND


def read_view(ifindex: int, mode: str, xdp: int) -> View:
    """What the kernel says of a device, whose XDP program is known; TCX matters to devices that use it alone.

    DatapathError: the device is gone. Waits while somebody changes a link.
    """
    return View(xdp, tuple(libbpf.attached_programs(ifindex, libbpf.BPF_TCX_INGRESS)) if mode == "tc" else ())
