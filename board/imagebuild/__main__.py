# SPDX-License-Identifier: GPL-2.0-only
"""`python -m imagebuild [--kernel-only]`: build the image, or only the kernel, and say where it is."""

from __future__ import annotations

import argparse
import sys

from imagebuild import artefacts
from imagebuild.errors import BuildError


def main() -> int:
    """Exit code 0, or 1 with one clear line on standard error."""
    parser = argparse.ArgumentParser(prog="imagebuild", description="Build the QEMU reference board's image.")
    parser.add_argument("--kernel-only", action="store_true", help="only vmlinux and bzImage")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    try:
        built = artefacts.build_kernel(say) if arguments.kernel_only else artefacts.build(say)
    except BuildError as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("image: interrupted; what was finished stays in the cache", file=sys.stderr)
        return 130
    print(f"image: ready in {built.folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
