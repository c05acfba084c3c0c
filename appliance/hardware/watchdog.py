# SPDX-License-Identifier: GPL-2.0-only
"""The hardware watchdogs, which reset the board unless they are fed in time.

Owns /dev/watchdogN from `open` on. Opening it starts the countdown, and nothing here stops it again: it continues when
the device is closed and when the process dies. The magic character that would stop it is never written, because the
machine may still hang after the keeper's orderly end; so a driver with `nowayout` behaves like every other one. Only
the keeper creates these objects, and feeds them from its loop. Ioctls: Documentation/watchdog/watchdog-api.rst of the
kernel.

A board may have several devices, for instance that of its processor and a chip on a GPIO line (gpio_wdt): all of them
are armed and fed together, and the first one to expire counts.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from appliance.errors import HardwareError

T = TypeVar("T")

_WDIOC_KEEPALIVE = 0x80045705
_WDIOC_SETTIMEOUT = 0xC0045706
_WDIOC_GETTIMEOUT = 0x80045707
_WDIOC_SETPRETIMEOUT = 0xC0045708
_WDIOC_GETPRETIMEOUT = 0x80045709
_WDIOF_CARDRESET = 0x20
SOFTDOG = "Software Watchdog"
"""Identity of the kernel's softdog (drivers/watchdog/softdog.c)."""


class WatchdogDevice(NamedTuple):
    """One device as it is, read back. `note`: what differs from what was requested."""

    name: str
    identity: str
    timeout_ms: int
    pretimeout_ms: int = 0
    nowayout: bool = False
    note: str = ""


_UNABLE = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY)  # the device cannot do that, or not with this value


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
    """One open watchdog device. `pretimeout_ms`: what is requested, if anything."""

    def __init__(self, path: str, fd: int, pretimeout_ms: int = 0, sysfs: str = "/sys/class/watchdog") -> None:
        self.path = path
        self._fd = fd
        self._pretimeout_ms = pretimeout_ms
        self._folder = os.path.join(sysfs, os.path.basename(path))
        self._asked_ms = 0

    @classmethod
    def open(cls, path: str, pretimeout_ms: int = 0) -> Watchdog:
        """Open the device, which starts the countdown with its present timeout. HardwareError: missing or busy."""
        try:
            return cls(path, os.open(path, os.O_WRONLY | os.O_CLOEXEC), pretimeout_ms)
        except OSError as error:
            hint = "another program feeds it: stop that program" if error.errno == errno.EBUSY else "check its driver"
            raise HardwareError(f"{path}: {error.strerror}: {hint}") from error

    def set_timeout(self, milliseconds: int) -> int:
        """Request a timeout; returns the device's resulting timeout in milliseconds.

        The interface has whole seconds, so the request is rounded down (never later than requested, at least 1 s), and
        the device may round again. A device that cannot change its timeout keeps it.
        """
        self._asked_ms = max(1, milliseconds // 1000) * 1000
        try:
            fcntl.ioctl(self._fd, _WDIOC_SETTIMEOUT, struct.pack("=i", self._asked_ms // 1000))
        except OSError as error:
            if error.errno not in _UNABLE:
                raise HardwareError(f"{self.path}: the timeout cannot be set: {error.strerror}") from error
        timeout = self.timeout()
        self._set_pretimeout(timeout)
        return timeout

    def _set_pretimeout(self, timeout_ms: int) -> None:
        """After each change of the timeout, because the kernel drops one that does not fit. 0 where it never fits."""
        if not self._pretimeout_ms and not self.pretimeout():
            return
        fitting = self._pretimeout_ms if self._pretimeout_ms < timeout_ms else 0
        try:
            fcntl.ioctl(self._fd, _WDIOC_SETPRETIMEOUT, struct.pack("=i", fitting // 1000))
        except OSError as error:
            if error.errno not in _UNABLE:
                raise HardwareError(f"{self.path}: the pre-timeout cannot be set: {error.strerror}") from error

    def pretimeout(self) -> int:
        """How long before the reset the kernel panics, in milliseconds; 0: it does not."""
        try:
            (seconds,) = struct.unpack("=i", fcntl.ioctl(self._fd, _WDIOC_GETPRETIMEOUT, bytes(4)))
        except OSError:
            return 0  # the device has none
        return max(0, int(seconds)) * 1000

    def facts(self) -> WatchdogDevice:
        """The device as it is now, read back. HardwareError as `timeout`."""
        timeout, pretimeout = self.timeout(), self.pretimeout()
        identity = _first_line(os.path.join(self._folder, "identity"))
        notes = []
        if timeout != self._asked_ms:
            notes.append(f"{self._asked_ms} ms requested, the device took {timeout} ms")
        if pretimeout != self._pretimeout_ms:
            wanted = f"a pre-timeout of {self._pretimeout_ms} ms"
            if self._pretimeout_ms >= timeout:
                notes.append(f"{wanted} does not fit into {timeout} ms: set a longer timeout")
            else:
                notes.append(f"{wanted} requested, the device took {pretimeout or 'none'}")
        if identity == SOFTDOG:
            notes.append("the kernel's own timer, which ends with the kernel: the last resort")
        nowayout = _first_line(os.path.join(self._folder, "nowayout")) == "1"
        return WatchdogDevice(os.path.basename(self.path), identity, timeout, pretimeout, nowayout, "; ".join(notes))

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


class Watchdogs:
    """All watchdogs of a board, armed and fed together. What fails with one fails."""

    def __init__(self, devices: Sequence[Watchdog]) -> None:
        self.devices = devices

    @classmethod
    def open(cls, drivers: Sequence[str], pretimeout_ms: int = 0) -> Watchdogs:
        """Open one device for each of `drivers`. HardwareError: one is missing or busy; then none stays open."""
        opened: list[Watchdog] = []
        try:
            for driver in drivers:
                opened.append(Watchdog.open(find(driver), pretimeout_ms))
        except HardwareError:
            for device in opened:
                device.close()
            raise
        return cls(opened)

    def set_timeout(self, milliseconds: int) -> int:
        """As `Watchdog.set_timeout`, for all of them; returns the shortest."""
        return min(self._each(lambda device: device.set_timeout(milliseconds)))

    def facts(self) -> tuple[WatchdogDevice, ...]:
        """Each of them as it is now."""
        return tuple(device.facts() for device in self.devices)

    def feed(self) -> None:
        """Restart all countdowns."""
        self._each(lambda device: device.feed())

    def close(self) -> None:
        """Close them; the countdowns continue."""
        for device in self.devices:
            device.close()

    def _each(self, call: Callable[[Watchdog], T]) -> list[T]:
        """One that fails keeps no other from its turn."""
        results, failed = [], None
        for device in self.devices:
            try:
                results.append(call(device))
            except HardwareError as error:
                failed = error
        if failed is not None:
            raise failed
        return results
