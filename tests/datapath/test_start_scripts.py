# SPDX-License-Identifier: GPL-2.0-only
"""Start scripts of the image under busybox, in a root of their own: kernel settings, the watchdog between keepers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ROOTFS = Path(__file__).resolve().parents[2] / "rootfs"
SETTINGS = ROOTFS / "etc/sysctl.bypass"


def run(root: Path, script: str, *arguments: str) -> None:
    """Run a script in a root with only busybox and the test's files."""
    busybox = shutil.which("busybox")
    assert busybox
    (root / "bin").mkdir()
    shutil.copy(busybox, root / "bin/busybox")
    (root / "bin/cat").symlink_to("busybox")
    (root / "script").write_text(script)
    command = ["env", "PATH=/bin", shutil.which("chroot") or "chroot", str(root), "/bin/busybox", "sh", "/script"]
    subprocess.run([*command, *arguments], check=True, timeout=60)


# -- kernel settings


def settings() -> dict[str, str]:
    """Path -> value, as the file has them."""
    rows = [line.split() for line in SETTINGS.read_text().splitlines() if line and not line.startswith("#")]
    return {name if name.startswith("/") else f"/proc/sys/{name}": value for name, value in rows}


def test_every_kernel_setting_reaches_its_file_and_one_that_is_refused_is_logged(tmp_path: Path) -> None:
    """A name below /proc/sys, or a whole path. What this kernel does not have stops nothing."""
    start = (ROOTFS / "etc/init.d/rcS").read_text()
    begin = start.index("while read -r name value")
    loop = start[begin : start.index("sysctl.bypass\n", begin) + len("sysctl.bypass\n")]
    wanted = settings()
    missing = "/proc/sys/kernel/watchdog_thresh"
    for path in wanted:
        (tmp_path / path[1:]).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / missing[1:]).mkdir()  # cannot be written
    (tmp_path / "etc").mkdir()
    shutil.copy(SETTINGS, tmp_path / "etc/sysctl.bypass")
    (tmp_path / "dev").mkdir()
    run(tmp_path, loop)
    found = {path: (tmp_path / path[1:]).read_text().strip() for path in wanted if path != missing}
    assert found == {path: value for path, value in wanted.items() if path != missing}
    assert f"{missing}=1 refused" in (tmp_path / "dev/kmsg").read_text()
    assert any(not path.startswith("/proc/sys/") for path in wanted)


# -- modules read ahead


def test_rcs_reads_the_modules_that_bypassd_imports_at_its_start() -> None:
    """The module's name stands in a shell script, which no checker of imports reads."""
    start = (ROOTFS / "etc/init.d/rcS").read_text()
    named = re.search(r"python3 -I -c '(import [\w.]+)' .*&$", start, re.MULTILINE)
    assert named is not None
    told = subprocess.run(
        [sys.executable, "-c", f"{named[1]}; import sys; print('appliance.steering.part' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOTFS.parent,
    )
    assert told.stdout == "True\n"


# -- init


def test_init_gives_no_program_a_terminal() -> None:
    """A Ctrl-C there could end init's child while it shares init's memory (tests/image/test_board_init.py)."""
    rows = [line.split(":") for line in (ROOTFS / "etc/inittab").read_text().splitlines() if line[:1] != "#"]
    assert {row[0] for row in rows} == {""}
    assert {row[2] for row in rows} >= {"respawn", "sysinit", "shutdown", "ctrlaltdel"}


# -- the watchdog


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


def test_a_shutdown_feeds_no_watchdog_but_one_that_cannot_count_a_minute(tmp_path: Path) -> None:
    """Whatever else is on the board: feeding the one that has its minute would give a hung machine another."""
    for number, (state, timeout) in enumerate([("active", 60), ("inactive", 30), ("active", 2)]):
        dog(tmp_path, number, state)
        (tmp_path / f"sys/class/watchdog/watchdog{number}/timeout").write_text(f"{timeout}\n")
    cover = tmp_path / "usr/libexec/bypass/watchdog-cover"
    cover.parent.mkdir(parents=True)
    head, _, rest = (ROOTFS / "usr/libexec/bypass/watchdog-cover").read_text().partition("\n")
    cover.write_text(f'{head}\nsleep() {{ echo "$1" >>/slept; }}\n{rest}')
    cover.chmod(0o755)
    stop = (ROOTFS / "etc/init.d/rcK").read_text()
    begin = stop.index("\tfor dog in")
    (tmp_path / "dev/null").touch()  # input of what runs in the background
    run(tmp_path, f"MINUTE=60\n{stop[begin : stop.index('done', begin)]}done\nwait\n")
    assert {path.name for path in (tmp_path / "dev").iterdir()} == {"null", "watchdog2"}
    assert (tmp_path / "slept").read_text() == "1\n" * 60
