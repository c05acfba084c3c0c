# SPDX-License-Identifier: GPL-2.0-only
"""Kind "bypass-controller": a controller with its own watchdog behind I2C or SMBus registers (Lanner, generation 3).

A command is written as register and value; reading gives a word whose low byte is the command with bit 7 set and whose
high byte is the value. Pair n is bit n-1 of a mask, in which 1 means bypass.

    03 capabilities: 01 system off, 02 just on, 04 run time, 08 watchdog   06 pairs that can be set at run time
    12 position at run time   21 pairs that the watchdog brings to bypass   22 its time in seconds   24 start   25 stop

With `watchdog` the relay opens that long after the keeper's last sign of life, whatever ended it; without, it stays
where it is. The settings for power off and power up are not touched: saving them takes one of the 10,000 writes of the
controller's memory, so they are set when the board is made. Capabilities are what the controller says about itself.
"""

from __future__ import annotations

from appliance.errors import HardwareError
from appliance.hardware.relay.i2c import Chip
from appliance.hardware.relay.keys import milliseconds, number
from appliance.hardware.relay.protocol import (
    BYPASS,
    DISCONNECT,
    INLINE,
    RelayBusError,
    RelayFaultError,
    RelaySpec,
    UnsupportedRelayError,
)

_CAPABILITIES, _RUN_TIME_PAIRS = 0x03, 0x06
_POSITION, _WATCHDOG_PAIRS, _SECONDS, _START, _STOP = 0x12, 0x21, 0x22, 0x24, 0x25
_WRITABLE = (_POSITION, _WATCHDOG_PAIRS, _SECONDS, _START, _STOP)
_CAN_RUN_TIME, _CAN_WATCHDOG = 0x04, 0x08


class ControllerRelay:
    """One pair of a controller. Several pairs share its registers, and one bus thread."""

    def __init__(self, spec: RelaySpec) -> None:
        self.spec = spec
        options = spec.options
        self._chip = Chip(spec.name, str(options["adapter"]), number(options.get("address", 0x37)))
        self._bit = 1 << (number(options["pair"]) - 1)
        self._seconds = round(milliseconds(options["watchdog"]) / 1000) if "watchdog" in options else 0

    def open(self) -> str:
        """The position as the controller has it. UnsupportedRelayError: it says that it cannot do what is needed."""
        self._chip.open()
        can = self._read(_CAPABILITIES)
        if not can & _CAN_RUN_TIME or not self._read(_RUN_TIME_PAIRS) & self._bit:
            raise UnsupportedRelayError(f"relay {self.spec.name}: its controller cannot move this pair at run time")
        if self._seconds and not can & _CAN_WATCHDOG:
            what = "its controller has no watchdog"
            raise UnsupportedRelayError(f"relay {self.spec.name}: {what}: remove `watchdog` from board.toml")
        return self.read()

    def set(self, position: str) -> None:
        """Inline: the watchdog counts before the relay moves. Bypass: the relay moves before the watchdog ends."""
        if position == DISCONNECT:
            raise HardwareError(f"relay {self.spec.name}: this board has no disconnect: use bypass")
        if position == INLINE:
            self._watch()
        self._put(_POSITION, position != INLINE)
        if position != INLINE and self._seconds and not self._put(_WATCHDOG_PAIRS, False):
            self._write(_STOP, 1)

    def read(self) -> str:
        """The position as the controller has it."""
        return BYPASS if self._read(_POSITION) & self._bit else INLINE

    def kick(self, level: bool) -> None:
        """Restart its watchdog."""
        self._write(_START, 1)

    def close(self) -> None:
        """Release the adapter; the controller goes on by itself."""
        self._chip.close()

    def _watch(self) -> None:
        if not self._seconds:
            return
        self._write(_SECONDS, self._seconds)
        if self._read(_SECONDS) != self._seconds:
            raise RelayFaultError(f"relay {self.spec.name}: its controller refuses a watchdog of {self._seconds} s")
        self._put(_WATCHDOG_PAIRS, True)
        self._write(_START, 1)

    def _put(self, command: int, bit: bool) -> int:
        """Set this pair's bit of a mask, and return the mask."""
        before = self._read(command)
        after = before | self._bit if bit else before & ~self._bit
        if after != before:
            self._write(command, after)
        return after

    def _read(self, command: int) -> int:
        word = self._chip.read_word(command)
        if word & 0xFF != command | 0x80:
            what = f"its controller answers 0x{word:04x} to command 0x{command:02x}"
            raise RelayBusError(
                f"relay {self.spec.name}: {what}: another chip has its address, or the bus is disturbed"
            )
        return word >> 8

    def _write(self, command: int, value: int) -> None:
        if command not in _WRITABLE:
            raise ValueError(f"command 0x{command:02x} is never written at run time")
        self._chip.write_byte(command, value)
