# SPDX-License-Identifier: GPL-2.0-only
"""The watchdog without hardware: messages. The device is tested in tests/image."""

from __future__ import annotations

import os
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
