# SPDX-License-Identifier: GPL-2.0-only
"""Composition root of the image build: every artefact in the order of need, published to `build/BOARD/`.

The files there are hard links into the cache if the file system allows: read them, copy the data disk, write none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import boardspec
from boardspec import REPO, BoardSpec

from imagebuild import appliance_layer, datadisk, emulator, initramfs, kernel, rootfs
from imagebuild.cache import Cache, default_root, publish
from imagebuild.progress import Progress, Say


@dataclass(frozen=True)
class Artefacts:
    """The files that a machine boots from. The board's image.toml names the disks."""

    spec: BoardSpec

    @property
    def folder(self) -> Path:
        """The folder of all files."""
        return self.spec.build

    @property
    def kernel(self) -> Path:
        """The kernel that the simulator boots."""
        return self.folder / self.spec.arch.kernel.boot

    @property
    def modules(self) -> Path:
        """The folder of the kernel's modules, which are not in the image: tests load them."""
        return self.folder / "modules"

    @property
    def guest_kernel(self) -> Path:
        """The same kernel in the form for a boot loader or a guest."""
        return self.folder / self.spec.arch.kernel.target

    @property
    def initrd(self) -> Path:
        """The board's initramfs."""
        return self.folder / "initrd.gz"

    @property
    def emulator(self) -> Path:
        """The QEMU that emulates the board (simulator/accel.py looks for it here)."""
        return self.folder / "qemu"

    @property
    def guest_initrd(self) -> Path:
        """The demo guest's initramfs, also inside the image."""
        return self.folder / "guest-initrd.gz"


def build_kernel(progress: Say = print, spec: BoardSpec | None = None) -> Artefacts:
    """Build only the kernel."""
    spec = spec or boardspec.load()
    return _publish_kernel(spec, kernel.build(Cache(default_root()), spec, Progress(progress)))


def _publish_kernel(spec: BoardSpec, built: Path) -> Artefacts:
    for name in ("vmlinux", spec.arch.kernel.target, *(f"modules/{path.name}" for path in built.glob("modules/*.ko"))):
        publish(built / name, spec.build / name)
    return Artefacts(spec)


def build(progress: Say = print, spec: BoardSpec | None = None) -> Artefacts:
    """Build what is missing and publish it; BuildError is one clear line. Under two seconds if nothing changed."""
    spec = spec or boardspec.load()
    arch = spec.arch
    report = Progress(progress)
    cache = Cache(default_root())

    # Fast steps first, so that a mistake in the code shows before the slow ones
    bpf = appliance_layer.bpf_object(cache, REPO, arch.include, report) / "steer.bpf.o"
    tree = rootfs.debian_tree(cache, arch, report) / "tree"
    initrd = initramfs.board(cache, spec.folder, tree)
    guest = initramfs.guest(cache, arch, REPO / "board/guest-demo", tree, report)
    layer = appliance_layer.build(cache, REPO, spec, report, target=tree, bpf=bpf, guest=guest / "guest-initrd.gz")
    python = rootfs.python_packages(cache, arch, REPO, tree, report) / "tree"
    built = kernel.build(cache, spec, report)
    base = rootfs.squashfs(cache, arch, report, tree=tree, python=python, kernel=built)
    data = datadisk.build(cache, spec.data_disk)

    artefacts = _publish_kernel(spec, built)
    emulator.publish(arch, tree, artefacts.emulator)
    publish(initrd / "initrd.gz", artefacts.initrd)
    publish(guest / "guest-initrd.gz", artefacts.guest_initrd)
    folders = {"rootfs.squashfs": base, "appliance.squashfs": layer, spec.data_disk.file: data}
    for disk in spec.image.disk:
        publish(folders[disk.file] / disk.file, artefacts.folder / disk.file)
    return artefacts
