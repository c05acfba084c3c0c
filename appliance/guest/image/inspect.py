# SPDX-License-Identifier: GPL-2.0-only
"""What kind of file is to be imported, judged by its first bytes, and whether it is accepted. Pure.

A disk must be recognized as one: a qcow2 image whose header is good (`qcow2.py`), or a raw image that begins like a
disk (`raw_disk.py`). Any other file is refused, with its kind if that is known (`foreign.py`): as a disk it would start
no guest, and nobody would see why. --kind raw imports it all the same.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from appliance.counted import counted
from appliance.errors import RefusedError
from appliance.guest.image import foreign, qcow2, raw_disk

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
KINDS = ("disk", "raw", "kernel", "initrd")
HEAD_BYTES = 64 << 10


class About(NamedTuple):
    """An acceptable file: its format, and the size of the guest's disk in bytes."""

    format: str  # qcow2, raw, kernel, initrd
    virtual_bytes: int


def examine(head: bytes, size: int | None, kind: str) -> About:
    """Examine a file that begins with `head` and has `size` bytes; RefusedError says why it is not accepted.

    `size` None: it is still being received, so nothing that depends on its size is checked.
    """
    if size == 0 or not head:
        raise RefusedError("it is empty")
    if kind == "kernel":
        if head[0x202:0x206] != b"HdrS":
            raise RefusedError("it is not a Linux kernel (bzImage)")
        return About("kernel", 0)
    if kind == "initrd":
        return About("initrd", 0)
    if kind == "disk" and head.startswith(qcow2.MAGIC):
        return About("qcow2", qcow2.judge(head, size).virtual_bytes)
    if kind == "disk":
        _must_be_a_disk(head, size)
    if size is not None and size % raw_disk.SECTOR:
        length = counted(size, "byte")
        what = f"it has {length}, not whole sectors of {raw_disk.SECTOR}"
        raise RefusedError(f"{what}: it is truncated, or not a disk image")
    return About("raw", size or 0)


def _must_be_a_disk(head: bytes, size: int | None) -> None:
    """RefusedError unless a file begins like a raw disk."""
    if known := foreign.recognise(head):
        raise RefusedError(f"it is {known.what}: {known.advice}")
    if begin := foreign.text(head):
        what = f'it is text ("{begin}"), not a disk image'
        raise RefusedError(f"{what}: perhaps a web page or an error message instead of the image")
    if raw_disk.recognise(head, size):
        return
    if foreign.has(head, foreign.CD):
        raise RefusedError(f"it is {foreign.CD.what}: {foreign.CD.advice}")
    if len(head) < raw_disk.SECTOR and size is not None:
        raise RefusedError(f"it has {counted(size, 'byte')}: too small for a disk image")
    raise RefusedError(
        "it is not recognized as a disk image: no qcow2, no partition table, no boot sector; "
        "--kind raw imports it as a raw disk, whatever it contains"
    )


def check_name(name: str) -> None:
    """RefusedError unless this is a valid name for an image."""
    if not NAME.fullmatch(name):
        what = "has at most 64 letters, digits, ., _, + and -, and begins with a letter or digit"
        raise RefusedError(f'"{name[:70]}": an image\'s name {what}')


def check_sum(text: str) -> str:
    """A SHA-256 as 64 hex digits, in lower case; RefusedError if it is not one. "" stays."""
    if text and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise RefusedError("--sha256 takes 64 hex digits, as `sha256sum FILE` prints them")
    return text.lower()
