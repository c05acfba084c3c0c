# SPDX-License-Identifier: GPL-2.0-only
"""The program that emulates the board: the QEMU of the image's own Debian tree, started on the build host.

The host's own QEMU is not suitable: QEMU 7.2 (Debian 12) sometimes hangs a kernel with two processors, and runs a guest
in the emulated machine ten times slower (under load a frame through it took 400 ms at the 99th percentile; with QEMU 10
it takes 30 to 50 ms). The tree's loader starts it with the tree's libraries, so it does not depend on the host's.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from boardspec import Arch


def script(arch: Arch, tree: Path) -> str:
    """The text of an executable that starts the tree's QEMU in its place (same process)."""
    words = [
        tree / arch.libraries / arch.debian.loader,
        "--library-path",
        tree / arch.libraries,
        tree / "usr/bin" / arch.qemu.program,
        "-L",
        tree / "usr/share/qemu",
    ]
    return f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n'


def publish(arch: Arch, tree: Path, target: Path) -> None:
    """Write the executable, unless the file already has this text."""
    text = script(arch, tree)
    if target.exists() and target.read_text() == text:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    part.write_text(text)
    part.chmod(0o755)
    part.rename(target)
