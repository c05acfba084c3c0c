# SPDX-License-Identifier: GPL-2.0-only
"""Kind "port": some bits of an I/O port of a PC, or of a register of its Super-I/O chip, through /dev/port.

`mask` has the bits that belong to the relay; `inline`, `bypass` and `disconnect` are their values. With
`logical_device` the byte is a register of that device in a Winbond or Nuvoton Super-I/O chip, which is unlocked for
each access and locked again. The bits keep their value whatever happens to the keeper; only the board's watchdog opens
the relay.

A kernel that is locked down refuses /dev/port, and one without CONFIG_DEVPORT has none: the relay is then unsupported.
Nothing else may use the same Super-I/O chip at the same time: a kernel driver that has it takes turns with nobody here.
"""

from __future__ import annotations

import errno
import os

from appliance.errors import HardwareError
from appliance.hardware.relay.keys import number
from appliance.hardware.relay.protocol import RelayBusError, RelayFaultError, RelaySpec, UnsupportedRelayError

DEVICE = "/dev/port"
_UNLOCK, _LOCK, _LOGICAL_DEVICE = 0x87, 0xAA, 0x07


class PortRelay:
    """Owns /dev/port from `open` to `close`."""

    def __init__(self, spec: RelaySpec) -> None:
        self.spec = spec
        options = spec.options
        self._mask = number(options["mask"])
        self._values = {key: number(options[key]) for key in ("inline", "bypass", "disconnect") if key in options}
        self._port = number(options["port"])
        self._logical = number(options["logical_device"]) if "logical_device" in options else None
        self._register = number(options["register"]) if "register" in options else 0
        self._fd = -1

    def open(self) -> str:
        """The position as the bits show it. UnsupportedRelayError: the kernel refuses I/O ports."""
        self.close()
        try:
            self._fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            why = {
                errno.ENOENT: "this kernel has no /dev/port (CONFIG_DEVPORT)",
                errno.EPERM: "the kernel is locked down and refuses I/O ports: boot it without lockdown",
                errno.EACCES: "no permission for /dev/port: run the keeper as root",
            }.get(error.errno or 0, f"/dev/port cannot be opened: {error.strerror}")
            raise UnsupportedRelayError(f"relay {self.spec.name}: {why}") from error
        return self.read()

    def set(self, position: str) -> None:
        """Change the relay's bits and no others."""
        if position not in self._values:
            raise HardwareError(f"relay {self.spec.name}: this board has no {position}: use bypass")
        self._access((self._mask, self._values[position]))

    def read(self) -> str:
        """The position of the bits. RelayFaultError: they are none."""
        bits = self._access(None) & self._mask
        for position, value in self._values.items():
            if bits == value:
                return position
        raise RelayFaultError(f"relay {self.spec.name}: its bits are 0x{bits:02x}: board.toml has no position for that")

    def kick(self, level: bool) -> None:
        """It needs no sign of life."""

    def close(self) -> None:
        """Release the ports; the bits keep their values."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _access(self, change: tuple[int, int] | None) -> int:
        """Read the byte, and write it with (mask, value) changed. A Super-I/O chip is locked again in any case."""
        if self._fd < 0:
            raise HardwareError(f"relay {self.spec.name}: /dev/port is not open")
        try:
            if self._logical is None:
                return self._change(self._port, change)
            self._out(self._port, _UNLOCK)
            self._out(self._port, _UNLOCK)
            try:
                self._out(self._port, _LOGICAL_DEVICE)
                self._out(self._port + 1, self._logical)
                self._out(self._port, self._register)
                return self._change(self._port + 1, change)
            finally:
                self._out(self._port, _LOCK)
        except OSError as error:
            raise RelayBusError(f"relay {self.spec.name}: I/O port 0x{self._port:x}: {error.strerror}") from error

    def _change(self, port: int, change: tuple[int, int] | None) -> int:
        byte = self._in(port)
        if change is not None:
            mask, value = change
            byte = byte & ~mask | value
            self._out(port, byte)
        return byte

    def _in(self, port: int) -> int:
        return os.pread(self._fd, 1, port)[0]

    def _out(self, port: int, value: int) -> None:
        os.pwrite(self._fd, bytes([value]), port)
