# SPDX-License-Identifier: GPL-2.0-only
"""The orders that a disk received, and its possible contents after a power cut: all flushed data, any part of the rest.

The log is QEMU's (block driver blklogwrites), in the format of the kernel's dm-log-writes: a sector with the number of
entries, then for each entry a sector that describes it and its data. A disk with a volatile cache may keep unflushed
data, lose it, or write it in another order, in blocks of 4 KiB.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SECTOR = 512
BLOCK = 4096
MAGIC = 0x6A736677736872
FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
_SUPER = struct.Struct("<QQQI")  # magic, version, number of entries, sector size
_ENTRY = struct.Struct("<QQQQ")  # sector, number of sectors, flags, length of the data


class Order(NamedTuple):
    """One order to the disk: data at an offset, a flush of everything before, or both."""

    offset: int
    data: bytes
    flags: int


def length(log: Path) -> int:
    """How many orders the log has now, while it is being written."""
    with log.open("rb") as file:
        head = file.read(_SUPER.size)
    return int(_SUPER.unpack(head)[2]) if len(head) == _SUPER.size else 0


def read(log: Path) -> Iterator[Order]:
    """The orders. ValueError: this is not such a log."""
    with log.open("rb") as file:
        head = file.read(SECTOR)
        magic, _, count, size = _SUPER.unpack_from(head)
        if magic != MAGIC or size != SECTOR:
            raise ValueError(f"{log} is no log of writes")
        for _ in range(count):
            sector, sectors, flags, _ = _ENTRY.unpack_from(file.read(SECTOR))
            data = b"" if flags & DISCARD else file.read(sectors * SECTOR)
            yield Order(sector * SECTOR, data, flags)


class Disk:
    """A disk that is cut at one order after the other; `base` is its content before the first, and is modified."""

    def __init__(self, base: Path, orders: list[Order]) -> None:
        self._base, self._orders = base, orders
        self._safe = 0  # how many orders are permanently in the base

    def cut(self, at: int, image: Path, luck: random.Random) -> int:
        """Write to `image` a possible content of the disk if the power fails after `at` orders, no fewer than before.

        Returns how many blocks were lost. `luck` decides about unflushed data: keep none, all, or block by block.
        """
        # A flush that was the last order has not been answered
        flushed = max((n for n in range(self._safe, at - 1) if self._orders[n].flags & FLUSH), default=self._safe)
        with self._base.open("r+b") as file:
            for order in self._orders[self._safe : flushed]:
                os.pwrite(file.fileno(), order.data, order.offset)
        self._safe = flushed
        subprocess.run(["cp", "--sparse=always", self._base, image], check=True)
        chance, lost = luck.choice((0.0, 0.5, 0.9, 1.0)), 0
        with image.open("r+b") as file:
            for order in self._orders[flushed:at]:
                for start in range(0, len(order.data), BLOCK):
                    if order.flags & FUA or luck.random() < chance:
                        os.pwrite(file.fileno(), order.data[start : start + BLOCK], order.offset + start)
                    else:
                        lost += 1
        return lost


def recovered(image: Path, names: list[str], folder: Path) -> None:
    """Recover like a boot: replay the journal, and copy these files and folders of the image to `folder`.

    AssertionError: the file system could not be repaired automatically.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    done = subprocess.run(["e2fsck", "-p", image], capture_output=True, text=True, check=False)
    assert done.returncode < 4, done.stdout + done.stderr
    for name in names:
        subprocess.run(["debugfs", "-R", f"rdump {name} {folder}", image], capture_output=True, check=True)
