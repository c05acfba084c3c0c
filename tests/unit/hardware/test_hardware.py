# SPDX-License-Identifier: GPL-2.0-only
"""The watchdog without hardware: messages. The device is tested in tests/image."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.errors import HardwareError
from appliance.hardware import watchdog

# -- watchdog


def fake_sysfs(root: Path, number: int, identity: str, driver: str) -> None:
    folder = root / "sys" / f"watchdog{number}"
    folder.mkdir(parents=True)
    (folder / "identity").write_text(identity + "\n")
    (root / "drivers" / driver).mkdir(parents=True)
    (folder / "device").mkdir()
    (folder / "device" / "driver").symlink_to(root / "drivers" / driver)


def test_the_watchdog_is_found_by_driver_or_identity(tmp_path: Path) -> None:
    fake_sysfs(tmp_path, 0, "Software Watchdog", "softdog")
    fake_sysfs(tmp_path, 1, "i6300ESB timer", "i6300esb")
    sysfs = str(tmp_path / "sys")
    assert watchdog.find("i6300esb", sysfs) == "/dev/watchdog1"
    assert watchdog.find("i6300ESB timer", sysfs) == "/dev/watchdog1"
    assert watchdog.find("", sysfs) == "/dev/watchdog1", "the kernel's own timer is no device"
    assert watchdog.find("softdog", sysfs) == "/dev/watchdog0"
    with pytest.raises(HardwareError, match="watchdog0 is Software Watchdog"):
        watchdog.find("iTCO_wdt", sysfs)


def test_the_kernels_own_timer_is_the_last_resort(tmp_path: Path) -> None:
    fake_sysfs(tmp_path, 0, "Software Watchdog", "softdog")
    assert watchdog.find("", str(tmp_path / "sys")) == "/dev/watchdog0"


def test_no_watchdog_at_all(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match="there are none"):
        watchdog.find("", str(tmp_path))
    with pytest.raises(HardwareError, match="No such file"):
        watchdog.Watchdog.open(str(tmp_path / "watchdog0"))


def test_closing_leaves_the_device_counting(tmp_path: Path) -> None:
    """The magic character that stops it is never written, nor anything else."""
    path = tmp_path / "dog"
    path.touch()
    watchdog.Watchdog.open(str(path)).close()
    assert path.read_bytes() == b""


def test_a_device_that_refuses_is_a_named_error(tmp_path: Path) -> None:
    path = tmp_path / "dog"
    path.touch()
    dog = watchdog.Watchdog(str(path), os.open(path, os.O_WRONLY))
    with pytest.raises(HardwareError, match="cannot be fed"):
        dog.feed()
    dog.close()


@pytest.mark.parametrize(("flags", "found"), [("32", "imx2+ watchdog"), ("0", ""), ("8", ""), ("rubbish", "")])
def test_a_device_may_say_that_it_reset_the_machine(tmp_path: Path, flags: str, found: str) -> None:
    fake_sysfs(tmp_path, 0, "Software Watchdog", "softdog")
    fake_sysfs(tmp_path, 1, "imx2+ watchdog", "imx2-wdt")
    (tmp_path / "sys/watchdog1/bootstatus").write_text(flags + "\n")
    assert watchdog.that_reset(str(tmp_path / "sys")) == found


class Dog:
    """What the kernel does for a device: `takes` is what becomes of a timeout, `early` whether it has a pre-timeout."""

    def __init__(self, takes: Callable[[int], int] = lambda seconds: seconds, early: bool = True) -> None:
        self.takes, self.early, self.timeout, self.pretimeout, self.fed = takes, early, 30, 0, 0
        self.gone = False

    def ioctl(self, fd: int, request: int, data: bytes) -> bytes:
        (value,) = struct.unpack("=i", data)
        if self.gone:
            raise OSError(errno.ENODEV, "No such device")
        match request & 0xFF:
            case 5:
                self.fed += 1
            case 6:
                self.timeout = self.takes(value)
                self.pretimeout = self.pretimeout if self.pretimeout < self.timeout else 0
            case 7:
                return struct.pack("=i", self.timeout)
            case 8 if self.early and value < self.timeout:
                self.pretimeout = value
            case 9 if self.early:
                return struct.pack("=i", self.pretimeout)
            case _:
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return data


def armed(root: Path, patch: pytest.MonkeyPatch, dog: Dog, pretimeout_ms: int = 0) -> watchdog.Watchdog:
    patch.setattr("fcntl.ioctl", dog.ioctl)
    if not (root / "sys").exists():
        fake_sysfs(root, 0, "a dog", "dog")
    (root / "sys/watchdog0/nowayout").write_text("1\n")
    return watchdog.Watchdog("/dev/watchdog0", -1, pretimeout_ms, str(root / "sys"))


def test_what_the_device_really_took_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dog = armed(tmp_path, monkeypatch, Dog(lambda seconds: 7 if seconds == 5 else seconds))
    assert dog.set_timeout(5000) == 7000
    told = dog.facts()
    assert told == ("watchdog0", "a dog", 7000, 0, True, "5000 ms requested, the device took 7000 ms")
    assert dog.set_timeout(4999) == 4000, "never later than requested"
    assert dog.facts().note == "", "the request is in whole seconds"


def test_a_pretimeout_is_set_again_with_each_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel drops one that does not fit; when it fits again it is back."""
    dog = armed(tmp_path, monkeypatch, Dog(), 2000)
    found = []
    for timeout in (10_000, 2000, 5000):
        dog.set_timeout(timeout)
        found.append((dog.facts().pretimeout_ms, dog.facts().note))
    assert [pretimeout for pretimeout, _ in found] == [2000, 0, 2000]
    assert found[0][1] == found[2][1] == ""
    assert found[1][1] == "a pre-timeout of 2000 ms does not fit into 2000 ms: set a longer timeout"


def test_a_device_without_a_pretimeout_works_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dog = armed(tmp_path, monkeypatch, Dog(early=False), 1000)
    assert dog.set_timeout(4000) == 4000
    assert dog.facts().note == "a pre-timeout of 1000 ms requested, the device took none"


def test_a_pretimeout_that_is_not_wanted_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver may begin with one of its own, which would panic before the time is over."""
    device = Dog()
    device.pretimeout = 25
    dog = armed(tmp_path, monkeypatch, device)
    dog.set_timeout(30_000)
    assert device.pretimeout == 0


def test_the_last_resort_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sysfs(tmp_path, 0, watchdog.SOFTDOG, "softdog")
    dog = armed(tmp_path, monkeypatch, Dog())
    dog.set_timeout(4000)
    assert "the last resort" in dog.facts().note


def test_several_devices_are_armed_and_fed_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one to expire counts, and one that fails keeps no other from being fed."""
    dogs = [Dog(), Dog(lambda seconds: 1)]
    fake_sysfs(tmp_path, 0, "a dog", "dog")
    both = watchdog.Watchdogs([watchdog.Watchdog("/dev/watchdog0", n, 0, str(tmp_path / "sys")) for n in (0, 1)])
    monkeypatch.setattr("fcntl.ioctl", lambda fd, request, data: dogs[fd].ioctl(fd, request, data))
    assert both.set_timeout(4000) == 1000
    assert [device.timeout_ms for device in both.facts()] == [4000, 1000]
    dogs[0].gone = True
    with pytest.raises(HardwareError, match="cannot be fed"):
        both.feed()
    assert [dog.fed for dog in dogs] == [0, 1]


def test_none_stays_open_when_one_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    class Opened:
        def close(self) -> None:
            closed.append(self)

    def find(driver: str) -> str:
        if driver == "gpio_wdt":
            raise HardwareError("not found")
        return driver

    monkeypatch.setattr(watchdog, "find", find)
    monkeypatch.setattr(watchdog.Watchdog, "open", lambda path, pretimeout_ms: Opened())
    with pytest.raises(HardwareError, match="not found"):
        watchdog.Watchdogs.open(["imx2-wdt", "gpio_wdt"])
    assert len(closed) == 1
