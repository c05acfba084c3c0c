# SPDX-License-Identifier: GPL-2.0-only
"""Where the datapath's entry programs are attached: one BPF link per device, pinned by slot.

Owns the links' descriptors. A pinned link outlives this process; an unpinned one ends with it. Even so, another program
may detach or replace what is attached: `standing` compares it with the kernel's view of a device.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import NamedTuple

from appliance.errors import DatapathError
from appliance.system import libbpf

FILLING = "filling"  # by XDP, for devices that deliver frames with unfinished checksums
_ATTACH = {"xdp": (libbpf.BPF_XDP, libbpf.XDP_FLAGS_DRIVER), "tc": (libbpf.BPF_TCX_INGRESS, libbpf.BPF_F_BEFORE)}


class View(NamedTuple):
    """The kernel's view of a device: the id of its XDP program (0: none), and those of TCX ingress, in order."""

    xdp: int
    tcx: tuple[int, ...]


class Standing(Enum):
    """The state in which an attachment is found."""

    RIGHT = auto()
    DETACHED = auto()  # no program is in its place
    REPLACED = auto()  # another program runs in its place, through our link or another one
    BEHIND = auto()  # another program sees the frames first, but ours can be put before it
    BLOCKED = auto()  # another program sees the frames first, and stays first: XDP, while we use tc


@dataclass
class Link:
    """An attachment. `ifindex` 0: its device is gone."""

    fd: int
    mode: str
    ifindex: int
    program: int  # its id
    filling: bool


class Links:
    """The links by slot. `programs`: the descriptor of the entry program for each mode, and for FILLING."""

    def __init__(self, programs: dict[str, int], pins: Path | None) -> None:
        """Adopt pinned links. A pin that cannot be opened is removed."""
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
        """The mode in which the slot is attached to exactly this device, or None."""
        link = self._links.get(slot)
        if link is None:
            return None
        return link.mode if libbpf.info(link.fd, libbpf.LinkInfo()).ifindex == ifindex else None

    def attach(self, slot: int, ifindex: int, mode: str, *, filling: bool = False) -> None:
        """Attach in this mode ("xdp", which is native, or "tc"); keeps a link that is right, and updates its program.

        `filling`: with XDP, finish the checksums of its frames.
        Changing the mode loses no frame, because the new link exists before the old one is removed. DatapathError if
        the kernel refuses; the old link then stays.
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
        """Create a new link in the slot, then remove the old one."""
        attach_type, flags = _ATTACH[mode]
        fd = libbpf.link_create(self._programs[which], ifindex, attach_type, flags)
        self.detach(slot)
        self._links[slot] = Link(fd, mode, ifindex, self._ids[which], which == FILLING)
        if self._pins is not None:
            libbpf.pin(fd, self._pins / str(slot))
        self._changes += 1

    def shorten(self, slot: int, program: int | None) -> None:
        """Let the frames of a port that is attached by plain XDP begin in this program; None: in the entry again.

        DatapathError if the kernel refuses; nothing is then changed.
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
        """The id of the program in which the slot's frames begin."""
        link = self._links.get(slot)
        return None if link is None else link.program

    def standing(self, slot: int, view: View) -> Standing:
        """The state of the slot's attachment on its device; a slot without a link counts as right."""
        link = self._links.get(slot)
        return Standing.RIGHT if link is None else _standing(link.mode, link.program, view)

    def mend(self, slot: int) -> None:
        """Attach again, before all others, what another program detached, replaced or precedes.

        DatapathError if the kernel refuses; `code` EBUSY: another XDP program is in its place.
        """
        old = self._links[slot]
        which = FILLING if old.filling else old.mode
        there = libbpf.info(old.fd, libbpf.LinkInfo()).ifindex == old.ifindex
        self._changes += 1
        if there and old.mode == "xdp":
            libbpf.link_update(old.fd, self._programs[which])
            old.program = self._ids[which]
            return
        if there:  # TCX does not accept a program twice: for a few microseconds frames pass without it
            libbpf.link_detach(old.fd)
        self._replace(slot, old.ifindex, old.mode, which)

    def detach(self, slot: int) -> None:
        """Detach and forget; does nothing if the slot is free."""
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
        """Counts what was attached, replaced and detached here: a view from before the last change is void."""
        return self._changes

    def close(self) -> None:
        """Close descriptors: pinned links stay attached, others end."""
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
    """The kernel's view of a device whose XDP program is already known; TCX is read only if the device uses it.

    DatapathError: the device is gone. Waits while another process changes a link.
    """
    return View(xdp, tuple(libbpf.attached_programs(ifindex, libbpf.BPF_TCX_INGRESS)) if mode == "tc" else ())
