# SPDX-License-Identifier: GPL-2.0-only
"""The disk that drops what was not flushed: what it may lose and what it must keep."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from tests.support import disk_log
from tests.support.disk_log import FLUSH, FUA, Order

BLOCKS = 8
A, B, C = (letter * 4096 for letter in (b"a", b"b", b"c"))
ORDERS = [Order(0, A, 0), Order(0, b"", FLUSH), Order(4096, B, 0), Order(8192, C, FUA), Order(12288, A + B, 0)]


def write_log(path: Path, orders: list[Order]) -> Path:
    """As QEMU writes it."""
    out = struct.pack("<QQQI", disk_log.MAGIC, 1, len(orders), 512).ljust(512, b"\0")
    for order in orders:
        head = struct.pack("<QQQQ", order.offset // 512, len(order.data) // 512, order.flags, 0)
        out += head.ljust(512, b"\0") + order.data
    path.write_bytes(out)
    return path


def after(tmp_path: Path, at: int, seed: int) -> tuple[bytes, int]:
    """The disk's blocks after a cut, by their first letter, and how many were lost."""
    base, image = tmp_path / "base", tmp_path / "image"
    base.write_bytes(bytes(BLOCKS * 4096))
    lost = disk_log.Disk(base, ORDERS).cut(at, image, random.Random(seed))
    return image.read_bytes()[::4096].replace(b"\0", b"-"), lost


def test_a_log_is_read_as_it_was_written(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log", ORDERS)
    assert list(disk_log.read(log)) == ORDERS
    assert disk_log.length(log) == len(ORDERS)
    (tmp_path / "other").write_bytes(bytes(1024))
    with pytest.raises(ValueError, match="no log of writes"):
        list(disk_log.read(tmp_path / "other"))


def test_what_was_flushed_is_kept_and_the_rest_is_a_matter_of_luck(tmp_path: Path) -> None:
    """Over many cuts every part of the rest is lost, and kept, at least once; block c was written through."""
    found = {after(tmp_path, len(ORDERS), seed) for seed in range(200)}
    blocks = {text for text, _ in found}
    assert {text[0:1] for text in blocks} == {b"a"}
    assert {text[2:3] for text in blocks} == {b"c"}
    assert {text[1:2] + text[3:5] for text in blocks} == {
        first + second + third for first in (b"-", b"b") for second in (b"-", b"a") for third in (b"-", b"b")
    }
    assert all(lost == text[:5].count(b"-") for text, lost in found)


def test_a_flush_that_was_not_answered_keeps_nothing(tmp_path: Path) -> None:
    assert {after(tmp_path, 2, seed)[0][:1] for seed in range(50)} == {b"-", b"a"}
    assert {after(tmp_path, 3, seed)[0][:1] for seed in range(50)} == {b"a"}


def test_one_cut_after_the_other(tmp_path: Path) -> None:
    """The same disk, cut later and later: the base grows with what was flushed."""
    base, image = tmp_path / "base", tmp_path / "image"
    base.write_bytes(bytes(BLOCKS * 4096))
    disk = disk_log.Disk(base, ORDERS)
    for at in range(1, len(ORDERS) + 1):
        disk.cut(at, image, random.Random(at))
        assert base.read_bytes()[::4096].replace(b"\0", b"-") == (b"a" if at > 2 else b"-") + b"-" * 7
