# SPDX-License-Identifier: GPL-2.0-only
"""Registers behind an I2C or SMBus adapter, for the kinds of relay that have a chip there.

periphery does the transfers where the adapter speaks I2C; one that speaks SMBus only (the usual one of a PC) is driven
through smbus2, with the same bytes on the wire. A transfer may take as long as the adapter's driver waits, seconds; it
never runs in the keeper's loop. Every failure is a RelayBusError with one line.
"""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from appliance.errors import HardwareError
from appliance.hardware.relay.protocol import RelayBusError, UnsupportedRelayError

T = TypeVar("T")
BLOCK_BYTES = 32  # SMBus


class Bus(Protocol):
    """One adapter. OSError: the transfer failed."""

    def read_byte(self, address: int, register: int) -> int:
        """One byte of a register."""

    def read_word(self, address: int, register: int) -> int:
        """Two bytes of a register, the low one first."""

    def write_byte(self, address: int, register: int, value: int) -> None:
        """Write one byte of a register."""

    def read_block(self, address: int, command: int) -> bytes:
        """An SMBus block: the chip says how long it is."""

    def write_block(self, address: int, command: int, data: bytes) -> None:
        """Write an SMBus block."""

    def close(self) -> None:
        """Release the adapter."""


class PeripheryBus:
    """An adapter that speaks I2C."""

    def __init__(self, path: str) -> None:
        """OSError: it cannot be opened; without an errno: it does not speak I2C."""
        from periphery.i2c import I2C

        self._message: Callable[..., Any] = I2C.Message
        self._i2c = I2C(path)

    def _read(self, address: int, register: int, count: int) -> bytes:
        found = self._message(bytes(count), read=True)
        self._i2c.transfer(address, [self._message(bytes([register])), found])
        return bytes(found.data)

    def read_byte(self, address: int, register: int) -> int:
        return self._read(address, register, 1)[0]

    def read_word(self, address: int, register: int) -> int:
        return int.from_bytes(self._read(address, register, 2), "little")

    def write_byte(self, address: int, register: int, value: int) -> None:
        self._i2c.transfer(address, [self._message(bytes([register, value]))])

    def read_block(self, address: int, command: int) -> bytes:
        count, *data = self._read(address, command, BLOCK_BYTES + 1)
        return bytes(data[:count])

    def write_block(self, address: int, command: int, data: bytes) -> None:
        self._i2c.transfer(address, [self._message(bytes([command, len(data)]) + data)])

    def close(self) -> None:
        self._i2c.close()


class SmbusBus:
    """An adapter that speaks SMBus only."""

    def __init__(self, path: str) -> None:
        """OSError: it cannot be opened. ImportError: the image has no smbus2."""
        from smbus2 import SMBus

        self._smbus = SMBus(path)

    def read_byte(self, address: int, register: int) -> int:
        return int(self._smbus.read_byte_data(address, register))

    def read_word(self, address: int, register: int) -> int:
        return int(self._smbus.read_word_data(address, register))

    def write_byte(self, address: int, register: int, value: int) -> None:
        self._smbus.write_byte_data(address, register, value)

    def read_block(self, address: int, command: int) -> bytes:
        return bytes(self._smbus.read_block_data(address, command))

    def write_block(self, address: int, command: int, data: bytes) -> None:
        self._smbus.write_block_data(address, command, list(data))

    def close(self) -> None:
        self._smbus.close()


def find_adapter(name: str, sysfs: str = "/sys/class/i2c-dev", dev: str = "/dev") -> str:
    """Path of the adapter `name`: a path, or the beginning of the adapter's name, because its number is not stable.

    HardwareError lists the adapters that were found instead.
    """
    if name.startswith("/"):
        return name
    seen = []
    for folder in sorted(glob.glob(os.path.join(glob.escape(sysfs), "i2c-*"))):
        try:
            with open(os.path.join(folder, "name"), encoding="ascii", errors="replace") as file:
                found = file.readline().strip()
        except OSError as error:
            found = f"unreadable ({error.strerror})"
        if found.startswith(name):
            return os.path.join(dev, os.path.basename(folder))
        seen.append(f'{os.path.basename(folder)} is "{found}"')
    there = "; ".join(seen) or "there are none"
    raise HardwareError(f'I2C adapter "{name}" not found ({there}): load its driver, or correct board.toml')


def driver_of(path: str, address: int, sysfs: str = "/sys/bus/i2c/devices") -> str:
    """The kernel driver that has the chip at an address of this adapter; "" if none has."""
    chip = f"{os.path.basename(path).removeprefix('i2c-')}-{address:04x}"
    link = os.path.join(sysfs, chip, "driver")
    return os.path.basename(os.path.realpath(link)) if os.path.exists(link) else ""


def open_bus(path: str) -> Bus:
    """Open an adapter in the way that it speaks. HardwareError: missing or refused."""
    try:
        return PeripheryBus(path)
    except OSError as error:
        if error.errno is not None:
            hint = "load i2c-dev and the adapter's driver" if error.errno == errno.ENOENT else "check the adapter"
            raise HardwareError(f"{path} cannot be opened: {error.strerror}: {hint}") from error
    try:
        return SmbusBus(path)
    except ImportError as error:
        what = f"{path} speaks SMBus only, and the image has no python-smbus2"
        raise UnsupportedRelayError(f"{what}: build it into the image") from error
    except OSError as error:
        raise HardwareError(f"{path} cannot be opened: {error.strerror}: check the adapter") from error


class Chip:
    """One chip on an adapter, by name and address. `open` before anything else."""

    def __init__(self, relay: str, adapter: str, address: int) -> None:
        self._relay, self._adapter, self._address = relay, adapter, address
        self._bus: Bus | None = None

    def open(self) -> None:
        """HardwareError: no such adapter, or a kernel driver has the chip."""
        self.close()
        path = find_adapter(self._adapter)
        if driver := driver_of(path, self._address):
            what = f"the kernel driver {driver} has the chip at 0x{self._address:02x}"
            raise UnsupportedRelayError(
                f'relay {self._relay}: {what}: use kind "level" with its GPIO line, or unbind it'
            )
        self._bus = open_bus(path)

    def read_byte(self, register: int) -> int:
        return self._call(f"reading register 0x{register:02x}", lambda bus: bus.read_byte(self._address, register))

    def read_word(self, register: int) -> int:
        return self._call(f"reading register 0x{register:02x}", lambda bus: bus.read_word(self._address, register))

    def write_byte(self, register: int, value: int) -> None:
        what = f"writing register 0x{register:02x}"
        self._call(what, lambda bus: bus.write_byte(self._address, register, value))

    def read_block(self, command: int) -> bytes:
        return self._call(f"reading block 0x{command:02x}", lambda bus: bus.read_block(self._address, command))

    def write_block(self, command: int, data: bytes) -> None:
        what = f"writing block 0x{command:02x}"
        self._call(what, lambda bus: bus.write_block(self._address, command, data))

    def _call(self, what: str, transfer: Callable[[Bus], T]) -> T:
        """RelayBusError: the transfer failed."""
        if self._bus is None:
            raise HardwareError(f"relay {self._relay}: its I2C adapter is not open")
        try:
            return transfer(self._bus)
        except OSError as error:
            where = f"chip 0x{self._address:02x} on {self._adapter}"
            raise RelayBusError(f"relay {self._relay}: {where}: {what} failed: {error.strerror or error}") from error

    def close(self) -> None:
        """Never fails: the adapter may be gone."""
        bus, self._bus = self._bus, None
        if bus is not None:
            try:
                bus.close()
            except OSError:
                pass  # nothing is left to release
