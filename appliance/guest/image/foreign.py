# SPDX-License-Identifier: GPL-2.0-only
"""Files that may be mistaken for a disk image, by their first bytes, and what to do with each. Pure.

It tells an operator who imports the wrong file what it is. The list need not be complete: a file that is neither listed
nor a disk (`raw_disk.py`) is also refused, only without its name.
"""

from __future__ import annotations

import codecs
from typing import Final, NamedTuple

_CONVERT: Final = "convert it first, `qemu-img convert -O qcow2 FILE NEW.qcow2`"
_UNPACK: Final = "decompress it first, or use --kind initrd if it is one"
_ARCHIVE: Final = "unpack it, and import the disk inside"
_AS_IT_IS: Final = "--kind raw imports it unchanged"
_CD: Final = "a guest has no CD drive; install from it elsewhere and import the disk"


class Signature(NamedTuple):
    """Bytes at an offset, which kind of file has them there, and what to do with it."""

    offset: int
    magic: bytes
    what: str
    advice: str


def _packed(magic: bytes, how: str) -> Signature:
    return Signature(0, magic, f"compressed ({how})", _UNPACK)


_OVA: Final = "unpack it (`tar xf FILE`) and convert the disk inside, `qemu-img convert -O qcow2 DISK NEW.qcow2`"
SIGNATURES: Final = (
    Signature(0, b"KDMV", "a VMDK image", _CONVERT),
    Signature(0, b"COWD", "a VMDK image", _CONVERT),
    Signature(0, b"# Disk DescriptorFile", "the description of a VMDK image, without its data", _CONVERT),
    Signature(0, b"vhdxfile", "a VHDX image", _CONVERT),
    Signature(0, b"conectix", "a VHD image", _CONVERT),
    Signature(64, b"\x7f\x10\xda\xbe", "a VDI image", _CONVERT),
    Signature(0, b"QED\0", "a QED image", _CONVERT),
    Signature(0, b"WithoutFreeSpace", "a Parallels image", _CONVERT),
    Signature(0, b"WithouFreSpacExt", "a Parallels image", _CONVERT),
    Signature(0, b"Bochs Virtual HD Image", "a Bochs image", _CONVERT),
    Signature(0, b"LUKS\xba\xbe", "a LUKS volume: encrypted, and the appliance has no key for it", _AS_IT_IS),
    Signature(0, b"\x3a\xff\x26\xed", "an Android sparse image", "expand it first, `simg2img FILE NEW.img`"),
    Signature(257, b"ustar", "a tar archive, such as an OVA", _OVA),
    Signature(0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _ARCHIVE),
    Signature(0, b"PK\x03\x04", "a zip archive", _ARCHIVE),
    Signature(0, b"Rar!\x1a\x07", "a RAR archive", _ARCHIVE),
    Signature(0, b"MSWIM\0\0\0", "a WIM archive", _ARCHIVE),
    Signature(0, b"!<arch>\n", "an ar archive or Debian package", _ARCHIVE),
    Signature(0, b"\xed\xab\xee\xdb", "an RPM package", _ARCHIVE),
    Signature(0, b"070701", "a cpio archive", "use --kind initrd if it is one"),
    _packed(b"\x1f\x8b", "gzip"),
    _packed(b"\x1f\x9d", "compress"),
    _packed(b"\xfd7zXZ\0", "xz"),
    _packed(b"\x5d\0\0", "lzma"),
    _packed(b"\x28\xb5\x2f\xfd", "zstd"),
    _packed(b"BZh", "bzip2"),
    _packed(b"\x04\x22\x4d\x18", "lz4"),
    _packed(b"\x02\x21\x4c\x18", "lz4"),
    _packed(b"\x89LZO\0\r\n\x1a\n", "lzop"),
    Signature(0, b"hsqs", "a squashfs file system", _AS_IT_IS),
    Signature(0, b"\x45\x3d\xcd\x28", "a cramfs file system", _AS_IT_IS),
    Signature(0, b"\xe2\xe1\xf5\xe0", "an EROFS file system", _AS_IT_IS),
    Signature(512, b"LABELONE", "an LVM volume without a partition table", _AS_IT_IS),
    Signature(0x202, b"HdrS", "a Linux kernel", "use --kind kernel"),
    Signature(0, b"\x7fELF", "a program (ELF)", "import the disk, or the kernel as bzImage"),
    Signature(0, b"\xd0\x0d\xfe\xed", "a device tree or U-Boot image", "import the disk"),
    Signature(0, b"%PDF-", "a PDF document", "import the disk"),
    *(
        Signature(0, magic, "a capture file (pcap)", "`explain` reads it")
        for magic in (
            b"\xd4\xc3\xb2\xa1",
            b"\xa1\xb2\xc3\xd4",
            b"\x4d\x3c\xb2\xa1",
            b"\xa1\xb2\x3c\x4d",
            b"\x0a\x0d\x0d\x0a",
        )
    ),
)

CD: Final = Signature(32_769, b"CD001", "an ISO 9660 image (CD)", _CD)
"""Checked last: a CD image that can be written to a disk and booted has a partition table as well."""

_SHOWN: Final = 40  # characters of a text
_LOOKED_AT: Final = 512


def recognise(head: bytes) -> Signature | None:
    """The kind of a file that begins with `head`; None: not listed."""
    return next((known for known in SIGNATURES if has(head, known)), None)


def has(head: bytes, known: Signature) -> bool:
    """Whether `head` has the signature."""
    return head[known.offset : known.offset + len(known.magic)] == known.magic


def text(head: bytes) -> str:
    """The beginning of a text, such as a web page that was saved instead of an image; "" if it is not text."""
    try:
        letters = codecs.getincrementaldecoder("utf-8")().decode(head[:_LOOKED_AT])  # the last letter may be cut
    except UnicodeDecodeError:
        return ""
    if not all(letter.isprintable() or letter in "\t\r\n" for letter in letters):
        return ""
    shown = " ".join(letters[: 2 * _SHOWN].split())
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]} ..."
