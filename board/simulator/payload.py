# SPDX-License-Identifier: GPL-2.0-only
"""The built image as the machine's payload: which file is which drive, and this board's own copy of the data disk."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Literal

import boardspec
from boardspec import BoardSpec

from simulator.machine import Drive, Firmware, Payload

INITRD = "initrd.gz"
DISK = "disk.img"
GROWN_MB = 1024
"""Size of the disk that a disk image is put on: larger than the image, so that the data partition has room to grow."""
Way = Literal["bios", "uefi"]


def files(board: BoardSpec) -> list[str]:
    """The names of the files that the board boots from (pure)."""
    return [board.arch.kernel.boot, INITRD, *(disk.file for disk in board.image.disk)]


def image(
    artefacts: Path,
    directory: Path,
    *,
    debug: bool = False,
    append: str = "",
    board: BoardSpec | None = None,
    wiring: str = "",
) -> Payload:
    """The payload for the image in `artefacts`; the data disk is copied into `directory` once and then kept.

    With `wiring` the board's relay is built in that way, and the machine finds a board.toml that says so.
    Raises FileNotFoundError naming what is missing, SpecError for an unknown wiring.
    """
    board = board or boardspec.load()
    missing = [name for name in files(board) if not (artefacts / name).exists()]
    if missing:
        raise FileNotFoundError(f"no {', '.join(missing)} in {artefacts}: run `make qemu-image` first")
    directory.mkdir(parents=True, exist_ok=True)
    template = board.data_disk.file
    data = _own(artefacts / template, directory / template)
    drives = tuple(
        Drive(disk.serial, data if disk.writable else artefacts / disk.file, readonly=not disk.writable)
        for disk in board.image.disk
    )
    description = None
    if wiring:
        description = directory / "board.toml"
        description.write_text(board.described_text(wiring))
    return Payload(
        artefacts / board.arch.kernel.boot,
        artefacts / INITRD,
        drives,
        append=board.command_line(debug=debug, append=append),
        board=board,
        wiring=wiring,
        description=description,
    )


def disk(image: Path, directory: Path, *, firmware: Way = "bios", board: BoardSpec | None = None) -> Payload:
    """Payload of a disk image that firmware and boot loader boot, copied into `directory` to a larger disk.

    The board keeps its disk from one run to the next; another image, or one that was built anew, replaces it.
    Raises FileNotFoundError naming what is missing.
    """
    if not image.is_file():
        raise FileNotFoundError(f"no disk image {image}: run `make image-disk` first")
    directory.mkdir(parents=True, exist_ok=True)
    board = board or boardspec.load()
    status, note = image.stat(), directory / f"{DISK}.from"
    source = f"{image.resolve()} {status.st_size} {status.st_mtime_ns}\n"
    if not note.is_file() or note.read_text() != source:
        (directory / DISK).unlink(missing_ok=True)
    own = _own(image, directory / DISK, GROWN_MB << 20)
    note.write_text(source)
    started = Firmware()
    if firmware == "uefi":
        files = board.arch.qemu.uefi
        if files is None:
            raise FileNotFoundError(f"board {board.name} has no UEFI firmware: its arch.toml names none")
        code, variables = map(Path, files)
        for path in (code, variables):
            if not path.is_file():
                raise FileNotFoundError(f"no {path}: `make setup` installs it")
        started = Firmware(code, _own(variables, directory / "uefi-variables.fd"))
    return Payload(drives=(Drive("disk", own, readonly=False),), board=board, firmware=started)


def _own(source: Path, copy: Path, size: int = 0) -> Path:
    """This board's own copy of a file, made once and whole; with `size` at least of so many bytes."""
    if not copy.exists():
        partial = copy.with_name(f"{copy.name}.part")
        subprocess.run(["cp", "--sparse=always", str(source.resolve()), str(partial)], check=True)
        partial.chmod(0o600)
        if partial.stat().st_size < size:
            os.truncate(partial, size)
        partial.rename(copy)
    return copy
