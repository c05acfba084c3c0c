# SPDX-License-Identifier: GPL-2.0-only
"""`python -m imagecheck COMMAND`: hold an image, or what it is to be built of, against what the code uses.

sources [BOARD]             defconfig stack, busybox fragment and Python modules; needs no Buildroot tree
config FILE BUSYBOX [BOARD] a whole .config of Buildroot, and the base of busybox's configuration
kernel BOARD --source DIR | --config FILE    the board's kernel fragments against a kernel's source or built .config
tree DIR...                 a root file system: Buildroot's TARGET_DIR, or layers
libraries DIR               the shared libraries of Buildroot's TARGET_DIR: one that is missing is a complaint
qemu PROGRAM...             start a QEMU with the words that guests are started with

Each complaint is a line on standard error; exit code 0, or 1 when there is any.
"""

from __future__ import annotations

import argparse
import functools
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from imagebuild import fragments
from imagebuild.errors import BuildError

from appliance.guest.qemu import command
from appliance.guest.qemu.resources import FIRMWARE
from imagecheck import buildroot, guest_qemu, kernel_options, libraries, python_modules, tree, uses

EXTERNAL = uses.REPO / "buildroot-config"
BOARDS = EXTERNAL / "boards"


def boards() -> list[str]:
    """The boards that Buildroot builds an image for."""
    return sorted(path.stem for path in BOARDS.glob("*.config") if path.stem != "common")


def stack(board: str) -> str:
    """A board's defconfig: what all share, then its own part."""
    return "".join((BOARDS / f"{name}.config").read_text() for name in ("common", board))


def settled(board: str) -> dict[str, str]:
    """What the stack asks for, with what the appliance's package selects and with what is on by default."""
    kconfig = (EXTERNAL / "package/throughwire/Config.in").read_text()
    return {"BR2_PACKAGE_BUSYBOX": "y", "BR2_PACKAGE_EUDEV": "y", **dict.fromkeys(buildroot.selected(kconfig), "y"),
            **fragments.settings([stack(board)])}  # fmt: skip


def overlays(board: str) -> list[Path]:
    """The folders that are laid over the root file system, the last one on top."""
    own = uses.REPO / "board" / board / "rootfs"
    return [uses.REPO / "rootfs", *([own] if own.is_dir() else [])]


@functools.cache
def needed(board: str) -> dict[str, str]:
    """All programs that the board's image runs."""
    folders = [*overlays(board), uses.REPO / "board/initramfs"]
    return uses.programs(buildroot.known_programs(), folders)


@functools.cache
def run_by_name(board: str) -> dict[str, str]:
    """The programs that shell scripts of the board's image run without their path."""
    found: dict[str, str] = {}
    for path in uses.scripts([*overlays(board), uses.REPO / "board/initramfs"]):
        for name, line in uses.script_programs(path.read_text(), by_path=False).items():
            found.setdefault(name, f"{path.relative_to(uses.REPO)}:{line}")
    return found


def configuration(board: str) -> dict[str, str]:
    """Files that the board's default configuration names."""
    text = next(folder / tree.CONFIG for folder in reversed(overlays(board)) if (folder / tree.CONFIG).is_file())
    return uses.configuration_files(text.read_text())


def against(board: str, config: buildroot.Settings, busybox: buildroot.Settings) -> list[str]:
    """What an image of this configuration would lack."""
    found = buildroot.missing_programs(needed(board), config, busybox)
    found += buildroot.hidden_programs(run_by_name(board), busybox)
    with tempfile.TemporaryDirectory(prefix="check-image-") as place:
        for _, machine in guest_qemu.machines(Path(place)):
            argv = command.build(machine)
            found += [line for line in buildroot.missing_words(argv, config) if line not in found]
    found += buildroot.missing_files(configuration(board), config)
    return found + buildroot.missing_always(config)


def _sources(options: argparse.Namespace) -> list[str]:
    busybox = fragments.settings([(EXTERNAL / "busybox.fragment").read_text()])
    found = []
    for board in [options.board] if options.board else boards():
        config = settled(board)
        found += [f"{board}: {line}" for line in against(board, config, busybox)]
        found += [f"{board}: {line}" for line in python_modules.missing(buildroot.blocked_modules(config))]
    return found


def _config(options: argparse.Namespace) -> list[str]:
    config = fragments.settings([options.file.read_text()])
    busybox = fragments.settings([options.busybox.read_text(), (EXTERNAL / "busybox.fragment").read_text()])
    return [*against(options.board, config, busybox), *python_modules.missing(buildroot.blocked_modules(config))]


def _kernel(options: argparse.Namespace) -> list[str]:
    import boardspec

    spec = boardspec.load(options.board)
    layers = (*spec.fragments, *spec.firmware_fragments)
    if options.config:
        return kernel_options.against_config(layers, options.config)
    return kernel_options.against_source(layers, options.source, spec.arch.kernel.arch)


def _tree(options: argparse.Namespace) -> list[str]:
    trees: list[Path] = options.trees
    text = next((layer / tree.CONFIG for layer in trees if (layer / tree.CONFIG).is_file()), None)
    found = tree.missing_programs(uses.programs(buildroot.known_programs(), [uses.REPO / "rootfs"]), trees)
    found += tree.missing_files(uses.configuration_files(text.read_text()), trees) if text else []
    found += tree.missing_certificates(trees) + tree.missing_firmware(FIRMWARE, trees)
    return found + tree.isolated(trees, tree.console_scripts((uses.REPO / "pyproject.toml").read_text()))


def _libraries(options: argparse.Namespace) -> list[str]:
    # What is there for nothing costs room alone: it is said, and stops no build
    for line in libraries.unneeded(options.tree, libraries.loaded()):
        print(f"check-image: note: {line}", file=sys.stderr)
    return libraries.missing(options.tree)


def _qemu(options: argparse.Namespace) -> list[str]:
    return guest_qemu.complaints(options.program)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="imagecheck", description="Hold an image against what the code uses.")
    words = parser.add_subparsers(required=True, metavar="COMMAND")
    one = words.add_parser("sources", help="the defconfig stack; needs no Buildroot tree")
    one.add_argument("board", nargs="?")
    one.set_defaults(check=_sources)
    one = words.add_parser("config", help="a whole .config of Buildroot")
    one.add_argument("file", type=Path)
    one.add_argument("busybox", type=Path)
    one.add_argument("board")
    one.set_defaults(check=_config)
    one = words.add_parser("kernel", help="the board's kernel fragments")
    one.add_argument("board")
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("--source", type=Path)
    which.add_argument("--config", type=Path)
    one.set_defaults(check=_kernel)
    one = words.add_parser("tree", help="a root file system")
    one.add_argument("trees", type=Path, nargs="+")
    one.set_defaults(check=_tree)
    one = words.add_parser("libraries", help="the shared libraries of a root file system")
    one.add_argument("tree", type=Path)
    one.set_defaults(check=_libraries)
    one = words.add_parser("qemu", help="a QEMU")
    one.add_argument("program", nargs=argparse.REMAINDER)
    one.set_defaults(check=_qemu)
    options = parser.parse_args(arguments)
    try:
        found: list[str] = options.check(options)
    except subprocess.CalledProcessError as error:
        found = [f"{' '.join(map(str, error.cmd))}: {(error.stderr or '').strip()[-500:]}"]
    except (BuildError, OSError) as error:
        found = [str(error)]
    for line in found:
        print(f"check-image: {line}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
