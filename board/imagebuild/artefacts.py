# SPDX-License-Identifier: GPL-2.0-only
"""Composition root of the image build: every artefact in the order of need, published to `build/qemu-x86_64/`.

The files there are hard links into the cache where the file system allows: read them, copy `data.img`, write to none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imagebuild import appliance_layer, datadisk, emulator, initramfs, kernel, rootfs
from imagebuild.cache import Cache, default_root, publish
from imagebuild.progress import Progress, Say

REPO = Path(__file__).resolve().parents[2]
BOARD = "qemu-x86_64"
# The kernel's fragments, in the order of the stack
FRAGMENTS = (REPO / "board/kernel/common.fragment", REPO / f"board/{BOARD}/linux.fragment")


@dataclass(frozen=True)
class Artefacts:
    """Where everything is that a machine boots from."""

    folder: Path

    @property
    def vmlinux(self) -> Path:
        """The kernel, uncompressed, with the PVH entry: what the emulator boots fastest."""
        return self.folder / "vmlinux"

    @property
    def bzimage(self) -> Path:
        """The same kernel, compressed."""
        return self.folder / "bzImage"

    @property
    def initrd(self) -> Path:
        """The board's initramfs."""
        return self.folder / "initrd.gz"

    @property
    def rootfs(self) -> Path:
        """The base root filesystem (disk with serial "root", read-only)."""
        return self.folder / "rootfs.squashfs"

    @property
    def appliance(self) -> Path:
        """The appliance's layer (disk with serial "appliance", read-only)."""
        return self.folder / "appliance.squashfs"

    @property
    def data(self) -> Path:
        """Template of the data disk (serial "data"): copy it."""
        return self.folder / "data.img"

    @property
    def emulator(self) -> Path:
        """The QEMU that the board runs in (simulator/accel.py looks for it here)."""
        return self.folder / "qemu"

    @property
    def guest_initrd(self) -> Path:
        """The demo guest's initramfs, also inside the image."""
        return self.folder / "guest-initrd.gz"


def build_kernel(progress: Say = print) -> Artefacts:
    """Only `vmlinux` and `bzimage`."""
    report = Progress(progress)
    return _publish_kernel(kernel.build(Cache(default_root()), FRAGMENTS, report))


def _publish_kernel(built: Path) -> Artefacts:
    artefacts = Artefacts(REPO / "build" / BOARD)
    publish(built / "vmlinux", artefacts.vmlinux)
    publish(built / "bzImage", artefacts.bzimage)
    return artefacts


def build(progress: Say = print) -> Artefacts:
    """Build what is missing and publish it; BuildError is one clear line. Under two seconds when nothing changed."""
    report = Progress(progress)
    cache = Cache(default_root())
    board_dir = REPO / "board" / BOARD

    # Cheap things first: a mistake in the code is told before minutes are spent
    bpf = appliance_layer.bpf_object(cache, REPO, report) / "steer.bpf.o"
    tree = rootfs.debian_tree(cache, report) / "tree"
    initrd = initramfs.board(cache, board_dir, tree)
    guest = initramfs.guest(cache, REPO / "board/guest-demo", tree, report)
    layer = appliance_layer.build(cache, REPO, board_dir, report, target=tree, bpf=bpf, guest=guest / "guest-initrd.gz")
    packages = rootfs.python_packages(cache, REPO, tree, report) / "tree"
    built = kernel.build(cache, FRAGMENTS, report)
    base = rootfs.squashfs(cache, tree, packages, built, report)
    data = datadisk.build(cache)

    artefacts = _publish_kernel(built)
    emulator.publish(tree, artefacts.emulator)
    publish(initrd / "initrd.gz", artefacts.initrd)
    publish(base / "rootfs.squashfs", artefacts.rootfs)
    publish(layer / "appliance.squashfs", artefacts.appliance)
    publish(data / "data.img", artefacts.data)
    publish(guest / "guest-initrd.gz", artefacts.guest_initrd)
    return artefacts
