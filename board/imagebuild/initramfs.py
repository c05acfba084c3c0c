# SPDX-License-Identifier: GPL-2.0-only
"""The two initramfs images: the board's (finds the disks, stacks the root) and the demo guest's.

Both are a static busybox, an init script and little else, written as a cpio archive by this module: no root, no device
nodes on the host, the same bytes for the same inputs.
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from pathlib import Path

from boardspec import Arch

from imagebuild.cache import Cache, Input, key_of
from imagebuild.progress import Progress, run

_DIR, _FILE, _CHAR = 0o040000, 0o100000, 0o020000


@dataclass(frozen=True)
class Entry:
    """One entry of an archive: a file with content, a character device, or (neither) a folder."""

    name: str
    content: bytes | None = None
    mode: int = 0o755
    device: tuple[int, int] | None = None


def cpio(entries: list[Entry]) -> bytes:
    """A cpio archive ("newc", as the kernel reads it) of the entries, all owned by root (pure)."""
    out = io.BytesIO()

    def put(inode: int, name: str, mode: int, content: bytes, device: tuple[int, int]) -> None:
        raw = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(raw), 0)
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + raw)
        out.write(b"\0" * (-out.tell() % 4))
        out.write(content)
        out.write(b"\0" * (-out.tell() % 4))

    for inode, entry in enumerate(entries, 1):
        kind = _CHAR if entry.device else _FILE if entry.content is not None else _DIR
        put(inode, entry.name, kind | entry.mode, entry.content or b"", entry.device or (0, 0))
    put(0, "TRAILER!!!", 0, b"", (0, 0))
    return out.getvalue()


def _skeleton(busybox: Path, init: Path) -> list[Entry]:
    return [
        *(Entry(name) for name in ("bin", "dev", "proc", "sys", "mnt")),
        Entry("dev/console", mode=0o600, device=(5, 1)),
        Entry("bin/busybox", busybox.read_bytes()),
        Entry("init", init.read_bytes()),
    ]


def _write(target: Path, entries: list[Entry]) -> None:
    target.write_bytes(gzip.compress(cpio(entries), compresslevel=6, mtime=0))


def board(cache: Cache, board_dir: Path, tree: Path) -> Path:
    """The folder with `initrd.gz`, which the board's kernel starts with."""
    busybox, init = tree / "usr/bin/busybox", board_dir / "initramfs/init"

    def make(folder: Path) -> None:
        _write(folder / "initrd.gz", _skeleton(busybox, init))

    return cache.get("initrd", key_of({"busybox": busybox, "init": init, "recipe": Path(__file__)}), make)


def guest(cache: Cache, arch: Arch, guest_dir: Path, tree: Path, progress: Progress) -> Path:
    """The folder with `guest-initrd.gz`: the demo guest, with the application `forwarder` compiled statically."""
    busybox, init, source = tree / "usr/bin/busybox", guest_dir / "init", guest_dir / "forwarder.c"
    compiler = arch.tool("gcc")
    inputs: dict[str, Input] = {"busybox": busybox, "init": init, "source": source, "recipe": Path(__file__)}
    inputs["compiler"] = compiler

    def make(folder: Path) -> None:
        binary = folder / "forwarder"
        with progress.stage("demo guest: compile the forwarder"):
            run(
                [compiler, "-O2", "-Wall", "-static", "-pthread", "-s", "-o", binary, source],
                what="demo guest: forwarder.c",
                log=folder / "log",
            )
        _write(folder / "guest-initrd.gz", [*_skeleton(busybox, init), Entry("bin/forwarder", binary.read_bytes())])
        binary.unlink()

    return cache.get("guest", key_of(inputs), make)
