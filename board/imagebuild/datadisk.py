# SPDX-License-Identifier: GPL-2.0-only
"""The template of the data disk: an empty ext4 with the label that the appliance looks for.

Copied for each machine that is started; the appliance repairs, grows or makes anew what it finds, so this only saves
the first boot that work.
"""

from __future__ import annotations

from pathlib import Path

from imagebuild.cache import Cache, key_of
from imagebuild.progress import run

LABEL = "bypass-data"
SIZE = 256 << 20  # bytes; sparse


def build(cache: Cache) -> Path:
    """The folder with `data.img`."""

    def make(folder: Path) -> None:
        image = folder / "data.img"
        with image.open("wb") as file:
            file.truncate(SIZE)
        run(
            ["mke2fs", "-q", "-F", "-t", "ext4", "-L", LABEL, "-m", "0", "-E", "nodiscard", image],
            what="data disk",
            log=folder / "log",
            env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"},
        )

    return cache.get("data", key_of({"label": LABEL, "size": str(SIZE), "recipe": Path(__file__)}), make)
