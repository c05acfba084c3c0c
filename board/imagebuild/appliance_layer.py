# SPDX-License-Identifier: GPL-2.0-only
"""The appliance's own layer: a small squashfs above the base, holding all that changes with the code.

The packages `appliance` and `console` with their console scripts, the overlay `rootfs/`, the board's own overlay above
it, the board's description, the datapath's object, the demo guest's initramfs. A change of one Python file costs
seconds here and nothing elsewhere.
"""

from __future__ import annotations

import platform
import shutil
import tomllib
from pathlib import Path

from imagebuild import rootfs
from imagebuild.cache import Cache, Input, key_of
from imagebuild.errors import BuildError
from imagebuild.progress import Progress, run

SHARE = "usr/share/bypass"
_BPF_FLAGS = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3")


def bpf_object(cache: Cache, repo: Path, progress: Progress) -> Path:
    """The folder with `steer.bpf.o`, the compiled datapath."""
    sources = repo / "appliance/bpf"

    def make(folder: Path) -> None:
        with progress.stage("datapath: clang"):
            run(
                [
                    *("clang", *_BPF_FLAGS, f"-I/usr/include/{platform.machine()}-linux-gnu"),
                    *("-c", sources / "steer.bpf.c", "-o", folder / "steer.bpf.o"),
                ],
                what="datapath: steer.bpf.c",
                log=folder / "log",
            )

    return cache.get("bpf", key_of({"sources": sources, "flags": " ".join(_BPF_FLAGS)}), make)


def script(entry: str) -> str:
    """The console script of an entry point "module:function" (pure). Isolated: it sees the image's packages only."""
    module, _, function = entry.partition(":")
    return f"#!/usr/bin/python3 -I\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"


def install(pyproject: str, repo: Path, tree: Path) -> None:
    """Install the project's packages into `tree` as pip would: modules, console scripts, metadata.

    pip is not used because it takes longer than all the rest of this layer and needs its build back end from elsewhere.
    """
    project = tomllib.loads(pyproject)["project"]
    site = tree / rootfs.SITE
    for package in ("appliance", "console"):
        shutil.copytree(
            repo / package, site / package, ignore=shutil.ignore_patterns("__pycache__", "*.c", "*.h", "*.md", "*.o")
        )
    info = site / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "INSTALLER").write_text("imagebuild\n")
    points = "".join(f"{name} = {entry}\n" for name, entry in project["scripts"].items())
    (info / "entry_points.txt").write_text(f"[console_scripts]\n{points}")
    binaries = tree / "usr/bin"
    binaries.mkdir(parents=True, exist_ok=True)
    for name, entry in project["scripts"].items():
        (binaries / name).write_text(script(entry))
        (binaries / name).chmod(0o755)


def build(
    cache: Cache, repo: Path, board_dir: Path, progress: Progress, *, target: Path, bpf: Path, guest: Path
) -> Path:
    """The folder with `appliance.squashfs`; `target` is the Debian tree, whose Python compiles the byte code."""
    pyproject = repo / "pyproject.toml"
    board_toml, overlay = board_dir / "board.toml", board_dir / "overlay"
    inputs: dict[str, Input] = {
        "overlay": repo / "rootfs",
        "appliance": repo / "appliance",
        "console": repo / "console",
        "pyproject": pyproject,
        "board": board_toml,
        **({"board overlay": overlay} if overlay.is_dir() else {}),
        "bpf": bpf,
        "guest": guest,
        "debian": target.parent.name,
        "recipe": Path(__file__),
    }
    for path in (pyproject, board_toml, repo / "rootfs/etc/inittab"):
        if not path.is_file():
            raise BuildError(f"{path} is missing: the image cannot be built without it")

    def make(folder: Path) -> None:
        log, tree = folder / "log", folder / "tree"
        with progress.stage("appliance layer", "3 s"):
            shutil.copytree(repo / "rootfs", tree, symlinks=True, ignore=shutil.ignore_patterns("README.md"))
            if overlay.is_dir():
                shutil.copytree(overlay, tree, symlinks=True, dirs_exist_ok=True)
            install(pyproject.read_text(), repo, tree)
            share = tree / SHARE
            (share / "guest-demo").mkdir(parents=True, exist_ok=True)
            shutil.copy(board_toml, share / "board.toml")
            shutil.copy(bpf, share / "steer.bpf.o")
            shutil.copy(guest, share / "guest-demo/initrd.gz")
            rootfs.compile_python(target, tree, log)
            # Not compressed: read at every start, built at every change
            rootfs.squash([tree], folder / "appliance.squashfs", log, "-noI", "-noD", "-noF", "-noX", "-no-fragments")
            shutil.rmtree(tree)

    return cache.get("appliance", key_of(inputs), make)
