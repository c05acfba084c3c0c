# SPDX-License-Identifier: GPL-2.0-only
"""`python -m imagebuild.disk --kernel K --initrd I --root R --command-line WORDS DISK`: a disk image of these."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from imagebuild.disk import grub
from imagebuild.disk.assemble import SLOT_LIMIT, Slot, Tools, assemble
from imagebuild.errors import BuildError


def main() -> int:
    """Exit code 0, or 1 with one clear line on standard error."""
    parser = argparse.ArgumentParser(prog="imagebuild.disk", description="Put a disk image together.")
    parser.add_argument("--kernel", type=Path, required=True)
    parser.add_argument("--initrd", type=Path, required=True)
    parser.add_argument("--root", type=Path, required=True, help="the root file system, a squashfs")
    parser.add_argument("--command-line", required=True, help="the kernel's command line, without the slot")
    parser.add_argument("--grub", type=Path, default=Path("/usr/lib/grub"), help="folder of GRUB's modules")
    parser.add_argument("--path", default=Tools.path, help="where the tools are")
    parser.add_argument("--release", action="store_true", help=f"refuse a slot of more than {SLOT_LIMIT >> 20} MiB")
    parser.add_argument("disk", type=Path)
    options = parser.parse_args()
    slot = Slot(options.kernel, options.initrd, options.root, options.command_line)
    mkimage = next((f"{folder}/grub-mkimage" for folder in options.path.split(":")
                    if Path(folder, "grub-mkimage").is_file()), "grub-mkimage")  # fmt: skip
    try:
        if options.release and slot.size > SLOT_LIMIT:
            raise BuildError(f"a slot has {slot.size / (1 << 20):.1f} MiB, {SLOT_LIMIT >> 20} are allowed")
        with tempfile.TemporaryDirectory(prefix=".disk-", dir=options.disk.resolve().parent) as work:
            tools = Tools(grub.Grub(mkimage, options.grub), options.path)
            assemble(slot, options.disk.resolve(), Path(work), tools)
    except (BuildError, OSError) as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    print(f"image: {options.disk}: {slot.size / (1 << 20):.1f} MiB a slot")
    return 0


if __name__ == "__main__":
    sys.exit(main())
