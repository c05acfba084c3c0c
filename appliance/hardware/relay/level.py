# SPDX-License-Identifier: GPL-2.0-only
"""Kind "level": the relay is inline while a GPIO line has its active level, and in bypass otherwise.

If the board has a second line, `disconnect`, its active level separates the two ports and takes precedence over the
first. The position is read back from the levels that the GPIO controller reports. What happens when the keeper ends
depends on the controller (`on_release`): a line that keeps its level keeps the relay inline, and only the board's
watchdog opens it. The lines may be those of an I2C expander.
"""

from __future__ import annotations

from appliance.errors import HardwareError
from appliance.hardware.relay.line import Line, LineSpec
from appliance.hardware.relay.protocol import BYPASS, DISCONNECT, INLINE, RelaySpec


class LevelRelay:
    """`bypass` is the resting state: both lines inactive. Owns the lines from `open` to `close`."""

    def __init__(self, spec: RelaySpec) -> None:
        """KeyError: `line` is missing."""
        self.spec = spec
        options = spec.options
        high = options.get("active", "high") == "high"
        keeps = options.get("on_release", "unknown") != "reverts"
        disconnect = options.get("disconnect")
        self._inline = Line(LineSpec(str(options["line"]), high, keeps))
        self._disconnect = Line(LineSpec(str(disconnect), high, keeps)) if disconnect else None

    def open(self) -> str:
        """Open the lines; returns the relay's present position. HardwareError: see `Line.open`."""
        inline = self._inline.open()
        disconnect = self._disconnect.open() if self._disconnect else False
        return DISCONNECT if disconnect else INLINE if inline else BYPASS

    def set(self, position: str) -> None:
        """Move the relay, always through the safe state: inline is released first and driven last."""
        if position == DISCONNECT and not self._disconnect:
            raise HardwareError(f"relay {self.spec.name}: this board has no disconnect: use bypass")
        if position != INLINE:
            self._inline.drive(False)
        if self._disconnect:
            self._disconnect.drive(position == DISCONNECT)
        if position == INLINE:
            self._inline.drive(True)

    def read(self) -> str:
        """The position according to the lines, read back from the controller."""
        if self._disconnect and self._disconnect.driven():
            return DISCONNECT
        return INLINE if self._inline.driven() else BYPASS

    def kick(self, level: bool) -> None:
        """Its line needs no sign of life."""

    def close(self) -> None:
        """Release the lines."""
        self._inline.close()
        if self._disconnect:
            self._disconnect.close()
