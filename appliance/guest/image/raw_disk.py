# SPDX-License-Identifier: GPL-2.0-only
"""Whether the first bytes of a file are those of a disk: a partition table, a boot sector or a file system. Pure.

A raw image has no header that identifies it. What is accepted as a disk without --kind raw must begin like a disk that
a guest can use, and be complete: a partition that ends beyond the end of the file means that the file is truncated.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from appliance.errors import RefusedError

SECTOR: Final = 512
_SIGNATURE: Final = b"\x55\xaa"  # of a boot sector
_TABLE_AT, _ENTRIES = 446, 4
_PROTECTIVE: Final = 0xEE  # type of the one partition that stands for a GPT
_EXTENDED: Final = (0x05, 0x0F, 0x85)
_GPT: Final = struct.Struct("<8sIIIIQQQQ")
_GPT_MOST: Final = 512  # bytes of a GPT header
_EXT_AT, _XFS = 1024, b"XFSB"


def recognise(head: bytes, size: int | None) -> str:
    """What identifies the file as a disk ("partition table (GPT)"), or ""; RefusedError if it is damaged or truncated.

    `size` None: not known yet, so nothing is compared with it.
    """
    if head[510:512] == _SIGNATURE:
        entries = [struct.unpack_from("<B3xB3xII", head, _TABLE_AT + 16 * number) for number in range(_ENTRIES)]
        if any(kind == _PROTECTIVE for _, kind, _, _ in entries):
            return _gpt(head, size)
        if _is_file_system(head, size):
            return "boot sector"
        if found := _partitions(entries, size):
            return found
    return _file_system(head, size)


def _fits(end: int, size: int | None, what: str) -> None:
    if size is not None and end > size:
        raise RefusedError(f"it is truncated: {what} ends at byte {end}, and the file at {size}")


def _partitions(entries: list[tuple[int, ...]], size: int | None) -> str:
    """An MBR partition table; if it is empty, the boot sector counts."""
    used = [entry for entry in entries if any(entry)]
    if any(status not in (0, 0x80) for status, _, _, _ in entries):
        return ""
    if any(not kind or not start or not sectors for _, kind, start, sectors in used):
        return ""
    for _, kind, start, sectors in used:
        if kind in _EXTENDED:
            continue  # some tools are careless about its size, and what is in it cannot be seen from here
        _fits((start + sectors) * SECTOR, size, "a partition")
    return "partition table (MBR)" if used else "boot sector"


def _gpt(head: bytes, size: int | None) -> str:
    if len(head) < 2 * SECTOR:
        raise RefusedError("it is truncated: its partition table (GPT) is missing")
    magic, _, length, checksum, _, here, other, _, last = _GPT.unpack_from(head, SECTOR)
    if magic != b"EFI PART":
        raise RefusedError("its partition table (GPT) is missing, or made for sectors of more than 512 bytes")
    header = bytearray(head[SECTOR : SECTOR + min(length, _GPT_MOST)])
    header[16:20] = bytes(4)
    if length < _GPT.size or here != 1 or zlib.crc32(header) != checksum:
        raise RefusedError("its partition table (GPT) is damaged")
    _fits((max(other, last) + 1) * SECTOR, size, "its partition table (GPT)")
    return "partition table (GPT)"


def _is_file_system(head: bytes, size: int | None) -> bool:
    """FAT, exFAT or NTFS over the whole disk: the values in its boot sector must make sense."""
    if head[0] not in (0xEB, 0xE9):
        return False
    if head[3:11] in (b"EXFAT   ", b"NTFS    "):
        sectors = int.from_bytes(head[72:80] if head[3:4] == b"E" else head[40:48], "little")
        per_sector = 1 << head[108] if head[3:4] == b"E" and head[108] <= 12 else int.from_bytes(head[11:13], "little")
    else:
        per_sector, clusters, reserved, fats = struct.unpack_from("<HBHB", head, 11)
        if not clusters or clusters & (clusters - 1) or not reserved or fats not in (1, 2):
            return False
        sectors = int.from_bytes(head[19:21], "little") or int.from_bytes(head[32:36], "little")
    if per_sector not in (512, 1024, 2048, 4096) or not sectors:
        return False
    _fits(sectors * per_sector, size, "its file system")
    return True


def _file_system(head: bytes, size: int | None) -> str:
    """A file system without boot sector, as a guest with a kernel of its own uses for its root."""
    block = head[_EXT_AT : _EXT_AT + 96]
    if len(block) == 96 and block[56:58] == b"\x53\xef":
        blocks, shift = int.from_bytes(block[4:8], "little"), int.from_bytes(block[24:28], "little")
        if not blocks or shift > 6:
            raise RefusedError("its file system (ext) is damaged")
        _fits(blocks << (10 + shift), size, "its file system (ext)")
        return "file system (ext)"
    if head.startswith(_XFS) and len(head) >= 16:
        size_of_block, blocks = struct.unpack_from(">IQ", head, 4)
        _fits(size_of_block * blocks, size, "its file system (XFS)")
        return "file system (XFS)"
    return ""
