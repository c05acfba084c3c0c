# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's pool of huge pages: grown when a guest that uses them starts, shrunk again when it has ended.

Pages that an administrator reserved (vm.nr_hugepages, or on the kernel's command line) are used first and never given
back: only pages that were added here are ours. Their number is kept in the run folder, because guests outlive bypassd.
Enough ordinary memory stays free for the supervisor. If there are too few pages for a guest, it gets ordinary memory.

A page counts as promised from the order to start a guest until its QEMU, which has allocated it by then, answers. The
kernel may have to move memory for seconds to find huge pages, so that happens on another thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from appliance.guest.qemu.resources import MEMORY_RESERVE, available_memory
from appliance.system import files

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Seen:
    """Huge pages: `total`, `free`, `reserved` (part of `free`); `page`: size of one; `available`: ordinary memory.

    Sizes are in bytes.
    """

    total: int
    free: int
    reserved: int
    page: int
    available: int

    def pages(self, size: int) -> int:
        """How many pages hold `size` bytes."""
        return -(-size // self.page)


def parse(meminfo: str) -> Seen | None:
    """From the text of /proc/meminfo; None: the kernel has no huge pages."""
    found = {line.partition(":")[0]: line.split()[1] for line in meminfo.splitlines() if line.startswith("Huge")}
    try:
        total, free, reserved, surplus = (int(found[f"HugePages_{key}"]) for key in ("Total", "Free", "Rsvd", "Surp"))
        return Seen(total - surplus, free, reserved, int(found["Hugepagesize"]) << 10, available_memory(meminfo))
    except (KeyError, ValueError):
        return None


def unused(seen: Seen, promised: int) -> int:
    """Pages that are neither used, nor reserved, nor promised (pure)."""
    return max(0, seen.free - seen.reserved - promised)


def short(seen: Seen, wanted: int, promised: int) -> tuple[int, str]:
    """How many pages to add so that `wanted` are available, and why that is not possible ("" = it is) (pure)."""
    lacking = max(0, wanted - unused(seen, promised))
    room = max(0, seen.available - MEMORY_RESERVE) // seen.page
    if lacking > room:
        return lacking, _lack(seen, wanted, lacking - room, "and the appliance needs the rest of its memory")
    return lacking, ""


def _lack(seen: Seen, wanted: int, lacking: int, why: str) -> str:
    have, all_of_it = ((pages * seen.page) >> 20 for pages in (wanted - lacking, wanted))
    return f"no huge pages: only {have} MiB of {all_of_it} MiB are available, {why}"


class Kernel(Protocol):
    """The owner of the pages."""

    def seen(self) -> Seen | None:
        """The state now; None: it has no huge pages at all."""

    def resize(self, pages: int) -> int:
        """Set the pool to `pages`, or as many as can be found; returns how many there are then. OSError."""

    def compact(self) -> None:
        """Compact memory."""


class Linux:
    """The kernel of this machine."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc, self._pool = proc, proc / "sys/vm/nr_hugepages"

    def seen(self) -> Seen | None:
        """From /proc/meminfo."""
        return parse((self._proc / "meminfo").read_text())

    def resize(self, pages: int) -> int:
        """By vm.nr_hugepages."""
        self._pool.write_text(str(pages))
        return int(self._pool.read_text())

    def compact(self) -> None:
        """By vm.compact_memory, if the kernel has it."""
        knob = self._proc / "sys/vm/compact_memory"
        if knob.exists():
            knob.write_text("1")


class Pool:
    """See the module. Owned by the part "guests"; `kept` is the file with the number of pages that are ours."""

    def __init__(self, kept: Path, kernel: Kernel | None = None) -> None:
        self._kept, self._kernel = kept, kernel or Linux()
        self._promised: dict[str, int] = {}  # by guest
        self._why: dict[str, str] = {}  # by guest: why the pool could not be grown for it
        seen = self._kernel.seen()
        self.page = seen.page if seen is not None else 2 << 20  # bytes
        self._busy = threading.Lock()  # the pool is resized by one thread at a time
        try:
            self._ours = int(kept.read_text(encoding="ascii"))
        except (OSError, ValueError):
            self._ours = 0

    def _others(self, name: str) -> int:
        return sum(pages for guest, pages in list(self._promised.items()) if guest != name)

    def promise(self, name: str, size: int) -> None:
        """Promise this guest `size` bytes that its QEMU has not allocated yet."""
        seen = self._kernel.seen()
        if seen is not None:
            self._promised[name] = seen.pages(size)

    async def reserve(self, name: str, size: int) -> None:
        """Grow the pool by what it lacks for this guest. `claim` returns the result."""
        self.promise(name, size)
        self._why[name] = await asyncio.to_thread(self._grow, name, size)

    def _grow(self, name: str, size: int) -> str:
        with self._busy:
            seen = self._kernel.seen()
            if seen is None:
                return ""
            wanted = seen.pages(size)
            lacking, why = short(seen, wanted, self._others(name))
            if why or not lacking:
                return why
            try:
                self._keep(self._ours + lacking)  # first: a crash in between leaves no page without an owner
                now = self._kernel.resize(seen.total + lacking)
                if now < seen.total + lacking:
                    self._kernel.compact()
                    now = self._kernel.resize(seen.total + lacking)
                if now < seen.total + lacking:
                    self._keep(self._ours - lacking)
                    self._kernel.resize(seen.total)
                    return _lack(seen, wanted, seen.total + lacking - now, "and memory is too fragmented for more")
            except OSError as error:
                self._keep(self._ours - lacking)
                return _lack(seen, wanted, lacking, f"and the pool cannot be grown: {error.strerror}")
            return ""

    def claim(self, name: str, size: int) -> tuple[int, str]:
        """The guest starts now: bytes of memory in whole huge pages and ""; or 0 and why it gets none."""
        seen = self._kernel.seen()
        if seen is None:
            return 0, "no huge pages: this kernel has none"
        wanted = seen.pages(size)
        have = unused(seen, self._others(name))
        if have >= wanted:
            self._promised[name] = wanted
            return wanted * seen.page, ""
        self._promised.pop(name, None)
        return 0, self._why.get(name) or _lack(seen, wanted, wanted - have, "and the rest is in use")

    def taken(self, name: str) -> None:
        """The guest's QEMU has allocated its pages; from now on the kernel's own count shows them."""
        self._promised.pop(name, None)

    async def give_back(self, name: str) -> None:
        """The guest is not running: turn unused pages of ours into ordinary memory."""
        self._promised.pop(name, None)
        self._why.pop(name, None)
        if self._ours:
            await asyncio.to_thread(self._shrink)

    def _shrink(self) -> None:
        with self._busy:
            seen = self._kernel.seen()
            if seen is None:
                return
            pages = min(self._ours, unused(seen, sum(list(self._promised.values()))))
            if not pages:
                return
            try:
                self._kernel.resize(seen.total - pages)
                self._keep(self._ours - pages)
            except OSError as error:
                log.warning("huge pages: %d stay reserved: %s", pages, error.strerror)

    def _keep(self, ours: int) -> None:
        self._ours = max(0, ours)
        try:
            files.replace(self._kept, str(self._ours), synced=False)
        except OSError as error:
            log.warning("huge pages: the next bypassd will not know of these %d: %s", self._ours, error.strerror)
