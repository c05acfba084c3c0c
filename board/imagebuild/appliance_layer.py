# SPDX-License-Identifier: GPL-2.0-only
"""The appliance's own layer: a small squashfs above the base, with everything that changes with the code.

The packages `appliance` and `console` with their console scripts, the overlay `rootfs/` and those of processor and
board, the board's description, the datapath's object, the demo guest's initramfs, the list of licences. A change of one
Python file costs seconds here and nothing elsewhere.
"""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterable
from pathlib import Path

from boardspec import Arch, BoardSpec

from imagebuild import licences, rootfs
from imagebuild.cache import Cache, Input, key_of
from imagebuild.errors import BuildError
from imagebuild.progress import Progress, run

SHARE = "usr/share/bypass"
HOOK = "usr/lib/bypass/login-hook.so"
_BPF_FLAGS = ("-O2", "-g", "-Wall", "-Wextra", "-Werror", "-target", "bpf", "-mcpu=v3")


def bpf_object(cache: Cache, repo: Path, include: str, progress: Progress) -> Path:
    """The folder with `steer.bpf.o`, the compiled datapath; `include` is the folder of a processor's C headers."""
    sources = repo / "appliance/bpf"

    def make(folder: Path) -> None:
        with progress.stage("datapath: clang"):
            run(
                [
                    *("clang", *_BPF_FLAGS, f"-I{include}"),
                    *("-c", sources / "steer.bpf.c", "-o", folder / "steer.bpf.o"),
                ],
                what="datapath: steer.bpf.c",
                log=folder / "log",
            )

    return cache.get("bpf", key_of({"sources": sources, "flags": " ".join((*_BPF_FLAGS, include))}), make)


def login_hook(cache: Cache, arch: Arch, repo: Path, progress: Progress) -> Path:
    """The folder with `login-hook.so`, which is loaded into the SSH server where RADIUS or TACACS+ servers decide.

    Compiled on this machine for the image's C library, which is never older.
    """
    source, compiler = repo / "appliance/login-hook/login_hook.c", arch.tool("gcc")

    def make(folder: Path) -> None:
        with progress.stage("login hook: compile"):
            flags = ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-s", "-Wl,-z,relro,-z,now")
            run([compiler, *flags, "-o", folder / "login-hook.so", source], what=source.name, log=folder / "log")

    return cache.get("login-hook", key_of({"source": source, "compiler": compiler, "recipe": "1"}), make)


def script(entry: str) -> str:
    """The console script of an entry point "module:function" (pure). Isolated: it sees only the image's packages."""
    module, _, function = entry.partition(":")
    return f"#!/usr/bin/python3 -I\nimport sys\n\nfrom {module} import {function}\n\nsys.exit({function}())\n"


def install(pyproject: str, repo: Path, tree: Path) -> None:
    """Install the project's packages into `tree` as pip would: modules, console scripts, metadata.

    pip is not used because it takes longer than the rest of this layer and would have to download its build back end.
    """
    project = tomllib.loads(pyproject)["project"]
    site = tree / rootfs.SITE
    left_out = shutil.ignore_patterns("__pycache__", "*.c", "*.h", "*.md", "*.o", "fleet")  # fleet: for other computers
    for package in ("appliance", "console"):
        shutil.copytree(repo / package, site / package, ignore=left_out)
    info = site / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "INSTALLER").write_text("imagebuild\n")
    shutil.copy(repo / "LICENSE", info / "LICENSE")
    (info / "RECORD").write_text(f"{info.name}/LICENSE,,\n")  # where importlib.metadata finds it
    points = "".join(f"{name} = {entry}\n" for name, entry in project["scripts"].items())
    (info / "entry_points.txt").write_text(f"[console_scripts]\n{points}")
    binaries = tree / "usr/bin"
    binaries.mkdir(parents=True, exist_ok=True)
    for name, entry in project["scripts"].items():
        (binaries / name).write_text(script(entry))
        (binaries / name).chmod(0o755)


def overlay(folders: Iterable[Path], tree: Path) -> None:
    """Copy the folders' files into `tree`, later ones over earlier ones, without their READMEs."""
    for folder in folders:
        readme = shutil.ignore_patterns("README.md")
        shutil.copytree(folder, tree, symlinks=True, ignore=readme, dirs_exist_ok=True)


def build(
    cache: Cache, repo: Path, spec: BoardSpec, progress: Progress, *, target: Path, bpf: Path, hook: Path, guest: Path
) -> Path:
    """The folder with `appliance.squashfs`; `target` is the Debian tree, whose Python compiles the byte code."""
    pyproject = repo / "pyproject.toml"
    overlays = (repo / "rootfs", *spec.overlays)
    inputs: dict[str, Input] = {
        **{f"overlay {number}": path for number, path in enumerate(overlays)},
        "appliance": repo / "appliance",
        "console": repo / "console",
        "pyproject": pyproject,
        "board": spec.board_toml,
        "bpf": bpf,
        "hook": hook,
        "guest": guest,
        "debian": target.parent.name,
        "recipe": Path(__file__),
        "licences": Path(licences.__file__),
    }
    for path in (pyproject, spec.board_toml, repo / "rootfs/etc/inittab"):
        if not path.is_file():
            raise BuildError(f"{path} is missing: the image cannot be built without it")

    def make(folder: Path) -> None:
        log, tree = folder / "log", folder / "tree"
        with progress.stage("appliance layer", "3 s"):
            overlay(overlays, tree)
            install(pyproject.read_text(), repo, tree)
            share = tree / SHARE
            (share / "guest-demo").mkdir(parents=True, exist_ok=True)
            shutil.copy(spec.board_toml, share / "board.toml")
            (share / licences.FILE).write_text(licences.listed(licences.debian(target), "Debian"))
            shutil.copy(bpf, share / "steer.bpf.o")
            (tree / HOOK).parent.mkdir(parents=True)
            shutil.copy(hook, tree / HOOK)
            shutil.copy(guest, share / "guest-demo/initrd.gz")
            rootfs.compile_python(spec.arch, target, tree, log)
            # Uncompressed: read at every start, built at every change
            rootfs.squash([tree], folder / "appliance.squashfs", log, "-noI", "-noD", "-noF", "-noX", "-no-fragments")
            shutil.rmtree(tree)

    return cache.get("appliance", key_of(inputs), make)
