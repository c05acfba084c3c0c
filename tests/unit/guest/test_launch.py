# SPDX-License-Identifier: GPL-2.0-only
"""What the process of one guest can reach of the others: a shell takes QEMU's place and looks around."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from appliance.guest.qemu import launch
from appliance.guest.qemu.spawn import FIRST_UID
from appliance.system.process import Process

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

UID = FIRST_UID + 7


class Place:
    """A guest's folders, as bypassd makes them, below a root that everybody may enter."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run, self.scratch = root / "run/ips1", root / "scratch/ips1"
        self.image, self.other = root / "images/mine.img", root / "images/other.img"
        for folder in (self.run, self.scratch, self.image.parent):
            folder.mkdir(parents=True)
        os.chown(self.scratch, UID, UID)
        self.scratch.chmod(0o700)
        for image in (self.image, self.other):
            image.write_text(image.name)
            image.chmod(0o644)

    def sh(self, script: str, program: str = "/bin/sh", *, recorded: bool = True) -> str:
        """What a shell in QEMU's place says; the image is its descriptor 9. `recorded`: bypassd has recorded it."""
        about = {"uid": UID, "groups": [], "cgroup": "", "scratch": str(self.scratch), "root": str(self.run / "root")}
        words = [sys.executable, "-I", "-S", str(launch.__file__), json.dumps(about), program, "-c", script]
        log = self.root / "log"
        log.unlink(missing_ok=True)
        waits, go = os.pipe2(os.O_CLOEXEC)
        with self.image.open("rb") as image:
            ran = Process.start(words, {0: waits, 9: image.fileno()}, log)
        os.close(waits)
        os.write(go, b"\n" * recorded)
        os.close(go)
        ran.wait(20)
        ran.reap()
        return log.read_text()


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    root = tmp_path_factory.mktemp("launch")
    for folder in (root, *root.parents):  # pytest closes its own folders; a guest's QEMU is somebody else
        if folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o011)
    return Place(root)


def test_no_file_of_another_guest(place: Place) -> None:
    """Its image is there as an open descriptor; every other file of the appliance is not, whatever its mode."""
    assert place.sh("cat <&9") == "mine.img"
    assert place.sh("cat /proc/self/fd/9") == "mine.img", "QEMU's kernel loader opens it by this name"
    for path in (place.other, place.image, place.run, Path("/etc/passwd"), Path("/root"), Path("/run")):
        assert "No such file" in place.sh(f"ls -d {path}"), path
    seen = set(place.sh("cd /; echo *").split())
    assert seen <= {"bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "sbin", "usr", place.root.parts[1]}


def test_it_runs_only_once_bypassd_has_recorded_it(place: Place) -> None:
    """A bypassd that dies before leaves no QEMU that nobody knows; then standard input is empty, as ever."""
    said = place.sh("echo ran", recorded=False)
    assert "bypassd ended before it had recorded this process" in said
    assert "ran\n" not in said
    assert place.sh("cat; echo ran") == "ran\n"


def test_only_the_scratch_folder_can_be_written(place: Place) -> None:
    assert place.sh("echo data > $TMPDIR/snapshot; cat $TMPDIR/snapshot") == "data\n"
    assert (place.scratch / "snapshot").read_text() == "data\n"
    for folder in ("/", "/usr", "/dev", "/etc", "/tmp"):
        assert "data" not in place.sh(f"echo data > {folder}/new && cat {folder}/new"), folder


def test_it_is_nobody_and_finds_no_way_back(place: Place) -> None:
    """Not by another process's root folder, and not by a namespace of its own."""
    assert place.sh("id -u; id -g").split() == [str(UID), str(UID)]
    assert "denied" in place.sh(f"ls /proc/{os.getpid()}/root/")
    assert "uid=0" not in place.sh("unshare -rm id")
    assert "images" not in place.sh(f"unshare -rm chroot /proc/self/root ls {place.root}")


def test_nothing_of_it_stays(place: Place) -> None:
    place.sh("true")
    mounts = Path("/proc/self/mountinfo").read_text()
    assert str(place.run) not in mounts
    assert list((place.run / "root").iterdir()) == []


def test_a_program_elsewhere_can_be_started(place: Place, tmp_path: Path) -> None:
    (place.root / "opt").mkdir()
    program = place.root / "opt/qemu"
    program.write_text("#!/bin/sh\necho started\n")
    program.chmod(0o755)
    assert place.sh("", str(program)) == "started\n"
