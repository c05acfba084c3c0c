# SPDX-License-Identifier: GPL-2.0-only
"""An initramfs out of a root file system that Buildroot made: its busybox with the libraries that it needs.

`python -m imagebuild.target_initramfs --target DIR --init FILE [--add NAME=FILE ...] [--debug] OUT`. This busybox is
not static, so the loader and the libraries come along. Runs in Buildroot's hooks: standard library and readelf.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from imagebuild import cpio
from imagebuild.errors import BuildError
from imagebuild.progress import output

FOLDERS = ("lib64", "lib", "usr/lib")
_NEEDED = re.compile(r"\((?:NEEDED)\).*\[(.+)\]|Requesting program interpreter: (\S+?)\]")


def needed(text: str) -> list[str]:
    """Libraries and loader that `readelf -ld` names (pure)."""
    return [Path(library or loader).name for library, loader in _NEEDED.findall(text)]


def libraries(target: Path, program: Path) -> dict[str, Path]:
    """What a program of the target needs, and what that needs: name -> file. BuildError: the target lacks one."""
    found: dict[str, Path] = {}
    left = [program]
    while left:
        for name in needed(output(["readelf", "-ld", left.pop()], what="readelf")):
            if name in found:
                continue
            path = next((target / folder / name for folder in FOLDERS if (target / folder / name).is_file()), None)
            if path is None:
                raise BuildError(f"{program} needs {name}, which {target} does not hold")
            found[name] = path
            left.append(path)
    return found


def entries(target: Path, init: Path, add: dict[str, Path], *, debug: bool) -> list[cpio.Entry]:
    """All names of the archive. `add` are further files in it; a folder of theirs must be one of the usual ones."""
    busybox = target / "bin/busybox"
    names = [*cpio.skeleton(busybox, init), cpio.Entry("lib")]
    names += [cpio.Entry(f"lib/{name}", path.read_bytes()) for name, path in sorted(libraries(target, busybox).items())]
    names.append(cpio.Entry("lib64", b"lib", link=True))
    names += [cpio.Entry(name, path.read_bytes()) for name, path in sorted(add.items())]
    return [*names, cpio.Entry("debug", b"", 0o644)] if debug else names


def main() -> int:
    """Exit code 0, or 1 with one clear line on standard error."""
    parser = argparse.ArgumentParser(prog="imagebuild.target_initramfs", description="Make an initramfs.")
    parser.add_argument("--target", type=Path, required=True)
    parser.add_argument("--init", type=Path, required=True)
    parser.add_argument("--add", action="append", default=[], metavar="NAME=FILE")
    parser.add_argument("--debug", action="store_true", help="a shell where it cannot go on, by kernel command line")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    add = {name: Path(path) for name, _, path in (word.partition("=") for word in options.add)}
    try:
        cpio.write(options.out, entries(options.target, options.init, add, debug=options.debug))
    except (BuildError, OSError) as error:
        print(f"image: initramfs: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
