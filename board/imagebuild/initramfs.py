# SPDX-License-Identifier: GPL-2.0-only
"""The two initramfs images: the board's (finds the disks, stacks the root) and the demo guest's.

Both are a static busybox, an init script and little else.
"""

from __future__ import annotations

from pathlib import Path

from boardspec import REPO, Arch

from imagebuild import cpio
from imagebuild.cache import Cache, Input, key_of
from imagebuild.progress import Progress, run

SLOT_STATE = REPO / "rootfs/usr/libexec/bypass/slot-state"


def board_entries(busybox: Path, init: Path, *, debug: bool) -> list[cpio.Entry]:
    """What the board's initramfs holds. With `debug` it may open a shell where the kernel command line asks for it."""
    entries = [*cpio.skeleton(busybox, init), cpio.Entry("bin/slot-state", SLOT_STATE.read_bytes())]
    return [*entries, cpio.Entry("debug", b"", 0o644)] if debug else entries


def board(cache: Cache, tree: Path) -> Path:
    """The folder with `initrd.gz`, which the board's kernel starts with. It is for tests: `debug` is on."""
    busybox, init = tree / "usr/bin/busybox", REPO / "board/initramfs/init"
    inputs: dict[str, Input] = {"busybox": busybox, "init": init, "slots": SLOT_STATE, "recipe": Path(__file__)}

    def make(folder: Path) -> None:
        cpio.write(folder / "initrd.gz", board_entries(busybox, init, debug=True))

    return cache.get("initrd", key_of({**inputs, "format": Path(cpio.__file__)}), make)


def guest(cache: Cache, arch: Arch, guest_dir: Path, tree: Path, progress: Progress) -> Path:
    """The folder with `guest-initrd.gz`: the demo guest, with the application `forwarder` compiled statically."""
    busybox, init, source = tree / "usr/bin/busybox", guest_dir / "init", guest_dir / "forwarder.c"
    compiler = arch.tool("gcc")
    inputs: dict[str, Input] = {"busybox": busybox, "init": init, "source": source, "recipe": Path(__file__)}
    inputs |= {"compiler": compiler, "format": Path(cpio.__file__)}

    def make(folder: Path) -> None:
        binary = folder / "forwarder"
        with progress.stage("demo guest: compile the forwarder"):
            run(
                [compiler, "-O2", "-Wall", "-static", "-pthread", "-s", "-o", binary, source],
                what="demo guest: forwarder.c",
                log=folder / "log",
            )
        cpio.write(
            folder / "guest-initrd.gz",
            [*cpio.skeleton(busybox, init), cpio.Entry("bin/forwarder", binary.read_bytes())],
        )
        binary.unlink()

    return cache.get("guest", key_of(inputs), make)
