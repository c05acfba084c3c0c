# SPDX-License-Identifier: GPL-2.0-only
"""Room on the data partition: a guest that fills it is paused before it affects others, until there is room again.

Guests' disks are thin and snapshots grow, so all guests together may want more than there is. QEMU pauses any guest
whose write fails with ENOSPC, whoever used up the room. So the guest that grows fastest is paused earlier, while there
is still room for the others. Space reserved for root (rootfs/etc/init.d/data-partition) does not count as room.

`Guard.decide` is pure. The rest asks the kernel, in a thread, and lives as long as the part "guests".
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from appliance.errors import BypassError

log = logging.getLogger(__name__)

LOOK_S, NEAR_LOOK_S = 1.0, 0.1  # the latter when room gets short: a fast disk writes a gigabyte per second
WINDOW = 10  # looks over which growth is measured
LOW_BYTES, LOW_SHARE = 256 << 20, 20  # room is low below this, or below a twentieth of the partition if that is less
FAST = 8  # a guest that would use up the rest within this many windows grows fast


class Room(NamedTuple):
    """What guests may still use of the partition, and its size, in bytes."""

    available: int
    total: int

    @property
    def low(self) -> int:
        """Below this, a guest that grows fast is paused."""
        return min(LOW_BYTES, self.total // LOW_SHARE)

    @property
    def near(self) -> bool:
        """Whether room is short enough to measure which guest grows."""
        return self.available < 4 * self.low

    @property
    def alarm(self) -> str:
        """What an operator must know; "" if there is enough room."""
        if self.available >= self.low:
            return ""
        left = f"only {self.available >> 20} MiB of {self.total >> 20} MiB are left for guests and users"
        return f"{left}: `show images` lists what could be removed"

    @property
    def enough(self) -> bool:
        """Whether guests that were paused for lack of room may continue."""
        return self.available >= self.low + self.low // 4


def room(folder: Path) -> Room:
    """The room on the file system of `folder`. OSError."""
    found = os.statvfs(folder)
    return Room(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def used_by(pid: int, device: int) -> int:
    """Bytes used on one file system by the files that a process has open, including deleted ones."""
    sizes: dict[int, int] = {}
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                found = os.stat(f"/proc/{pid}/fd/{name}")
            except OSError:
                continue
            if found.st_dev == device and stat.S_ISREG(found.st_mode):
                sizes[found.st_ino] = found.st_blocks * 512
    except OSError:
        return 0  # it has ended
    return sum(sizes.values())


class Growing(Protocol):
    """A guest."""

    @property
    def name(self) -> str: ...

    @property
    def pid(self) -> int | None:
        """The id of its process, while it runs and is not paused for lack of room."""

    async def stop_for_space(self, why: str) -> None:
        """Pause it until there is room. BypassError: it cannot be paused."""


class Guard:
    """See the module."""

    def __init__(self, folder: Path, guests: Callable[[], Iterable[Growing]]) -> None:
        self._folder, self._guests = folder, guests
        self._looks: deque[Mapping[str, int]] = deque(maxlen=WINDOW)
        self.room: Room | None = None
        """At the last look; None: not known."""

    def decide(self, now: Room, used: Mapping[str, int]) -> str:
        """The guest to pause now; "" = none. `used`: bytes used by each guest."""
        self._looks.append(used)
        if now.available >= now.low:
            return ""
        growth = {
            name: size - next((look[name] for look in self._looks if name in look), size) for name, size in used.items()
        }
        fastest = max(growth, key=lambda name: growth[name], default="")
        return fastest if fastest and growth[fastest] > now.available // FAST else ""

    def _look(self, pids: Mapping[str, int]) -> tuple[Room, dict[str, int]]:
        now = room(self._folder)
        if not now.near:
            return now, {}
        device = os.stat(self._folder).st_dev
        return now, {name: used_by(pid, device) for name, pid in pids.items()}

    async def run(self) -> None:
        """Check repeatedly, until cancelled."""
        while True:
            await asyncio.sleep(NEAR_LOOK_S if self.room is not None and self.room.near else LOOK_S)
            guests = {guest.name: guest for guest in self._guests()}
            pids = {name: guest.pid for name, guest in guests.items()}
            try:
                now, used = await asyncio.to_thread(self._look, {name: pid for name, pid in pids.items() if pid})
            except OSError:
                self.room = None
                continue  # no data partition: nothing to fill
            self.room = now
            name = self.decide(now, used)
            if not name:
                continue
            why = f"only {now.available >> 20} MiB are left for all guests, and it grows fastest"
            log.warning("guest %s is paused: %s", name, why)
            try:
                await guests[name].stop_for_space(why)
            except BypassError as error:
                log.error("%s", error)
