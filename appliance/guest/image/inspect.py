# SPDX-License-Identifier: GPL-2.0-only
"""What kind of file somebody wants to import, from its first bytes, and what it must not contain. Pure.

We examine a file before qemu-img sees it, and a qcow2 image again before each start: its header can name other files (a
backing file, a data file), which they would open. An image that refers to other files is refused.
"""

from __future__ import annotations

import re
import struct
from typing import NamedTuple

from appliance.counted import counted
from appliance.errors import RefusedError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
KINDS = ("disk", "kernel", "initrd")
HEAD_BYTES = 64 << 10
SECTOR = 512

QCOW2 = b"QFI\xfb"
_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_FEATURES_AT, _EXTERNAL_DATA = 72, 1 << 2
_FOREIGN = (
    (0, b"KDMV", "a VMDK image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (64, b"\x7f\x10\xda\xbe", "a VDI image"),
    (0, b"QED\0", "a QED image"),
)
_PACKED = (
    (b"\x1f\x8b", "gzip"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"BZh", "bzip2"),
    (b"PK\x03\x04", "zip"),
)


class About(NamedTuple):
    """An acceptable file: its format, and the size of the guest's disk in bytes."""

    format: str  # qcow2, raw, kernel, initrd
    virtual_bytes: int


def examine(head: bytes, size: int | None, kind: str) -> About:
    """What a file is that begins with `head` and has `size` bytes; RefusedError says why it is not accepted.

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
    if head.startswith(QCOW2):
        return _qcow2(head, size)
    for offset, magic, what in _FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            raise RefusedError(f"it is {what}: convert it first, `qemu-img convert -O qcow2 FILE NEW.qcow2`")
    for magic, how in _PACKED:
        if head.startswith(magic):
            raise RefusedError(f"it is compressed ({how}): decompress it first, or use --kind initrd if it is one")
    if size is not None and size % SECTOR:
        length = counted(size, "byte")
        raise RefusedError(f"it has {length}, not whole sectors of {SECTOR}: it is truncated, or not a disk image")
    return About("raw", size or 0)


def _qcow2(head: bytes, size: int | None) -> About:
    if len(head) < _HEADER.size:
        raise RefusedError("its qcow2 header is truncated")
    fields = _HEADER.unpack_from(head)
    version, backing, cluster_bits, virtual, crypt = fields[1], fields[2], fields[4], fields[5], fields[6]
    if version not in (2, 3):
        raise RefusedError(f"its qcow2 version is {version}; only 2 and 3 are supported")
    if backing:
        name = head[backing : backing + fields[3]].decode(errors="replace") if fields[3] < 1024 else "?"
        shown = "".join(letter if letter.isprintable() else "?" for letter in name)
        raise RefusedError(
            f'it needs a backing file ("{shown}"), and an image must be self-contained: '
            "flatten it first, `qemu-img convert -O qcow2 FILE NEW.qcow2`"
        )
    features = int.from_bytes(head[_FEATURES_AT : _FEATURES_AT + 8], "big") if version == 3 else 0
    if features & _EXTERNAL_DATA:
        raise RefusedError(
            "its data is in another file, and an image must be self-contained: "
            "`qemu-img convert -O qcow2 FILE NEW.qcow2` makes it one file"
        )
    if crypt:
        raise RefusedError("it is encrypted, and the appliance has no key for it")
    if not 9 <= cluster_bits <= 21 or (size is not None and size < 1 << cluster_bits):
        raise RefusedError("its qcow2 header is damaged")
    return About("qcow2", virtual)


def check_name(name: str) -> None:
    """RefusedError unless this is a valid name for an image."""
    if not NAME.fullmatch(name):
        what = "an image's name has letters, digits, ., _, + and -, begins with one of the first two, and is at most 64"
        raise RefusedError(f'"{name[:70]}": {what}')


def check_sum(text: str) -> str:
    """A SHA-256 as 64 hex digits, in lower case; RefusedError when it is not one. "" stays."""
    if text and not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise RefusedError("--sha256 takes 64 hex digits, as `sha256sum FILE` prints them")
    return text.lower()
