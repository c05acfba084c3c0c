# SPDX-License-Identifier: GPL-2.0-only
"""Guests that share a full disk: a real ext4 file system, writers in place of QEMU, and one real QEMU.

The fast writer is paused while the others can still write; it continues when files have been removed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.guest import disk_space
from appliance.guest.disk_space import FAST, Guard, Room, room
from appliance.guest.qemu.spawn import FIRST_UID

MIB = 1 << 20


def test_who_is_paused() -> None:
    """Only when little space is left, and only guests that would soon use up the rest."""
    guard, plenty, little = Guard(Path(), lambda: ()), Room(900 * MIB, 1000 * MIB), Room(40 * MIB, 1000 * MIB)
    assert guard.decide(plenty, {}) == ""
    assert guard.decide(little, {"fast": 100 * MIB, "slow": 100 * MIB}) == "", "nobody grew yet"
    assert guard.decide(little, {"fast": 104 * MIB, "slow": 101 * MIB}) == "", "nobody grows fast"
    assert guard.decide(little, {"fast": 106 * MIB, "slow": 101 * MIB}) == "fast"
    assert guard.decide(plenty, {"fast": 120 * MIB, "slow": 101 * MIB}) == ""
    assert guard.decide(little, {"slow": 101 * MIB + 40 * MIB // FAST}) == "slow", "the next, without who is paused"
    assert guard.decide(little, {}) == ""


def test_room() -> None:
    small, large = Room(0, 100 * MIB), Room(0, 100_000 * MIB)
    assert (small.low, large.low) == (5 * MIB, 256 * MIB)
    assert small.alarm.startswith("only 0 MiB of 100 MiB are left")
    assert Room(5 * MIB, 100 * MIB).alarm == ""
    assert [Room(mib * MIB, 100 * MIB).near for mib in (19, 20)] == [True, False]
    assert [Room(mib * MIB, 100 * MIB).enough for mib in (6, 7)] == [False, True]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system of 64 MiB, of which root alone may use 4."""
    image, place = tmp_path / "image", tmp_path / "data"
    with image.open("wb") as file:
        file.truncate(64 * MIB)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", image], check=True)
    subprocess.run(["tune2fs", "-r", "1024", image], check=True, capture_output=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


class Writer:
    """A process that appends to a file it has open, as a guest's QEMU does: `kib` every hundredth of a second."""

    def __init__(self, name: str, number: int, path: Path, kib: int) -> None:
        self.name, self.paused = name, asyncio.Event()
        words = f"while dd if=/dev/zero bs=1k count={kib} conv=fsync 2>/dev/null; do sleep 0.01; done"
        uid = FIRST_UID + number
        with path.open("wb") as file:
            self.process = subprocess.Popen(["sh", "-c", words], stdout=file, user=uid, group=uid, extra_groups=[])
        self.path = path

    @property
    def pid(self) -> int | None:
        return None if self.paused.is_set() else self.process.pid

    async def stop_for_space(self, why: str) -> None:
        assert "MiB are left" in why
        self.process.send_signal(signal.SIGSTOP)
        self.paused.set()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_who_fills_the_disk_does_not_stop_others(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_space, "LOOK_S", 0.02)
    monkeypatch.setattr(disk_space, "NEAR_LOOK_S", 0.02)

    async def body() -> None:
        slow, fast = Writer("slow", 1, disk / "slow", 4), Writer("fast", 2, disk / "fast", 256)
        guard = asyncio.create_task(Guard(disk, lambda: (slow, fast)).run())
        try:
            async with asyncio.timeout(60):
                await fast.paused.wait()
                assert room(disk).available < room(disk).low
                size = slow.path.stat().st_size
                while slow.path.stat().st_size < size + 64 * 1024:
                    assert slow.process.poll() is None, "it met the end of the disk"
                    await asyncio.sleep(0.01)
            assert not slow.paused.is_set()
            assert not room(disk).enough
            os.truncate(fast.path, 0)
            assert room(disk).enough
        finally:
            guard.cancel()
            for writer in (slow, fast):
                writer.end()

    asyncio.run(body())


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_files_without_a_name_are_counted(disk: Path) -> None:
    """QEMU removes the name of a snapshot's file as soon as it is open."""
    device = disk.stat().st_dev
    before = disk_space.used_by(os.getpid(), device)
    with (disk / "snapshot").open("wb") as file:
        (disk / "snapshot").unlink()
        file.write(bytes(MIB))
        file.flush()
        os.fsync(file.fileno())
        assert disk_space.used_by(os.getpid(), device) - before == MIB
    assert disk_space.used_by(2**22 + 1, device) == 0
