# SPDX-License-Identifier: GPL-2.0-only
"""A press of the power button powers the appliance off in order, as `poweroff now` does, unless it is to be ignored.

Lives as long as bypassd; a press while none runs is lost, and holding the button ends the machine as its firmware does.
A button that is plugged in later is found by the next bypassd.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from appliance.hardware import buttons
from appliance.supervisor.system import System
from appliance.telemetry.subject import Kind, Notice, Subject

log = logging.getLogger(__name__)

_MOST = 64 * buttons.EVENT.size  # bytes of one read


class PowerButton:
    """See the module. `press` orders the power off; `find` names the device files."""

    def __init__(
        self, system: System, press: Callable[[], Awaitable[None]], find: Callable[[], Sequence[Path]] | None = None
    ) -> None:
        self._system, self._press, self._find = system, press, find or self._of_machine
        self._pressed = asyncio.Event()

    def _of_machine(self) -> Sequence[Path]:
        """None below another root: then the machine is not this bypassd's own."""
        return buttons.find() if self._system.paths.root == Path("/") else ()

    async def run(self) -> None:
        """Wait for presses until cancelled; returns if there is no button."""
        try:
            paths = await asyncio.to_thread(self._find)
        except (OSError, ValueError) as error:
            log.warning("power buttons cannot be looked for: %s", error)
            return
        loop, opened = asyncio.get_running_loop(), list[int]()
        try:
            for path in paths:
                try:
                    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                except OSError as error:
                    log.warning("power button %s: %s", path, error.strerror)
                    continue
                opened.append(fd)
                loop.add_reader(fd, self._read, fd)
            while opened:
                await self._pressed.wait()
                self._pressed.clear()
                await self._obey()
        finally:
            for fd in opened:
                loop.remove_reader(fd)
                os.close(fd)

    def _read(self, fd: int) -> None:
        try:
            data = os.read(fd, _MOST)
        except BlockingIOError:
            return
        except OSError as error:
            data = b""
            log.warning("power button: %s", error.strerror)
        if not data:  # unplugged
            asyncio.get_running_loop().remove_reader(fd)
        if buttons.presses(data):
            self._pressed.set()

    async def _obey(self) -> None:
        config = self._system.config
        if config is not None and config.system.power_button == "ignore":
            text = "the power button was pressed, and ignored as configured (system power_button)"
            self._system.events.record(Notice.POWER, Subject(Kind.SYSTEM), text)
            return
        await self._press()
