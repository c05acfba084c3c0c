# SPDX-License-Identifier: GPL-2.0-only
"""The hardware watchdog, which resets the board unless it is fed in time.

Owns /dev/watchdogN from `open` on. Opening it starts the countdown, and nothing here stops it again: it continues when
the device is closed and when the process dies. The magic character that would stop it is never written, because the
machine may still hang after the keeper's orderly end. Only the keeper creates this object, and feeds it from its loop.
Ioctls: Documentation/watchdog/watchdog-api.rst of the kernel.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import struct

from appliance.errors import HardwareError

_WDIOC_KEEPALIVE = 0x80045705
_WDIOC_SETTIMEOUT = 0xC0045706
_WDIOC_GETTIMEOUT = 0x80045707
_WDIOF_CARDRESET = 0x20
SOFTDOG = "Software Watchdog"
"""Identity of the kernel's softdog (drivers/watchdog/softdog.c)."""


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline().strip()
    except OSError:
        return ""


def find(driver: str, sysfs: str = "/sys/class/watchdog", dev: str = "/dev") -> str:
    """Path of the watchdog whose kernel driver or identity is `driver`.

    "" takes the first device, and the kernel's own timer (softdog), which ends with the kernel, only if there is none.
    HardwareError lists the devices that were found instead.
    """
    others: list[str] = []
    last_resort = ""
    for folder in sorted(glob.glob(os.path.join(glob.escape(sysfs), "watchdog*"))):
        identity = _first_line(os.path.join(folder, "identity"))
        bound = os.path.basename(os.path.realpath(os.path.join(folder, "device", "driver")))
        path = os.path.join(dev, os.path.basename(folder))
        if not driver and identity == SOFTDOG:
            last_resort = last_resort or path
            continue
        if not driver or driver == bound or driver.lower() in identity.lower():
            return path
        others.append(f"{os.path.basename(folder)} is {identity or bound}")
    if last_resort:
        return last_resort
    there = "; ".join(others) or "there are none"
    wanted = f'watchdog "{driver}"' if driver else "a hardware watchdog"
    raise HardwareError(f"{wanted} not found ({there}): load its driver, or correct [watchdog] in board.toml")


def that_reset(sysfs: str = "/sys/class/watchdog") -> str:
    """The watchdog whose flag says that it reset the machine before this boot; "" if none does.

    Few devices keep such a flag over the reset, so none proves nothing.
    """
    for folder in sorted(glob.glob(os.path.join(glob.escape(sysfs), "watchdog*"))):
        said = _first_line(os.path.join(folder, "bootstatus"))
        if said.isdigit() and int(said) & _WDIOF_CARDRESET:
            return _first_line(os.path.join(folder, "identity")) or os.path.basename(folder)
    return ""


class Watchdog:
    """One open watchdog device."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def open(cls, path: str) -> Watchdog:
        """Open the device, which starts the countdown with its present timeout. HardwareError: missing or busy."""
        try:
            return cls(path, os.open(path, os.O_WRONLY | os.O_CLOEXEC))
        except OSError as error:
            hint = "another program feeds it: stop that program" if error.errno == errno.EBUSY else "check its driver"
            raise HardwareError(f"{path}: {error.strerror}: {hint}") from error

    def set_timeout(self, milliseconds: int) -> int:
        """Request a timeout; returns the device's resulting timeout in milliseconds.

        The interface has whole seconds, so the request is rounded down (never later than requested, at least 1 s), and
        the device may round again. A device that cannot change its timeout keeps it.
        """
        seconds = struct.pack("=i", max(1, milliseconds // 1000))
        try:
            fcntl.ioctl(self._fd, _WDIOC_SETTIMEOUT, seconds)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY):
                raise HardwareError(f"{self.path}: the timeout cannot be set: {error.strerror}") from error
        return self.timeout()

    def timeout(self) -> int:
        """The device's timeout in milliseconds, at least 1000. HardwareError: unknown or unusable."""
        try:
            (seconds,) = struct.unpack("=i", fcntl.ioctl(self._fd, _WDIOC_GETTIMEOUT, bytes(4)))
        except OSError as error:
            raise HardwareError(f"{self.path}: the timeout cannot be read: {error.strerror}") from error
        if seconds < 1:
            raise HardwareError(f"{self.path}: reports a timeout of {seconds} s: check its driver")
        return int(seconds) * 1000

    def feed(self) -> None:
        """Restart the countdown; HardwareError if the device is gone."""
        try:
            fcntl.ioctl(self._fd, _WDIOC_KEEPALIVE, bytes(4))
        except OSError as error:
            raise HardwareError(f"{self.path}: cannot be fed: {error.strerror}") from error

    def close(self) -> None:
        """Close the device; the countdown continues."""
        os.close(self._fd)
