# SPDX-License-Identifier: GPL-2.0-only
"""The kernel: Debian's kernel source package, patched, with the stack of fragments over allnoconfig.

The cache key follows from the fragments' settings, not their comments, and from the patches. The built source version
is in the artefact's `version`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from boardspec import REPO, BoardSpec

from imagebuild import debian
from imagebuild.cache import Cache, Input, key_of
from imagebuild.errors import BuildError
from imagebuild.fragments import lost, settings
from imagebuild.progress import Progress, run

SOURCE_PACKAGE = "linux-source-6.12"
RECIPE = "2"  # raise when a change of the build itself changes the result
PATCHES = REPO / "buildroot-config/patches/linux"
"""Where Buildroot looks for them (BR2_GLOBAL_PATCH_DIR); both kernels get the same."""


def patches(folder: Path = PATCHES) -> list[Path]:
    """What is changed in the kernel's source, in order."""
    return sorted(folder.glob("*.patch"))


def key(fragments: Iterable[Path], patched: Iterable[Path]) -> str:
    """The kernel's key in the cache. The processor needs no entry of its own: its fragment names it."""
    asked = settings(path.read_text() for path in fragments)
    canonical = "\n".join(f"{name}={value}" for name, value in sorted(asked.items()))
    inputs: dict[str, Input] = {
        "settings": canonical,
        "source": f"{debian.SUITE}/{SOURCE_PACKAGE}",
        "recipe": RECIPE,
    }
    return key_of(inputs | {f"patch {number}": path for number, path in enumerate(patched)})


def apply(patched: Iterable[Path], source: Path, log: Path) -> None:
    """Patch the source. BuildError: one does not fit, or is in the source by now; a fuzzy match counts as neither."""
    for path in patched:
        words = ["patch", "--strip=1", "--forward", "--fuzz=0", "--batch", f"--directory={source}", f"--input={path}"]
        run(words, what=f"kernel: {path.name}", log=log)


def make_command(spec: BoardSpec, source: Path, *words: str) -> list[str | Path]:
    """A call of the kernel's makefile for the board's processor (pure)."""
    arch = spec.arch
    return ["make", "-C", source, f"ARCH={arch.kernel.arch}", f"CROSS_COMPILE={arch.tool('')}", *words]


def build(cache: Cache, spec: BoardSpec, progress: Progress) -> Path:
    """The folder with `vmlinux` (stripped), the bootable image by its target's name, `config`, `version`, and `modules`
    with what the fragments configure as modules: these are not in the image, tests load them.
    """
    arch, fragments, patched = spec.arch, spec.fragments, patches()

    def make(folder: Path) -> None:
        log = folder / "log"
        work = folder / "work"
        work.mkdir()
        with progress.stage("kernel: download source"):
            package = debian.download(SOURCE_PACKAGE, work, log)
        with progress.stage("kernel: unpack source", "30 s"):
            run(["dpkg-deb", "-x", package, work], what="kernel source package", log=log)
            run(["tar", "-xf", work / f"usr/src/{SOURCE_PACKAGE}.tar.xz", "-C", work], what="kernel source", log=log)
        source = work / SOURCE_PACKAGE
        apply(patched, source, log)
        stack = work / "fragments"
        stack.write_text("".join(path.read_text() for path in fragments))
        env = {
            **{name: value for name, value in os.environ.items() if name not in ("ARCH", "CROSS_COMPILE", "MAKEFLAGS")},
            "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
            "KBUILD_BUILD_USER": "throughwire",
            "KBUILD_BUILD_HOST": "board",
        }
        run(
            make_command(spec, source, f"KCONFIG_ALLCONFIG={stack}", "allnoconfig"),
            what="kernel configuration",
            log=log,
            env=env,
        )
        asked = settings(path.read_text() for path in fragments)
        missing = lost(asked, (source / ".config").read_text())
        if missing:
            raise BuildError("kernel: lines of the fragments did not survive: " + ", ".join(missing))
        with progress.stage("kernel: compile", "7 to 15 min on 2 cores"):
            targets = ["vmlinux", arch.kernel.target, *(["modules"] if "m" in asked.values() else [])]
            compile_it = make_command(spec, source, f"-j{os.cpu_count() or 1}", *targets)
            run(["nice", *compile_it], what="kernel compile", log=log, env=env)
        run([arch.tool("strip"), "-s", "-o", folder / "vmlinux", source / "vmlinux"], what="kernel strip", log=log)
        shutil.copy(source / arch.kernel.image, folder / arch.kernel.target)
        (folder / "modules").mkdir()
        for module in source.rglob("*.ko"):
            kept = folder / "modules" / module.name
            run([arch.tool("strip"), "-g", "-o", kept, module], what="kernel strip", log=log)
        shutil.copy(source / ".config", folder / "config")
        (folder / "version").write_text(package.name.removesuffix(".deb") + "\n")
        shutil.rmtree(work)

    return cache.get("kernel", key(fragments, patched), make)
