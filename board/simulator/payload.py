# SPDX-License-Identifier: GPL-2.0-only
"""The built image as the machine's payload: which file is which drive, and this board's own copy of the data disk."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from simulator.machine import COMMAND_LINE, DEBUG, Drive, Payload

FILES = ("vmlinux", "initrd.gz", "rootfs.squashfs", "appliance.squashfs", "data.img")


def image(artefacts: Path, directory: Path, *, debug: bool = False, append: str = "") -> Payload:
    """Payload of the image in `artefacts`; the data disk is copied into `directory` once and kept from then on.

    Raises FileNotFoundError naming what is missing.
    """
    missing = [name for name in FILES if not (artefacts / name).exists()]
    if missing:
        raise FileNotFoundError(f"no {', '.join(missing)} in {artefacts}: run `make qemu-image` first")
    directory.mkdir(parents=True, exist_ok=True)
    data = directory / "data.img"
    if not data.exists():
        partial = directory / "data.img.part"
        source = (artefacts / "data.img").resolve()
        subprocess.run(["cp", "--sparse=always", str(source), str(partial)], check=True)
        partial.chmod(0o600)
        partial.rename(data)
    drives = (
        Drive("root", artefacts / "rootfs.squashfs"),
        Drive("appliance", artefacts / "appliance.squashfs"),
        Drive("data", data, readonly=False),
    )
    words = [COMMAND_LINE, *([DEBUG] if debug else []), *([append] if append else [])]
    return replace(
        Payload(artefacts / "vmlinux"), initrd=artefacts / "initrd.gz", drives=drives, append=" ".join(words)
    )
