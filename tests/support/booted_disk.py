# SPDX-License-Identifier: GPL-2.0-only
"""A disk image between two boots: what stands in its partitions, and how to damage them. The machine must be off."""

from __future__ import annotations

import subprocess
from pathlib import Path

from boardspec import REPO
from imagebuild.disk import layout

LAYOUT = layout.read(REPO / "board/disk/layout.toml")
NOISE = bytes(range(1, 256)) * 64


def write(disk: Path, partition: str, data: bytes, at: int = 0) -> None:
    """Put bytes into a partition, `at` bytes from its beginning."""
    with disk.open("r+b") as file:
        file.seek(LAYOUT[partition].offset + at)
        file.write(data)


def read(disk: Path, partition: str) -> bytes:
    """The whole partition."""
    with disk.open("rb") as file:
        file.seek(LAYOUT[partition].offset)
        return file.read(LAYOUT[partition].size)


def content(disk: Path, partition: str, name: str, folder: Path) -> bytes:
    """A file in a partition with an ext file system."""
    image, out = folder / "partition", folder / "file"
    image.write_bytes(read(disk, partition))
    subprocess.run(["debugfs", "-R", f"dump {name} {out}", image], check=True, capture_output=True)
    return out.read_bytes()


def find(disk: Path, partition: str, data: bytes) -> int:
    """Where these bytes stand in a partition; ValueError when they do not."""
    return read(disk, partition).index(data)


def damage_file(disk: Path, partition: str, beginning: bytes) -> None:
    """Change a file in a partition, which begins with these bytes, in one byte, which only a checksum finds."""
    at = find(disk, partition, beginning) + len(beginning)
    old = read(disk, partition)[at : at + 1]
    write(disk, partition, bytes([old[0] ^ 0xFF]), at)


def boot_state(disk: Path, folder: Path) -> dict[str, str]:
    """The boot loader's variables."""
    text = content(disk, "boot", "grubenv", folder).decode("ascii", "replace")
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def set_boot_state(disk: Path, data: bytes) -> None:
    """Overwrite the beginning of grubenv in its place."""
    write(disk, "boot", data, find(disk, "boot", b"# GRUB Environment Block"))


def remove_partition(disk: Path, name: str) -> None:
    """Take the partition out of the table."""
    subprocess.run(["sgdisk", f"--delete={LAYOUT[name].number}", disk], check=True, capture_output=True)
