# SPDX-License-Identifier: GPL-2.0-only
"""`show system`: the machine as the kernel sees it, and the bounds of what is kept on its disks."""

from __future__ import annotations

import asyncio
import os
import time

from appliance.api.rpc import Params, Registry
from appliance.api.schema import machine as answers
from appliance.api.schema import methods
from appliance.guest.disk_space import LOW_BYTES, LOW_SHARE
from appliance.supervisor.system import System
from appliance.system import boot_slots, machine


class Machine:
    """The handler."""

    def __init__(self, system: System) -> None:
        self._system = system

    def register(self, registry: Registry) -> None:
        """Offer the method."""
        registry.add(
            methods.SYSTEM_SHOW, self.show, doc="load, memory, disks, temperatures, model and serial number, boot slots"
        )

    async def show(self, _: Params) -> answers.Machine:
        """system.show"""
        return await asyncio.to_thread(self._read)

    def _read(self) -> answers.Machine:
        root, board = self._system.paths.root, self._system.board
        places = (("data", self._system.paths.state), ("run", root / "run"), ("tmp", root / "tmp"))
        warm, fans = machine.sensors(root)
        known = machine.identity(root)
        return answers.Machine(
            board=board.name if board is not None else "",
            vendor=known.get("vendor", ""),
            model=known.get("model", ""),
            serial=known.get("serial", ""),
            firmware=known.get("firmware", ""),
            uptime_s=round(time.clock_gettime(time.CLOCK_BOOTTIME)),
            processors=os.cpu_count() or 1,
            load=machine.load(root),
            memory=machine.memory(root),
            disks=[self._disk(disk) for disk in machine.disks(places)],
            temperatures=warm,
            fans=fans,
            slots=self._slots(),
        )

    def _slots(self) -> list[answers.BootSlot]:
        try:
            return [answers.BootSlot(*slot) for slot in boot_slots.read(self._system.paths.root)]
        except OSError:
            return []

    def _disk(self, disk: machine.Disk) -> answers.Disk:
        low = min(LOW_BYTES, disk.total // LOW_SHARE) if disk.place == "data" else 0
        bound = f"guests pause when less than {low >> 20} MiB are free" if low else "memory, at most half of it"
        return answers.Disk(disk.place, disk.kind, disk.total, disk.available, bound)
