# SPDX-License-Identifier: GPL-2.0-only
"""An I2C adapter of the board, and the chips behind it: a bypass controller and an expander.

`Adapter` has the driver's requests (virtio specification 1.2, 5.19); the chips are found by address. `Controller` is a
Lanner controller of generation 3 with two pairs: it goes on counting whatever the machine does, which is what such a
controller is for. `Expander` is a PCA9535: it keeps its pins until its own reset, whatever the machine does. Pure; the
vhost-user backend calls them, and times are seconds of the caller's clock.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Protocol

HEADER = struct.Struct("<HHI")
READ = 2  # flag of a request
OK, ERROR = b"\0", b"\1"

ADDRESS, EXPANDER = 0x37, 0x20
CAPABILITIES, PAIRS = 0x03, (0x04, 0x05, 0x06)
WITHOUT_POWER, POWER_UP, POSITION = 0x10, 0x11, 0x12
WATCHED, SECONDS, START, STOP = 0x21, 0x22, 0x24, 0x25
BOTH = 0x03  # both pairs


class Chip(Protocol):
    """A chip on the bus."""

    def write(self, data: bytes) -> None: ...

    def read(self, count: int) -> bytes: ...


class Adapter:
    """The adapter. `refuses`: no chip acknowledges anything, as on a disturbed bus."""

    features = 1  # VIRTIO_I2C_F_ZERO_LENGTH_REQUEST, without which the driver takes no adapter
    config = b""

    def __init__(self, chips: Mapping[int, Chip]) -> None:
        self._chips = chips
        self.refuses = False

    def request(self, data: bytes, room: int) -> bytes:
        """One message of a transfer: the bytes read, if any, and its status in the last byte."""
        if len(data) < HEADER.size:
            return bytes(max(0, room - 1)) + ERROR
        address, _, flags = HEADER.unpack_from(data)
        chip = self._chips.get(address >> 1)
        if chip is None or self.refuses:
            return bytes(max(0, room - 1)) + ERROR
        if flags & READ:
            return chip.read(room - 1) + OK
        chip.write(data[HEADER.size :])
        return OK

    def release(self, cause: str) -> None:
        """A chip does not notice that the driver is gone."""


class Controller:
    """The controller. `changed` is called when the position may have changed; `clock` is the time in seconds."""

    def __init__(self, clock: Callable[[], float], changed: Callable[[], None]) -> None:
        self._clock, self._changed = clock, changed
        self._pointer = 0
        self.due: float | None = None  # when its watchdog expires
        self.registers: dict[int, int] = {}
        self.power_up()

    def power_up(self) -> None:
        """Its supply comes back: both pairs in bypass, no watchdog."""
        self.registers = {CAPABILITIES: 0x0F, POSITION: BOTH, WITHOUT_POWER: BOTH, POWER_UP: BOTH, WATCHED: 0}
        self.registers.update(dict.fromkeys(PAIRS, BOTH))
        self.due = None

    def write(self, data: bytes) -> None:
        """A command, and its value if there is one."""
        if not data:
            return
        self._pointer = data[0]
        if len(data) < 2:
            return
        self.count()
        self.registers[data[0]] = data[1]
        if data[0] == START:
            self.due = self._clock() + self.registers.get(SECONDS, 0)
        elif data[0] == STOP:
            self.due = None
        self._changed()

    def read(self, count: int) -> bytes:
        """The command that was read, with bit 7 set, and its value."""
        self.count()
        answer = bytes([self._pointer | 0x80, self.registers.get(self._pointer, 0)])
        return (answer + bytes(count))[:count]

    def count(self) -> None:
        """Let the watchdog expire if it is due."""
        if self.due is not None and self._clock() >= self.due:
            self.due = None
            self.registers[POSITION] |= self.registers[WATCHED]

    def bypassed(self, pair: int) -> bool:
        """Whether a pair is joined; counted from 1."""
        self.count()
        return bool(self.registers[POSITION] & 1 << (pair - 1))


class Expander:
    """Sixteen pins in pairs of registers: input 0 and 1, output 2 and 3, polarity 4 and 5, direction 6 and 7.

    A direction of 1 is an input, which is pulled low. `changed` is called when the pins may have changed.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._pointer = 0
        self.registers = bytearray(8)
        self.power_up()

    def power_up(self) -> None:
        """Its supply comes back, or its reset pin was pulled: all pins are inputs."""
        self.registers[:] = bytes([0, 0, 0xFF, 0xFF, 0, 0, 0xFF, 0xFF])

    def write(self, data: bytes) -> None:
        """A register, and what is written from it on; the second byte of a pair is followed by the first one."""
        if not data:
            return
        self._pointer = data[0] & 7
        for value in data[1:]:
            if self._pointer > 1:  # the inputs cannot be written
                self.registers[self._pointer] = value
            self._pointer ^= 1
        if len(data) > 1:
            self._changed()

    def read(self, count: int) -> bytes:
        """The register that was named last, then the other one of its pair."""
        found = bytearray()
        for _ in range(count):
            found.append(self._level(self._pointer) if self._pointer < 2 else self.registers[self._pointer])
            self._pointer ^= 1
        return bytes(found)

    def high(self, pin: int) -> bool:
        """Whether a pin is driven high."""
        bank, bit = divmod(pin, 8)
        return bool(self.registers[2 + bank] & ~self.registers[6 + bank] & 1 << bit)

    def _level(self, bank: int) -> int:
        pins = self.registers[2 + bank] & ~self.registers[6 + bank] & 0xFF
        return pins ^ self.registers[4 + bank]
