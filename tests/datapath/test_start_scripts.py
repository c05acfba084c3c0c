# SPDX-License-Identifier: GPL-2.0-only
"""Start scripts of the image under busybox, in a root of their own: the watchdog between keepers."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ROOTFS = Path(__file__).resolve().parents[2] / "rootfs"


def run(root: Path, script: str, *arguments: str) -> None:
    """Run a script in a root that has nothing but busybox and what the test put there."""
    busybox = shutil.which("busybox")
    assert busybox
    (root / "bin").mkdir()
    shutil.copy(busybox, root / "bin/busybox")
    (root / "bin/cat").symlink_to("busybox")
    (root / "script").write_text(script)
    command = ["env", "PATH=/bin", shutil.which("chroot") or "chroot", str(root), "/bin/busybox", "sh", "/script"]
    subprocess.run([*command, *arguments], check=True, timeout=60)


def dog(root: Path, number: int, state: str) -> Path:
    """A watchdog; the path of its device, which is still to be made."""
    folder = root / f"sys/class/watchdog/watchdog{number}"
    folder.mkdir(parents=True)
    (folder / "state").write_text(f"{state}\n")
    (root / "dev").mkdir(exist_ok=True)
    return root / f"dev/watchdog{number}"


def test_a_watchdog_that_counts_is_fed_once_a_second_for_a_bounded_time(tmp_path: Path) -> None:
    """Not the one that does not count, and not for ever."""
    dog(tmp_path, 0, "active").touch()
    dog(tmp_path, 1, "inactive")
    script = (ROOTFS / "usr/libexec/bypass/watchdog-cover").read_text()
    run(tmp_path, f'sleep() {{ echo "$1" >>/slept; }}\n{script}', "30")
    assert (tmp_path / "slept").read_text() == "1\n" * 30
    assert not (tmp_path / "dev/watchdog1").exists()


def test_a_watchdog_that_the_keeper_holds_is_left_to_it(tmp_path: Path) -> None:
    """The device cannot be opened any more: done, at once. Another one goes on."""
    dog(tmp_path, 0, "active").mkdir()
    dog(tmp_path, 1, "active").touch()
    script = (ROOTFS / "usr/libexec/bypass/watchdog-cover").read_text()
    run(tmp_path, f'sleep() {{ echo "$1" >>/slept; }}\n{script}', "3")
    assert (tmp_path / "slept").read_text() == "1\n" * 3
