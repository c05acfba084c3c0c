# SPDX-License-Identifier: GPL-2.0-only
"""Composition root of the image build: every artefact in the order of need, published to `build/BOARD/`.

The files there are hard links into the cache if the file system allows: read them, copy the data disk, write none.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import boardspec
from boardspec import REPO, BoardSpec

from imagebuild import appliance_layer, datadisk, emulator, initramfs, kernel, rootfs
from imagebuild.cache import Cache, Input, default_root, key_of, publish
from imagebuild.disk.assemble import Slot, assemble
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
    def disk(self) -> Path:
        """The image of a whole disk, which firmware boots; `build_disk` makes it."""
        return self.folder / "disk.img"

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
    _build(spec, Progress(progress), Cache(default_root()))
    return Artefacts(spec)


def _build(spec: BoardSpec, report: Progress, cache: Cache) -> dict[str, Path]:
    """Build and publish everything; the cache's files of the board's disks by their names."""
    arch = spec.arch

    # Fast steps first, so that a mistake in the code shows before the slow ones
    bpf = appliance_layer.bpf_object(cache, REPO, arch.include, report) / "steer.bpf.o"
    tree = rootfs.debian_tree(cache, arch, report) / "tree"
    initrd = initramfs.board(cache, tree)
    guest = initramfs.guest(cache, arch, REPO / "board/guest-demo", tree, report)
    hook = appliance_layer.login_hook(cache, arch, REPO, report) / "login-hook.so"
    demo = guest / "guest-initrd.gz"
    layer = appliance_layer.build(cache, REPO, spec, report, target=tree, bpf=bpf, hook=hook, guest=demo)
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
    return {disk.file: folders[disk.file] / disk.file for disk in spec.image.disk}


def build_disk(progress: Say = print, spec: BoardSpec | None = None) -> Artefacts:
    """Build all, and the disk image of it: the same kernel, initramfs and root, booted by firmware and boot loader.

    The image is for tests: its kernel command line opens the root shell of the second serial port. It is not in the
    cache, but beside its key: putting it together takes seconds.
    """
    spec = spec or boardspec.load()
    artefacts, report, cache = Artefacts(spec), Progress(progress), Cache(default_root())
    files = _build(spec, report, cache)
    layers = [files[disk.file] for disk in spec.image.disk if not disk.writable]
    system = rootfs.one_squashfs(cache, spec.arch, report, layers, "system.squashfs") / "system.squashfs"
    slot = Slot(artefacts.guest_kernel, artefacts.initrd, system, spec.command_line(debug=True))
    inputs: dict[str, Input] = {path.name: path for path in sorted((REPO / "board/imagebuild/disk").glob("*.py"))}
    inputs |= {"kernel": slot.kernel, "initrd": slot.initrd, "layout": REPO / "board/disk"}
    key = key_of(inputs | {"system": system.parent.name, "command line": slot.command_line})
    note = artefacts.disk.with_suffix(".key")
    if artefacts.disk.exists() and note.exists() and note.read_text() == key:
        return artefacts
    with report.stage("disk image", "5 s"), tempfile.TemporaryDirectory(prefix=".disk-", dir=spec.build) as work:
        note.unlink(missing_ok=True)
        assemble(slot, artefacts.disk, Path(work))
        note.write_text(key)
    return artefacts
