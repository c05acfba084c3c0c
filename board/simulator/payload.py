# SPDX-License-Identifier: GPL-2.0-only
"""The built image as the machine's payload: which file is which drive, and this board's own copy of the data disk."""

from __future__ import annotations

import subprocess
from pathlib import Path

import boardspec
from boardspec import BoardSpec

from simulator.machine import Drive, Payload

INITRD = "initrd.gz"


def files(board: BoardSpec) -> list[str]:
    """The names of the files that the board boots from (pure)."""
    return [board.arch.kernel.boot, INITRD, *(disk.file for disk in board.image.disk)]


def image(
    artefacts: Path, directory: Path, *, debug: bool = False, append: str = "", board: BoardSpec | None = None
) -> Payload:
    """The payload for the image in `artefacts`; the data disk is copied into `directory` once and then kept.

    Raises FileNotFoundError naming what is missing.
    """
    board = board or boardspec.load()
    missing = [name for name in files(board) if not (artefacts / name).exists()]
    if missing:
        raise FileNotFoundError(f"no {', '.join(missing)} in {artefacts}: run `make qemu-image` first")
    directory.mkdir(parents=True, exist_ok=True)
    template = board.data_disk.file
    data = directory / template
    if not data.exists():
        partial = directory / f"{template}.part"
        source = (artefacts / template).resolve()
        subprocess.run(["cp", "--sparse=always", str(source), str(partial)], check=True)
        partial.chmod(0o600)
        partial.rename(data)
    drives = tuple(
        Drive(disk.serial, data if disk.writable else artefacts / disk.file, readonly=not disk.writable)
        for disk in board.image.disk
    )
    return Payload(
        artefacts / board.arch.kernel.boot,
        artefacts / INITRD,
        drives,
        append=board.command_line(debug=debug, append=append),
        board=board,
    )
