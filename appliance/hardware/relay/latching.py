# SPDX-License-Identifier: GPL-2.0-only
"""Kind "latching": a relay with two coils and two GPIO lines; a pulse on one of them moves it, and there it stays.

Nothing holds it, so it stays where it is when the keeper ends or hangs, when the driver is reset, and without power:
only hardware beside it can bring it to bypass (board.toml: `on_watchdog`, `unpowered`). Its position cannot be read
from its lines, only that they follow. With a read-back line an earlier keeper's position is taken over; without one,
opening it sends it to bypass.
"""

from __future__ import annotations

import time

from appliance.errors import HardwareError
from appliance.hardware.relay.keys import milliseconds
from appliance.hardware.relay.line import Line, LineSpec
from appliance.hardware.relay.protocol import BYPASS, DISCONNECT, INLINE, RelayFaultError, RelaySpec


class LatchingRelay:
    """Owns both lines from `open` to `close`. They are never active at the same time."""

    def __init__(self, spec: RelaySpec) -> None:
        self.spec = spec
        high = spec.options.get("active", "high") == "high"
        self._inline, self._bypass = (
            Line(LineSpec(str(spec.options[key]), high)) for key in ("set_line", "reset_line")
        )
        self._pulse_s = milliseconds(spec.options["pulse"]) / 1000
        self._position = BYPASS

    def open(self) -> str:
        """Open the lines, released. Without a read-back line the relay may be anywhere and is moved to bypass."""
        self._bypass.open()
        self._inline.open()
        self._position = BYPASS
        if "read_back" not in self.spec.options:
            self._drive(self._bypass, self._inline)
        return BYPASS

    def set(self, position: str) -> None:
        """One pulse; returns when it is over."""
        if position == DISCONNECT:
            raise HardwareError(f"relay {self.spec.name}: this board has no disconnect: use bypass")
        if position == INLINE:
            self._drive(self._inline, self._bypass)
        else:
            self._drive(self._bypass, self._inline)
        self._position = position

    def read(self) -> str:
        """The position of the last pulse. RelayFaultError: a line is active, so a coil has current."""
        for line in (self._inline, self._bypass):
            self._expect(line, False)
        return self._position

    def kick(self, level: bool) -> None:
        """It needs no sign of life."""

    def close(self) -> None:
        """Release the lines; the relay stays where it is."""
        self._inline.close()
        self._bypass.close()

    def _drive(self, line: Line, other: Line) -> None:
        other.drive(False)
        self._expect(other, False)
        line.drive(True)
        try:
            self._expect(line, True)
            time.sleep(self._pulse_s)
        finally:
            line.drive(False)

    def _expect(self, line: Line, level: bool) -> None:
        if line.driven() != level:
            what = f'line "{line.spec.line}" does not follow: it is {"released" if level else "driven"}'
            raise RelayFaultError(f"relay {self.spec.name}: {what} by its level: check the GPIO controller")
