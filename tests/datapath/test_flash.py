# SPDX-License-Identifier: GPL-2.0-only
"""`make flash` on a real block device, a loop device: written, verified, and refused while it is mounted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from boardspec import REPO

SIZE = 8 << 20


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Path]:
    """A loop device of 8 MiB."""
    backing = tmp_path / "backing"
    backing.write_bytes(b"")
    os.truncate(backing, SIZE)
    words: list[str | Path] = ["losetup", "-f", "--show", backing]
    loop = Path(subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip())
    yield loop
    subprocess.run(["losetup", "-d", loop], check=True)


def flash(image: Path, device: Path, answer: str) -> subprocess.CompletedProcess[str]:
    words: list[str | Path] = [sys.executable, "-m", "imagebuild.disk.flash", image, device]
    environment = {**os.environ, "PYTHONPATH": str(REPO / "board")}
    return subprocess.run(words, input=answer, capture_output=True, text=True, check=False, env=environment)


def image_of(tmp_path: Path, data: bytes) -> Path:
    image = tmp_path / "image"
    image.write_bytes(data)
    return image


def test_written_and_verified(device: Path, tmp_path: Path) -> None:
    data = os.urandom(5 << 20)
    done = flash(image_of(tmp_path, data), device, f"{device}\n")
    assert (done.returncode, "verified" in done.stdout) == (0, True), done.stderr
    with device.open("rb") as file:
        assert file.read(len(data)) == data


@pytest.mark.parametrize("answer", ["", "yes\n", "/dev/other\n"])
def test_another_answer_writes_nothing(device: Path, tmp_path: Path, answer: str) -> None:
    done = flash(image_of(tmp_path, b"x" * 4096), device, answer)
    assert done.returncode != 0
    with device.open("rb") as file:
        assert file.read(4096) == bytes(4096)


def test_too_small(device: Path, tmp_path: Path) -> None:
    done = flash(image_of(tmp_path, bytes(SIZE + 512)), device, f"{device}\n")
    assert (done.returncode, "has 8 MiB" in done.stderr) == (1, True)


def test_a_mounted_disk_is_refused(device: Path, tmp_path: Path) -> None:
    """It stays as it is, and it is said where it is mounted."""
    subprocess.run(["mke2fs", "-q", "-F", device], check=True)
    place = tmp_path / "mounted"
    place.mkdir()
    subprocess.run(["mount", device, place], check=True)
    try:
        done = flash(image_of(tmp_path, b"x" * 4096), device, f"{device}\n")
    finally:
        subprocess.run(["umount", place], check=True)
    assert done.returncode == 1
    assert f"is mounted at {place}" in done.stderr
    subprocess.run(["e2fsck", "-f", "-n", device], check=True, capture_output=True)
