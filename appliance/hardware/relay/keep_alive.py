# SPDX-License-Identifier: GPL-2.0-only
"""Kind "keep-alive": inline while a GPIO line toggles; otherwise a monostable or controller behind it opens the relay.

The only kind that opens when the kernel hangs, before any watchdog expires: `keep_alive_timeout` after the last edge,
whatever ended the toggling (the keeper ended, hangs, is stopped, or closed the line; the driver was reset; the bus
stalls). The keeper's loop gives each level (keeper/relays.py), so that no thread goes on when the loop does not: the
same reason forbids a PWM, which goes on when the processor hangs.

Two patterns are known: levels of the same length from the first edge on, and edges after a start sequence (`start`).
"""

from __future__ import annotations

import time

from appliance.errors import HardwareError
from appliance.hardware.relay.keys import levels
from appliance.hardware.relay.line import Line, LineSpec
from appliance.hardware.relay.protocol import BYPASS, DISCONNECT, INLINE, RelayFaultError, RelaySpec


class KeepAliveRelay:
    """Owns the line from `open` to `close`. In the pattern "high" is the active level."""

    def __init__(self, spec: RelaySpec) -> None:
        self.spec = spec
        self._line = Line(LineSpec(str(spec.options["line"]), spec.options.get("active", "high") == "high"))
        self._start = levels(spec.options["start"]) if "start" in spec.options else []
        self._position, self._level = BYPASS, False

    def open(self) -> str:
        """Open the line, released: nothing toggles it yet, so the relay is in bypass or about to be."""
        self._position, self._level = BYPASS, self._line.open()
        return BYPASS

    def set(self, position: str) -> None:
        """Inline: the start sequence, then the first high level. Bypass: the line is released and toggles no more."""
        if position == DISCONNECT:
            raise HardwareError(f"relay {self.spec.name}: this board has no disconnect: use bypass")
        if position == INLINE:
            for level, time_ms in self._start:
                self._drive(level)
                time.sleep(time_ms / 1000)
        self._drive(position == INLINE)
        self._position = position

    def read(self) -> str:
        """The position that was ordered. RelayFaultError: the line has not the level that it was given."""
        if self._line.driven() != self._level:
            what = f'line "{self._line.spec.line}" does not follow'
            raise RelayFaultError(f"relay {self.spec.name}: {what}: it cannot be toggled")
        return self._position

    def kick(self, level: bool) -> None:
        """The next level. Inline may be an earlier keeper's, found by the read-back line."""
        self._position = INLINE
        self._drive(level)

    def close(self) -> None:
        """Release the line."""
        self._position = BYPASS
        self._line.close()

    def _drive(self, level: bool) -> None:
        self._line.drive(level)
        self._level = level
