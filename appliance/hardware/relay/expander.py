# SPDX-License-Identifier: GPL-2.0-only
"""Kind "expander": the coil is on a pin of an I2C expander (PCA9535, PCA9555 and alike) that no kernel driver has.

Sixteen pins in pairs of registers: input 0 and 1, output 2 and 3, direction 6 and 7 (1: input). Where the kernel's GPIO
driver has the chip, the kind is "level" with that driver's line. A chip keeps its pins whatever happens to the keeper
or to the bus, so only the board's watchdog opens the relay then; a reset of the chip makes its pins inputs, which
releases the coil. The position is read from the pins themselves, not from what was written to them.
"""

from __future__ import annotations

from appliance.errors import HardwareError
from appliance.hardware.relay.i2c import Chip
from appliance.hardware.relay.keys import number
from appliance.hardware.relay.protocol import BYPASS, DISCONNECT, INLINE, RelayFaultError, RelaySpec

_INPUT, _OUTPUT, _DIRECTION = 0, 2, 6


class ExpanderRelay:
    """Drives up to two pins: the coil, and a second relay that separates both ports."""

    def __init__(self, spec: RelaySpec) -> None:
        self.spec = spec
        options = spec.options
        self._chip = Chip(spec.name, str(options["adapter"]), number(options["address"]))
        self._pin = number(options["pin"])
        self._disconnect = number(options["disconnect"]) if "disconnect" in options else None
        self._high = options.get("active", "high") == "high"

    def open(self) -> str:
        """Take the pins: one that an earlier keeper drives stays driven, every other one starts released."""
        self._chip.open()
        for pin in self._pins():
            if not (self._output(pin) and self._level(_OUTPUT, pin) == self._high):
                self._drive(pin, False)
        return self.read()

    def set(self, position: str) -> None:
        """Move the relay, always through the safe state: inline is released first and driven last."""
        if position == DISCONNECT and self._disconnect is None:
            raise HardwareError(f"relay {self.spec.name}: this board has no disconnect: use bypass")
        if position != INLINE:
            self._drive(self._pin, False)
        if self._disconnect is not None:
            self._drive(self._disconnect, position == DISCONNECT)
        if position == INLINE:
            self._drive(self._pin, True)

    def read(self) -> str:
        """The position by the levels of the pins. RelayFaultError: the chip lost its settings."""
        for pin in self._pins():
            if not self._output(pin):
                raise RelayFaultError(f"relay {self.spec.name}: pin {pin} is an input again: the expander was reset")
        if self._disconnect is not None and self._level(_INPUT, self._disconnect) == self._high:
            return DISCONNECT
        return INLINE if self._level(_INPUT, self._pin) == self._high else BYPASS

    def kick(self, level: bool) -> None:
        """It needs no sign of life."""

    def close(self) -> None:
        """Release the adapter; the pins keep their levels."""
        self._chip.close()

    def _pins(self) -> tuple[int, ...]:
        return (self._pin,) if self._disconnect is None else (self._pin, self._disconnect)

    def _level(self, register: int, pin: int) -> bool:
        return bool(self._chip.read_byte(register + pin // 8) >> pin % 8 & 1)

    def _output(self, pin: int) -> bool:
        return not self._level(_DIRECTION, pin)

    def _drive(self, pin: int, driven: bool) -> None:
        """The level first, then the direction: a pin never shows the wrong one."""
        self._put(_OUTPUT, pin, driven == self._high)
        self._put(_DIRECTION, pin, False)

    def _put(self, register: int, pin: int, bit: bool) -> None:
        register += pin // 8
        before, mask = self._chip.read_byte(register), 1 << pin % 8
        after = before | mask if bit else before & ~mask
        if after != before:
            self._chip.write_byte(register, after)
