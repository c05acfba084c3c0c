# SPDX-License-Identifier: GPL-2.0-only
"""What a disk was told, in order, and what it may hold after a power cut: all that was flushed, any part of the rest.

The log is QEMU's (block driver blklogwrites), in the format of the kernel's dm-log-writes: a sector with the number of
entries, then for each entry a sector that describes it and its data. A disk with a volatile cache may keep what was not
flushed, lose it, or keep it in another order, in blocks of 4 KiB.
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
    """One thing that the disk was told: data at an offset, or to flush what came before, or both."""

    offset: int
    data: bytes
    flags: int


def length(log: Path) -> int:
    """How many orders the log has now. For a log that is being written."""
    with log.open("rb") as file:
        head = file.read(_SUPER.size)
    return int(_SUPER.unpack(head)[2]) if len(head) == _SUPER.size else 0


def read(log: Path) -> Iterator[Order]:
    """The orders. ValueError: this is no such log."""
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
    """A disk that is cut at one order after the other; `base` is what it held before the first, and is changed."""

    def __init__(self, base: Path, orders: list[Order]) -> None:
        self._base, self._orders = base, orders
        self._safe = 0  # so many orders are in the base for good

    def cut(self, at: int, image: Path, luck: random.Random) -> int:
        """Write to `image` what the disk may hold if the power goes after `at` orders, no fewer than at the last cut.

        Returns how many blocks were lost. Luck decides what is kept of the rest: nothing, all, or block by block.
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
    """What a boot finds: the journal is played back, and these files and folders of the image are copied to `folder`.

    AssertionError: the file system could not be repaired without an answer of a person.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    done = subprocess.run(["e2fsck", "-p", image], capture_output=True, text=True, check=False)
    assert done.returncode < 4, done.stdout + done.stderr
    for name in names:
        subprocess.run(["debugfs", "-R", f"rdump {name} {folder}", image], capture_output=True, check=True)
