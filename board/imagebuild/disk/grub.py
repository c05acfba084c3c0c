# SPDX-License-Identifier: GPL-2.0-only
"""The boot loader for BIOS and UEFI, each one file with the same configuration in it.

GRUB's own installer for BIOS wants a block device. What it does to a file is little, and stands in `for_bios`.
"""

from __future__ import annotations

import io
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path

from imagebuild.disk.layout import SECTOR
from imagebuild.errors import BuildError
from imagebuild.progress import run

CODE = 440  # bytes of the first sector that are the boot loader's; then come the disk's signature and partitions
_KERNEL_SECTOR = 0x5C  # in boot.img: where the rest of GRUB begins
_DRIVE_CHECK = 0x66  # in boot.img: a jump; without it GRUB believes a BIOS that does not say which drive it boots
_BLOCK_LIST = 0x1F4  # in the rest's first sector: where its second sector is

MODULES = [
    "boot",
    "configfile",
    "echo",
    "ext2",
    "fat",
    "gcry_sha256",
    "hashsum",
    "linux",
    "loadenv",
    "memdisk",
    "minicmd",
    "normal",
    "part_gpt",
    "part_msdos",
    "reboot",
    "regexp",
    "search",
    "serial",
    "sleep",
    "tar",
    "terminal",
    "test",
]
PLATFORMS = {"i386-pc": ("biosdisk",), "x86_64-efi": ("efi_gop", "efi_uga")}


@dataclass(frozen=True)
class Grub:
    """Where GRUB's tool and its modules (folders by platform) are."""

    mkimage: str = "grub-mkimage"
    modules: Path = Path("/usr/lib/grub")

    def folder(self, platform: str) -> Path:
        """The modules of a platform. BuildError: they are not there."""
        for folder in (self.modules / platform, self.modules / f"build-{platform}/grub-core"):
            if (folder / "moddep.lst").is_file():
                return folder
        raise BuildError(f"no GRUB modules for {platform} below {self.modules}; `make setup` installs Debian's")


def memdisk(config: bytes) -> bytes:
    """The archive inside the boot loader, with its configuration (pure)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        entry = tarfile.TarInfo("boot/grub/grub.cfg")
        entry.size = len(config)
        archive.addfile(entry, io.BytesIO(config))
    return out.getvalue()


def image(grub: Grub, platform: str, config: Path, target: Path, log: Path) -> Path:
    """GRUB with its modules and configuration in one file."""
    archive = target.with_suffix(".tar")
    archive.write_bytes(memdisk(config.read_bytes()))
    words: list[str | Path] = [grub.mkimage, "-O", platform, "-d", grub.folder(platform), "-o", target]
    words += ["-p", "(memdisk)/boot/grub", "-m", archive, *MODULES, *PLATFORMS[platform]]
    run(words, what=f"boot loader for {platform}", log=log)
    archive.unlink()
    return target


def for_bios(boot: bytes, core: bytes, offset: int) -> tuple[bytes, bytes]:
    """The code of the disk's first sector, and the rest as it stands at `offset` bytes (pure)."""
    sector = offset // SECTOR
    first = bytearray(boot[:CODE])
    struct.pack_into("<Q", first, _KERNEL_SECTOR, sector)
    first[_DRIVE_CHECK : _DRIVE_CHECK + 2] = b"\x90\x90"
    rest = bytearray(core)
    struct.pack_into("<Q", rest, _BLOCK_LIST, sector + 1)
    return bytes(first), bytes(rest)
