# SPDX-License-Identifier: GPL-2.0-only
"""`python -m imagebuild [--board NAME] [--kernel-only] [--disk]`: build the image and print where it is.

With `--kernel-only` nothing but the kernel, with `--disk` the image of a whole disk as well.
"""

from __future__ import annotations

import argparse
import sys

import boardspec
from boardspec import SpecError

from imagebuild import artefacts
from imagebuild.errors import BuildError


def main() -> int:
    """Exit code 0, or 1 with one clear line on standard error."""
    parser = argparse.ArgumentParser(prog="imagebuild", description="Build the image of a board.")
    parser.add_argument("--board", default=boardspec.DEFAULT, help="a folder of board/ (default: %(default)s)")
    parser.add_argument("--kernel-only", action="store_true", help="build nothing but the kernel")
    parser.add_argument("--disk", action="store_true", help="build the disk image as well")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        spec = boardspec.load(arguments.board)
        if arguments.kernel_only:
            built = artefacts.build_kernel(say, spec)
        else:
            built = artefacts.build_disk(say, spec) if arguments.disk else artefacts.build(say, spec)
    except (BuildError, SpecError) as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("image: interrupted; finished parts stay in the cache", file=sys.stderr)
        return 130
    print(f"image: ready in {built.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
