# SPDX-License-Identifier: GPL-2.0-only
"""Kind "block": a controller on SMBus that takes the position as a block of bytes under one command (SteelHead cards).

The bytes of each position are data of the board. With `read_command` the controller says its position in the same
bytes; without, the last order counts, and a new keeper sends the relay to bypass because it may be anywhere. The
controller goes on by itself when the keeper ends.
"""

from __future__ import annotations

from appliance.errors import HardwareError
from appliance.hardware.relay.i2c import Chip
from appliance.hardware.relay.keys import number
from appliance.hardware.relay.protocol import BYPASS, RelayFaultError, RelaySpec


class BlockRelay:
    """Owns the adapter from `open` to `close`."""

    def __init__(self, spec: RelaySpec) -> None:
        self.spec = spec
        options = spec.options
        self._chip = Chip(spec.name, str(options["adapter"]), number(options["address"]))
        self._command = number(options["command"])
        self._read_command = number(options["read_command"]) if "read_command" in options else None
        self._blocks = {
            key: bytes.fromhex(str(options[key])) for key in ("inline", "bypass", "disconnect") if key in options
        }
        self._position = BYPASS

    def open(self) -> str:
        """The controller's position, or bypass, where it is sent if it does not say its position."""
        self._chip.open()
        if self._read_command is None:
            self.set(BYPASS)
        return self.read()

    def set(self, position: str) -> None:
        """Send the block of the position."""
        if position not in self._blocks:
            raise HardwareError(f"relay {self.spec.name}: this board has no {position}: use bypass")
        self._chip.write_block(self._command, self._blocks[position])
        self._position = position

    def read(self) -> str:
        """The position that the controller says, or the last order. RelayFaultError: it says something else."""
        if self._read_command is None:
            return self._position
        found = self._chip.read_block(self._read_command)
        for position, block in self._blocks.items():
            if found == block:
                return position
        what = f"its controller says {found.hex(' ')!r}"
        raise RelayFaultError(f"relay {self.spec.name}: {what}: board.toml has no position for that")

    def kick(self, level: bool) -> None:
        """It needs no sign of life."""

    def close(self) -> None:
        """Release the adapter; the controller keeps its position."""
        self._chip.close()
