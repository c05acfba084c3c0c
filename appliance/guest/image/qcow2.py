# SPDX-License-Identifier: GPL-2.0-only
"""The header of a qcow2 image: what must not be in it, and what this version cannot read. Pure.

Source: qemu, docs/interop/qcow2.txt. An image is judged before qemu-img sees it and again before each start, because a
header can name other files (a backing file, a data file), which qemu-img and QEMU would open. Each bit of the
incompatible features has a row here; a bit without one is refused.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from appliance.errors import RefusedError

MAGIC: Final = b"QFI\xfb"
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQ")
_SECOND: Final = struct.Struct(">QQQII")  # version 3: three sets of feature bits, order of refcounts, header length
_LEAST_LENGTH: Final = 104
_COMPRESSION_AT: Final = 104
_COMPRESSIONS: Final = (0, 1)  # zlib, zstd
_MOST_L1: Final = 32 << 20  # bytes, as QEMU has it
_LEAST_EXTENDED: Final = 14  # bits of a cluster of 32 subclusters

_ONE_FILE: Final = "but an image must be self-contained"


class Feature(NamedTuple):
    """One incompatible feature. `refused` "": QEMU reads it."""

    name: str
    refused: str = ""


FEATURES: Final = {
    0: Feature("dirty"),  # it was not closed: at an import `qemu-img check` decides, at a start QEMU repairs it
    1: Feature("corrupt", "it is marked as damaged: `qemu-img check -r all FILE` repairs what can be repaired"),
    2: Feature(
        "external data",
        f"its data is in another file, {_ONE_FILE}: `qemu-img convert -O qcow2 FILE NEW.qcow2` makes it one file",
    ),
    3: Feature("compression type"),
    4: Feature("extended L2 entries"),
}
_DIRTY, _COMPRESSION, _EXTENDED = 0, 3, 4


class Header(NamedTuple):
    """An acceptable header: the size of the guest's disk, and whether its last user did not close it."""

    virtual_bytes: int
    dirty: bool


def judge(head: bytes, size: int | None) -> Header:
    """The header of an image of `size` bytes (None: not known yet); RefusedError says what is wrong with it."""
    if len(head) < _HEADER.size:
        raise RefusedError("its qcow2 header is truncated")
    fields = _HEADER.unpack_from(head)
    version, backing, cluster_bits, virtual, crypt, entries = (*fields[1:3], *fields[4:8])
    if version not in (2, 3):
        raise RefusedError(f"its qcow2 version is {version}; only 2 and 3 are supported")
    if backing:
        name = head[backing : backing + fields[3]].decode(errors="replace") if fields[3] < 1024 else "?"
        shown = "".join(letter if letter.isprintable() else "?" for letter in name)
        raise RefusedError(
            f'it needs a backing file ("{shown}"), {_ONE_FILE}: '
            "flatten it first, `qemu-img convert -O qcow2 FILE NEW.qcow2`"
        )
    features = _features(head, cluster_bits) if version == 3 else 0
    if crypt:
        raise RefusedError("it is encrypted, and the appliance has no key for it")
    if not 9 <= cluster_bits <= 21 or (size is not None and size < 1 << cluster_bits):
        raise RefusedError("its qcow2 header is damaged")
    if entries * 8 > _MOST_L1:
        raise RefusedError(f"its qcow2 header is damaged: a table of {entries} entries is more than QEMU reads")
    return Header(virtual, bool(features >> _DIRTY & 1))


def _features(head: bytes, cluster_bits: int) -> int:
    """The incompatible features of version 3, if all of them are acceptable."""
    if len(head) < _LEAST_LENGTH:
        raise RefusedError("its qcow2 header is truncated")
    features: int
    features, _, _, refcount_order, length = _SECOND.unpack_from(head, _HEADER.size)
    for bit in range(64):
        if not features >> bit & 1:
            continue
        if bit not in FEATURES:
            raise RefusedError(f"it has an unknown qcow2 feature (bit {bit}): {_plain()}")
        if FEATURES[bit].refused:
            raise RefusedError(FEATURES[bit].refused)
    if refcount_order > 6 or length < _LEAST_LENGTH or length % 8 or length > len(head):
        raise RefusedError("its qcow2 header is damaged")
    compression = head[_COMPRESSION_AT] if length > _COMPRESSION_AT else 0
    if compression not in _COMPRESSIONS or bool(compression) != bool(features >> _COMPRESSION & 1):
        raise RefusedError(f"this version cannot read its compression (type {compression}): {_plain()}")
    if features >> _EXTENDED & 1 and cluster_bits < _LEAST_EXTENDED:
        raise RefusedError("its qcow2 header is damaged: its clusters are too small for extended L2 entries")
    return features


def _plain() -> str:
    return "`qemu-img convert -O qcow2 FILE NEW.qcow2` writes an image without it"
