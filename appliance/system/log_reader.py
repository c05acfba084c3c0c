# SPDX-License-Identifier: GPL-2.0-only
"""Lines of a log from its end, or from where an earlier reader stopped. Blocks on the disk: call it in a thread.

A cursor is opaque text. A file that was emptied or replaced since is read from its beginning; whether lines were lost
meanwhile is said. The kernel's log is its ring buffer, in which every record has a number.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

MOST_BYTES: Final = 1 << 20
"""Of one answer, from the end."""
_RECORD = 8192  # the kernel's own limit is shorter


class Lines(NamedTuple):
    """`cursor` is where to go on; `lost`: lines between the given cursor and the first of these are missing."""

    lines: list[str]
    cursor: str
    lost: bool = False


def file(path: Path, after: str = "") -> Lines:
    """Whole lines of a file. OSError: it cannot be read; a file that is not there yet is empty."""
    try:
        opened = path.open("rb")
    except FileNotFoundError:
        return Lines([], "0:0")
    with opened:
        state = os.fstat(opened.fileno())
        inode, begin = _position(after)
        same = inode == state.st_ino and begin <= state.st_size
        begin = begin if same else 0
        lost = bool(after) and after != "0:0" and not same
        if state.st_size - begin > MOST_BYTES:
            lost, begin = lost or bool(after), state.st_size - MOST_BYTES
            opened.seek(begin)
            begin += len(opened.readline())
        opened.seek(begin)
        data = opened.read(MOST_BYTES)
    whole, newline, _ = data.rpartition(b"\n")
    end = begin + len(whole) + len(newline)
    lines = whole.decode("utf-8", "replace").split("\n") if newline else []
    return Lines([line.rstrip("\r") for line in lines], f"{state.st_ino}:{end}", lost)


def _position(cursor: str) -> tuple[int, int]:
    inode, _, offset = cursor.partition(":")
    return (int(inode), int(offset)) if inode.isdigit() and offset.isdigit() else (-1, 0)


def kernel(after: str = "", device: str = "/dev/kmsg") -> Lines:
    """Records of the kernel's log, each as `[seconds] text`. OSError: it cannot be read."""
    since = int(after) if after.isdigit() else -1
    found: list[tuple[int, str]] = []
    lost = False
    descriptor = os.open(device, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            try:
                record = os.read(descriptor, _RECORD)
            except BlockingIOError:
                break
            except BrokenPipeError:  # overwritten while we read: the next read has the oldest that is left
                lost = True
                continue
            if not record:
                break
            if (number := int(record.split(b",", 2)[1])) > since:
                found.append((number, _text(record)))
    finally:
        os.close(descriptor)
    if found and since >= 0 and found[0][0] > since + 1:
        lost = True
    return Lines([text for _, text in found], str(found[-1][0] if found else since), lost and bool(after))


def _text(record: bytes) -> str:
    head, _, text = record.partition(b";")
    microseconds = int(head.split(b",")[2])
    first = text.split(b"\n", 1)[0].decode("utf-8", "replace")
    return f"[{microseconds // 10**6:>5}.{microseconds % 10**6:06}] {first}"
