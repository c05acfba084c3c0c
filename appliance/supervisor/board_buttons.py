# SPDX-License-Identifier: GPL-2.0-only
"""The push buttons of the board: one that is held for 5 s bypasses every segment, or ends that.

Each has a thread that looks at its line, because a line behind I2C may make a reader wait. Lives as long as bypassd; a
line that cannot be opened is tried again every minute, with one line in the log.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from appliance.errors import HardwareError
from appliance.hardware.board import Button
from appliance.hardware.held_button import LOOK_S, HeldButton
from appliance.hardware.relay.line import InputLine, LineSpec
from appliance.supervisor.system import System
from appliance.telemetry.subject import Kind, Notice, Subject

log = logging.getLogger(__name__)

RETRY_S = 60.0


class BoardButtons:
    """See the module."""

    def __init__(self, system: System, wake: Callable[[], None]) -> None:
        self._system, self._wake = system, wake
        self._ended = threading.Event()

    async def run(self) -> None:
        """Watch until cancelled; returns at once on a board without buttons."""
        board = self._system.board
        buttons = board.button if board is not None else ()
        loop = asyncio.get_running_loop()

        def held(name: str) -> None:
            loop.call_soon_threadsafe(self.held, name)

        try:
            for button in buttons:
                name = f"button {button.name}"
                threading.Thread(target=self._watch, args=(button, held), name=name, daemon=True).start()
            if buttons:
                await asyncio.Event().wait()
        finally:
            self._ended.set()

    def held(self, name: str) -> None:
        """A button was held: bypass, or, if every segment is in bypass by order already, auto."""
        system = self._system
        units = system.segments.units
        if not units:
            return
        mode = "auto" if all(unit.asked == "bypass" for unit in units.values()) else "bypass"
        for segment in units:
            system.segments.ask(segment, mode)
        if mode == "auto":
            system.steering.forgive()
        text = f"button {name} was held: {mode} for every segment"
        system.events.record(Notice.BUTTON, Subject(Kind.SYSTEM), text)
        system.segments.update(time.monotonic_ns(), system.keeper_state, system.faults)
        self._wake()

    def _watch(self, button: Button, held: Callable[[str], None]) -> None:
        """In a thread of its own."""
        line = InputLine(LineSpec(button.line, button.active == "high"))
        said = ""
        while not self._ended.is_set():
            try:
                line.open()
                said = ""
                self._look(line, button.name, held)
            except HardwareError as error:
                if str(error) != said:
                    log.error("button %s: %s", button.name, error)
                said = str(error)
                self._ended.wait(RETRY_S)
            finally:
                line.close()

    def _look(self, line: InputLine, name: str, held: Callable[[str], None]) -> None:
        """HardwareError: the line's controller is gone."""
        button = HeldButton()
        while not self._ended.wait(LOOK_S):
            if button.look(time.monotonic(), line.driven()):
                held(name)
