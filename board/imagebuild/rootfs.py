# SPDX-License-Identifier: GPL-2.0-only
"""The base root filesystem: Debian packages and the locked Python packages, as one squashfs.

It changes rarely; what changes with the code is in the appliance's own layer (`appliance_layer.py`). Three artefacts:
`debian` (the unpacked packages, kept as a folder because the target's own Python in it compiles byte code and its
busybox goes into the initramfs), `python` (the locked packages, compiled) and `rootfs` (both, squashed).
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from boardspec import Arch

from imagebuild import debian
from imagebuild.cache import Cache, key_of
from imagebuild.errors import BuildError
from imagebuild.progress import Progress, output, run

PACKAGES = (
    "busybox-static",
    "chrony",
    "ca-certificates",
    "dropbear-bin",
    "e2fsprogs",
    "ethtool",
    "gpg",
    "fdisk",
    "iproute2",
    "kmod",
    "libbpf1",
    "libpcap0.8t64",
    "lldpd",
    "python3",
    "qemu-utils",
    "snmpd",
    "udev",
    "wireguard-tools",
)
TARGET_PYTHON = "3.13"
SITE = "usr/lib/python3/dist-packages"  # where Debian's Python looks; Buildroot's has its own
UNUSED_PYTHON = ("bin", "docs", "example", "pyrad/tests")  # what packages bring beside their modules
GUEST_FOLDER = "usr/share/bypass/guest-demo"
# Files that are read between power-on and inline are stored uncompressed: unpacking them takes longer than running them
HOT = " || ".join(
    (
        "name(*.pyc)",
        "name(*.so*) && subpathname(usr/lib/python3*)",
        "name(python3.*)",
        "name(libc.so*)",
        "name(ld-linux*)",
    )
)
HOT_OPTIONS = ("-action", f"uncompressed @ {HOT}", "-action", f"no-fragments @ {HOT}")

# Never unpacked
EXCLUDE = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/lintian/*",
    "/usr/share/bug/*",
    "/usr/share/bash-completion/*",
    "/usr/share/zsh/*",
    "/usr/share/icons/*",
    "/usr/share/applications/*",
    "/usr/lib/udev/hwdb.d/*",
)
# ... except the licences, which `show licences` reads
INCLUDE = ("/usr/share/doc/*/copyright",)
# Removed afterwards, in addition to files for other processors: files that nothing on the appliance reads
TRIM = (
    "usr/bin/perl*",
    "usr/bin/systemd-hwdb",
    "usr/lib/*-linux-gnu/perl-base",
    "usr/lib/*-linux-gnu/perl",
    "usr/share/perl",
    "usr/lib/*-linux-gnu/gconv",
    "usr/bin/qemu-io",
    "usr/bin/qemu-nbd",
    "usr/bin/qemu-storage-daemon",
    "usr/lib/systemd/boot",
    "usr/lib/locale",
    "usr/lib/python3.13/ensurepip",
    "usr/lib/python3.13/idlelib",
    "usr/lib/python3.13/lib2to3",
    "usr/lib/python3.13/pydoc_data",
    "usr/lib/python3.13/test",
    "usr/lib/python3.13/turtledemo",
    "usr/share/perl5",
    "usr/share/zoneinfo/posix",
    "usr/share/zoneinfo/right",
    "etc/chrony",
    "usr/share/i18n",
    "usr/share/qemu/keymaps",
    "usr/share/snmp",
    "etc/snmp",
    "usr/share/qemu/trace-events*",
    "var/cache/*",
    "var/lib/apt",
    "var/lib/dpkg/info",
    "var/log/*",
)


def packages(arch: Arch) -> list[str]:
    """The Debian packages of the image (pure)."""
    return sorted((*PACKAGES, *arch.debian.packages))


def debian_tree(cache: Cache, arch: Arch, progress: Progress) -> Path:
    """The folder with `tree/`: Debian's packages, trimmed."""

    def make(folder: Path) -> None:
        if os.geteuid():
            raise BuildError("the root filesystem is built with mmdebstrap as root: run the build as root")
        log = folder / "log"
        origin = debian.mirror()
        conf = folder / "apt.conf"
        conf.write_text("\n".join(origin.settings) + "\n")
        tree = folder / "tree"
        with progress.stage("root filesystem: Debian packages", "1 to 2 min"):
            run(
                [
                    *("mmdebstrap", "--mode=root", "--variant=essential", f"--include={','.join(packages(arch))}"),
                    f"--architectures={arch.debian.architecture}",
                    *(f"--aptopt={conf}", "--aptopt=Apt::Install-Recommends false"),
                    *(f"--dpkgopt=path-exclude={path}" for path in EXCLUDE),
                    *(f"--dpkgopt=path-include={path}" for path in INCLUDE),
                    *(debian.SUITE, tree, origin.source_line),
                ],
                what="the root filesystem's packages cannot be installed",
                log=log,
            )
        for pattern in (*TRIM, *arch.debian.unused):
            for path in tree.glob(pattern):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        link_applets(tree)
        for name in ("etc/machine-id", "etc/hostname", "etc/resolv.conf"):
            (tree / name).unlink(missing_ok=True)

    return cache.get("debian", debian_key(arch), make)


def debian_key(arch: Arch) -> str:
    """The key of the unpacked Debian packages."""
    lists = {"packages": packages(arch), "exclude": EXCLUDE, "include": INCLUDE, "trim": (*TRIM, *arch.debian.unused)}
    origin = {"suite": debian.SUITE, "architecture": arch.debian.architecture, "recipe": "2"}
    return key_of(origin | {name: " ".join(value) for name, value in lists.items()})


def link_applets(tree: Path) -> None:
    """Give busybox the names of all its applets that no package provides, and make it the init."""
    busybox = tree / "usr/bin/busybox"
    for applet in output([busybox, "--list"], what="the target's busybox").split():
        if not any((tree / folder / applet).exists() for folder in ("usr/bin", "usr/sbin")):
            _link(tree / "usr/bin" / applet, "busybox")
    _link(tree / "usr/sbin/init", "../bin/busybox")


def _link(path: Path, target: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def compile_python(arch: Arch, tree: Path, folder: Path, log: Path) -> None:
    """Compile the Python files below `folder` (which becomes the target's /) with the target's own interpreter.

    The interpreter runs through the target's own loader, so that neither a chroot nor a mount is needed. The byte code
    is not checked against its source at run time: both come from one read-only image.
    """
    libraries = tree / arch.libraries
    argv: list[str | Path] = [libraries / arch.debian.loader, "--library-path", libraries]
    argv += [tree / f"usr/bin/python{TARGET_PYTHON}", "-S", "-m", "compileall", "-q", "-f", "-s", folder, "-p", "/"]
    argv += ["--invalidation-mode", "unchecked-hash", folder]
    run(
        argv,
        what="compiling Python files for the target",
        log=log,
        env={"PYTHONHOME": str(tree / "usr"), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )


def python_packages(cache: Cache, arch: Arch, repo: Path, tree: Path, progress: Progress) -> Path:
    """The folder with `tree/`: the packages of requirements.lock for the target's Python, compiled."""
    lock = repo / "requirements.lock"
    if not lock.is_file():
        raise BuildError(f"{lock} is missing: the image installs the locked Python packages")

    def make(folder: Path) -> None:
        log = folder / "log"
        site = folder / "tree" / SITE
        with progress.stage("root filesystem: Python packages", "20 s"):
            run(
                [
                    *(sys.executable, "-m", "pip", "install", "--no-compile", "--no-deps", "--only-binary=:all:"),
                    *("--python-version", TARGET_PYTHON, "--implementation", "cp"),
                    *(f"--platform={tag}" for tag in arch.debian.wheels),
                    *("--target", site, "-r", lock),
                ],
                what="the Python packages cannot be installed",
                log=log,
            )
            for unused in UNUSED_PYTHON:
                shutil.rmtree(site / unused, ignore_errors=True)
            compile_python(arch, tree, folder / "tree", log)

    return cache.get(
        "python",
        key_of({"lock": lock, "debian": debian_key(arch), "site": SITE, "unused": " ".join(UNUSED_PYTHON)}),
        make,
    )


def squash(trees: list[Path], target: Path, log: Path, *options: str) -> None:
    """One squashfs of one tree, or of several merged ones; owners become root. `options` decide on compression."""
    merged = trees[0]
    if len(trees) > 1:
        merged = target.parent / "merged"
        merged.mkdir()
        for tree in trees:
            run(["cp", "-al", f"{tree}/.", merged], what="merging the layers", log=log)
    run(
        [
            *("mksquashfs", merged, target, "-comp", "zstd"),
            *options,
            *("-all-root", "-noappend", "-no-progress", "-no-exports", "-no-xattrs", "-mkfs-time", "0"),
        ],
        what="mksquashfs",
        log=log,
    )
    if merged not in trees:
        shutil.rmtree(merged)


def squashfs(cache: Cache, arch: Arch, progress: Progress, *, tree: Path, python: Path, kernel: Path) -> Path:
    """The folder with `rootfs.squashfs`: Debian, Python packages, and the kernel that the demo guest boots."""

    guest_kernel = f"{GUEST_FOLDER}/{arch.kernel.target}"

    def make(folder: Path) -> None:
        with progress.stage("root filesystem: squashfs", "20 s"):
            demo = folder / "kernel" / guest_kernel
            demo.parent.mkdir(parents=True)
            shutil.copy(kernel / demo.name, demo)
            small = ("-Xcompression-level", "15", "-b", "256K")
            trees = [tree, python, folder / "kernel"]
            squash(trees, folder / "rootfs.squashfs", folder / "log", *small, *HOT_OPTIONS)
            shutil.rmtree(folder / "kernel")

    parts = {"debian": tree.parent.name, "python": python.parent.name, "kernel": kernel.name, "guest": guest_kernel}
    return cache.get("rootfs", key_of({**parts, "hot": HOT, "recipe": "3"}), make)


def one_squashfs(cache: Cache, arch: Arch, progress: Progress, layers: list[Path], name: str) -> Path:
    """The folder with `name`: squashfs files merged into one, later ones over earlier ones, as a disk boots them.

    Packed quickly rather than small: it is packed anew after every change of the code.
    """

    def make(folder: Path) -> None:
        log = folder / "log"
        with progress.stage("disk: one root file system", "30 s"):
            for layer in layers:
                run(
                    ["unsquashfs", "-quiet", "-no-progress", "-force", "-dest", folder / "tree", layer],
                    what="unpacking the layers",
                    log=log,
                )
            squash([folder / "tree"], folder / name, log, "-Xcompression-level", "2", "-all-time", "0", *HOT_OPTIONS)
            shutil.rmtree(folder / "tree")

    keys = {f"layer {number}": layer.parent.name for number, layer in enumerate(layers)}
    return cache.get("system", key_of({**keys, "name": name, "hot": HOT, "recipe": "1"}), make)
