# SPDX-License-Identifier: GPL-2.0-only
"""Builds the beginnings of disk images: partition tables and qcow2 headers. Pure."""

from __future__ import annotations

import struct
import zlib

MIB = 1 << 20


def mbr(*partitions: tuple[int, int, int], code: bytes = b"\xeb\x63\x90") -> bytes:
    """A boot sector with these partitions (type, first sector, sectors)."""
    entries = [struct.pack("<B3xB3xII", 0, *partition) for partition in partitions]
    return (code.ljust(446, b"\0") + b"".join(entries).ljust(64, b"\0")) + b"\x55\xaa"


def gpt(sectors: int) -> bytes:
    """The first two sectors of a disk of `sectors` sectors with a GUID partition table."""
    fields = (b"EFI PART", 0x10000, 92, 0, 0, 1, sectors - 1, 34, sectors - 34)
    header = struct.pack("<8sIIIIQQQQ", *fields).ljust(92, b"\0")
    header = header[:16] + struct.pack("<I", zlib.crc32(header)) + header[20:]
    return mbr((0xEE, 1, sectors - 1), code=b"") + header.ljust(512, b"\0")


def raw_disk(fill: bytes, size: int) -> bytes:
    """A raw disk with one partition filled with one byte."""
    return mbr((0x83, 1, size // 512 - 1)) + fill * (size - 512)


def qcow2_header(
    *,
    version: int = 3,
    backing: int = 0,
    named: int = 4,
    crypt: int = 0,
    features: int = 0,
    bits: int = 16,
    entries: int = 1,
    length: int = 112,
    compression: int = 0,
) -> bytes:
    """The header of a qcow2 image of 8 MiB."""
    fields = (b"QFI\xfb", version, backing, named, bits, 8 * MIB, crypt, entries, 0, 0, 1, 0, 0)
    second = struct.pack(">QQQIIB", features, 0, 0, 4, length, compression) if version == 3 else b""
    return (struct.pack(">4sIQIIQIIQQIIQ", *fields) + second).ljust(112, b"\0")
