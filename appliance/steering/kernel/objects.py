# SPDX-License-Identifier: GPL-2.0-only
"""The datapath's programs and maps in the kernel: loaded, pinned, adopted, upgraded.

Owns the descriptors. Pinned objects outlive this process; without a pin directory all of them end with it.
Below the pin directory: `maps/NAME`, `programs/NAME`, `links/SLOT`, and the links of the programs at tracepoints.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from ctypes import c_uint32
from functools import cached_property
from pathlib import Path
from typing import Any

from appliance.errors import DatapathError
from appliance.steering.kernel import bpf_object, layout, splice
from appliance.steering.kernel.maps import Map, Table
from appliance.system import libbpf

PROGRAMS = (
    "entry_filling_xdp",
    "found_xdp",
    "onward_xdp",
    "strip_tc",
    "restore_tc",
    "clamp_tc",
    "encap_xdp",
    "by_kernel_tc",
    "pass_xdp",
    *(
        f"{name}_{kind}"
        for kind in ("xdp", "tc")
        for name in (
            "entry",
            "copying",
            "recall",
            "remember",
            "fragment",
            "dispatch",
            "shunts",
            "shunt",
            "walk",
            "reset",
        )
    ),
)
EXIT = "thread_exit"  # the program that ends leases with processes
LOSSES = {"batch_sent": "xdp_devmap_xmit", "redirect_failed": "xdp_redirect_err", "frame_freed": "kfree_skb"}
TRACEPOINTS = {EXIT: "sched_process_exit", **LOSSES}  # by program; left out on kernels without tracing
TEMPLATES = frozenset(("decide_xdp", "decide_tc", "attached_xdp", "own_xdp", "own_shunting_xdp"))
_SLOTS = {"walk": layout.PROGRAM_WALK, "dispatch": layout.PROGRAM_DISPATCH, "remember": layout.PROGRAM_REMEMBER,
          "copying": layout.PROGRAM_COPYING, "entry": layout.PROGRAM_ENTRY,
          "fragment": layout.PROGRAM_FRAGMENT, "reset": layout.PROGRAM_RESET, "shunts": layout.PROGRAM_SHUNTS,
          "shunt": layout.PROGRAM_SHUNT}  # fmt: skip


class Kernel:
    """Maps by name (`maps["rules"]`), program descriptors by name, and the tables that are written in place."""

    def __init__(self, path: Path, pins: Path | None) -> None:
        """Adopt pinned objects if they are from the same object file; otherwise load, with the pinned maps if they fit.

        `adopted`: same programs as before. `upgraded`: new programs on the old maps. DatapathError if the kernel
        refuses, or `pins` is not on a bpffs.
        """
        self.pins, self._path = pins, path
        self.adopted = self.upgraded = False
        self._tracing: dict[str, int] = {}  # links, by program
        self.programs: dict[str, int] = {}
        self.maps: dict[str, Map[Any, Any]] = {}
        digest = self._digest(path)
        if pins is not None:
            self._folders(pins)
        if pins is not None and self._adopt(pins, digest):
            self.adopted = True
        else:
            self._load(path, pins, digest)
        self.control = Table(self.maps["control"].fd, 1, layout.ControlValue)
        self.own_ways = Table(self.maps["own_ways"].fd, 1, layout.OwnWaysValue)
        self.leases = Table(self.maps["leases"].fd, layout.MAX_HOPS, layout.LeaseValue)
        self.gates = Table(self.maps["gates"].fd, layout.MAX_SLOTS, layout.GateValue)
        self.shunt_limits = Table(self.maps["shunt_limits"].fd, layout.MAX_HOPS, layout.ShuntLimitValue)
        self.shunt_epoch = Table(self.maps["shunt_epoch"].fd, 1, layout.ShuntEpochValue)

    @staticmethod
    def _digest(path: Path) -> bytes:
        try:
            return hashlib.sha256(path.read_bytes()).digest()
        except OSError as error:
            raise DatapathError(f"{path}: the compiled datapath cannot be read: {error.strerror}") from error

    @staticmethod
    def _folders(pins: Path) -> None:
        try:
            for name in ("maps", "programs", "links"):
                (pins / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DatapathError(f"{pins}: cannot be made: {error.strerror} (mount -t bpf bpf /sys/fs/bpf)") from error

    def _open_pinned(self, pins: Path) -> None:
        for name, (key, value) in layout.MAPS.items():
            self.maps[name] = Map(name, libbpf.get_pinned(pins / "maps" / name), key, value)

    def _adopt(self, pins: Path, digest: bytes) -> bool:
        try:
            self._open_pinned(pins)
            meta = self.maps["meta"].get(0)
            if meta is None or bytes(meta.digest) != digest:
                raise DatapathError("another program")
            self.programs = {name: libbpf.get_pinned(pins / "programs" / name) for name in PROGRAMS}
            self._tracing = {name: libbpf.get_pinned(pins / name) for name in TRACEPOINTS if (pins / name).exists()}
        except DatapathError:
            self.close()
            return False
        return True

    def _load(self, path: Path, pins: Path | None, digest: bytes) -> None:
        if pins is not None and not self._same_layout(pins):
            self._unpin(pins)
        was_there = pins is not None and (pins / "maps" / "meta").exists()
        without = () if libbpf.raw_tracepoints_work() else tuple(TRACEPOINTS)
        try:
            loaded = bpf_object.Object(path, pins / "maps" if pins is not None else None, without)
        except DatapathError:
            if pins is None or not was_there:
                raise
            # Maps of another layout: start with new ones. Devices keep the old ones until they are attached again.
            self._unpin(pins)
            was_there = False
            loaded = bpf_object.Object(path, pins / "maps", without)
        try:
            for name, (key, value) in layout.MAPS.items():
                self.maps[name] = Map(name, loaded.map_fd(name), key, value)
            self.programs = {name: loaded.program_fd(name) for name in PROGRAMS}
            if not without:
                self._trace(loaded)
        finally:
            loaded.close()
        for kind in ("xdp", "tc"):
            for name, slot in _SLOTS.items():
                self.maps[f"{kind}_programs"].set(slot, self.programs[f"{name}_{kind}"])
        self.maps["xdp_programs"].set(layout.PROGRAM_FOUND, self.programs["found_xdp"])
        self.maps["xdp_programs"].set(layout.PROGRAM_ONWARD, self.programs["onward_xdp"])
        if not was_there:
            no_rule = layout.SegmentValue(constant_rule=layout.NO_MATCH)
            self.maps["segments"].set_all(dict.fromkeys(range(2 * layout.MAX_SEGMENTS), no_rule))
        meta = layout.MetaValue(layout=layout.LAYOUT_VERSION, digest=(ctypes.c_uint8 * 32)(*digest))
        self.maps["meta"].set(0, meta)
        self.upgraded = was_there
        if pins is not None:
            for name, fd in self.programs.items():
                (pins / "programs" / name).unlink(missing_ok=True)
                libbpf.pin(fd, pins / "programs" / name)

    def _trace(self, loaded: bpf_object.Object) -> None:
        """Attach the programs at tracepoints; an earlier one is removed once the new one is attached.

        If the kernel does not have the tracepoint in this form, its counters are missing.
        """
        for name, tracepoint in TRACEPOINTS.items():
            program = loaded.program_fd(name)
            try:
                self._tracing[name] = libbpf.attach_raw_tracepoint(tracepoint, program)
            except DatapathError:
                if name == EXIT:
                    raise
                continue
            finally:
                os.close(program)
            if self.pins is not None:
                (self.pins / name).unlink(missing_ok=True)
                libbpf.pin(self._tracing[name], self.pins / name)

    @property
    def sees_exits(self) -> bool:
        """Whether leases end in the kernel with the processes that they are tied to."""
        return EXIT in self._tracing

    @property
    def sees_losses(self) -> bool:
        """Whether frames that the kernel drops after the datapath's decision are counted."""
        return self._tracing.keys() >= LOSSES.keys()

    @staticmethod
    def _same_layout(pins: Path) -> bool:
        try:
            meta = Map("meta", libbpf.get_pinned(pins / "maps" / "meta"), c_uint32, layout.MetaValue)
        except DatapathError:
            return False
        try:
            value = meta.get(0)
            return value is not None and value.layout == layout.LAYOUT_VERSION
        finally:
            meta.close()

    @staticmethod
    def _unpin(pins: Path) -> None:
        for folder in ("maps", "programs"):
            for pin in (pins / folder).iterdir():
                pin.unlink()

    @cached_property
    def templates(self) -> dict[str, splice.Template]:
        """The programs into which a set's filters are put."""
        return splice.read(self._path, TEMPLATES)

    def wait_for_frames(self) -> None:
        """Return when all frames now in the programs have left them (one RCU grace period)."""
        self.maps["fence"].set(0, self.maps["fence_post"].fd)

    @property
    def policy_word(self) -> int:
        """The word that says which policy is in force."""
        return self.control.read(0)

    @policy_word.setter
    def policy_word(self, word: int) -> None:
        self.control.write(0, word)

    def close(self) -> None:
        """Close descriptors and mappings."""
        for table in ("control", "own_ways", "leases", "gates", "shunt_limits", "shunt_epoch"):
            if hasattr(self, table):
                getattr(self, table).close()
                delattr(self, table)
        for opened in self.maps.values():
            opened.close()
        for fd in self.programs.values():
            os.close(fd)
        self.maps, self.programs = {}, {}
        for fd in self._tracing.values():
            os.close(fd)
        self._tracing = {}
