# SPDX-License-Identifier: GPL-2.0-only
"""The wait of a guest that is paused because there is no disk space left for what it writes, until there is again.

QEMU pauses it at a write that does not fit; disk_space.py pauses it before it fills the disk of all guests. Either way
the event BLOCK_IO_ERROR begins the wait, and the event RESUME ends it, whatever caused it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from appliance.errors import UnreachableError
from appliance.guest import disk_space
from appliance.guest.qemu.qmp import Monitor

log = logging.getLogger(__name__)

FIRST_ROOM_S, LAST_ROOM_S = 2.0, 60.0
"""The shortest and the longest wait of a guest whose disk is full; it doubles each time in a row."""
CALM_NS = 600_000_000_000  # after so long without a full disk the waits start from the first one


class RoomWait:
    """The wait of one run."""

    def __init__(
        self,
        guest: str,
        disk: Path,
        monitor: Monitor,
        *,
        report: Callable[[str, Mapping[str, object]], None],
        note: Callable[[bool], None],
        clock: Callable[[], int],
    ) -> None:
        """`disk`: a path on it. `report` takes an event as if from QEMU; `note` records whether the guest waits."""
        self._guest, self._disk, self._monitor = guest, disk, monitor
        self._report, self._note, self._clock = report, note, clock
        self.held = False
        """An operator paused it: it does not resume by itself."""
        self._task: asyncio.Task[None] | None = None
        self._wait_s, self._went_on = FIRST_ROOM_S, 0

    @property
    def waiting(self) -> bool:
        """Whether it is paused until there is room for what it writes."""
        return self._task is not None

    def begin(self) -> None:
        """The disk is full."""
        if self._task is None:
            now = self._clock()
            if now - self._went_on > CALM_NS:
                self._wait_s, self._went_on = FIRST_ROOM_S, 0
            self._task = asyncio.get_running_loop().create_task(self._resume(), name=f"room {self._guest}")
            self._note(True)

    def end(self) -> None:
        """It runs again."""
        if self._task is not None:
            self._task.cancel()
            self._task, self._went_on = None, self._clock()
            self._note(False)

    def cancel(self) -> None:
        """Stop waiting: the guest has ended, or bypassd leaves it to its successor."""
        if self._task is not None:
            self._task.cancel()

    async def _resume(self) -> None:
        """Resume it when there is room; the event RESUME then ends this task."""
        while True:
            await asyncio.sleep(self._wait_s)
            self._wait_s = min(2 * self._wait_s, LAST_ROOM_S)
            try:
                enough = (await asyncio.to_thread(disk_space.room, self._disk)).enough
                if await self._monitor.status() == "running":
                    self._report("RESUME", {"reason": "already running"})
                elif enough and not self.held:
                    await self._monitor.ask("cont")
            except (OSError, UnreachableError) as error:
                log.warning("guest %s: it stays paused: %s", self._guest, error)
