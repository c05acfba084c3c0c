# SPDX-License-Identifier: GPL-2.0-only
"""The template of the data disk: an empty ext4 with the label that the appliance looks for.

Each new machine gets a copy. The appliance repairs, grows or creates the file system by itself, so the template only
saves that work at the first boot.
"""

from __future__ import annotations

from pathlib import Path

from boardspec import Disk

from imagebuild.cache import Cache, key_of
from imagebuild.progress import run

PATH = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
RESERVED = 64 << 20  # bytes reserved for root, as in rootfs/etc/init.d/data-partition


def build(cache: Cache, disk: Disk) -> Path:
    """The folder with the sparse file of this disk."""
    size = disk.size_mb << 20

    def make(folder: Path) -> None:
        image = folder / disk.file
        with image.open("wb") as file:
            file.truncate(size)
        run(
            ["mke2fs", "-q", "-F", "-t", "ext4", "-L", disk.label, "-b", "4096", "-m", "0", "-E", "nodiscard", image],
            what="data disk",
            log=folder / "log",
            env=PATH,
        )
        blocks = min(RESERVED, size // 16) // 4096
        run(["tune2fs", "-r", str(blocks), image], what="data disk", log=folder / "log", env=PATH)

    return cache.get("data", key_of({"disk": repr(disk), "recipe": Path(__file__)}), make)
