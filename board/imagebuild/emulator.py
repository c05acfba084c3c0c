# SPDX-License-Identifier: GPL-2.0-only
"""The program that emulates the board: the QEMU of the image's own Debian tree, started on the build host.

Not the host's: QEMU 7.2 (Debian 12) now and then loses a kernel with two processors, and takes ten times as long for a
guest in the emulated machine (under load a frame through it took 400 ms at the 99th percentile; with QEMU 10 it takes
30 to 50 ms). The tree's loader runs it with the tree's libraries, so the host's do not matter.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

LIBRARIES = "usr/lib/x86_64-linux-gnu"


def script(tree: Path) -> str:
    """The text of an executable that starts the tree's QEMU in its place (same process)."""
    words = [
        tree / LIBRARIES / "ld-linux-x86-64.so.2",
        "--library-path",
        tree / LIBRARIES,
        tree / "usr/bin/qemu-system-x86_64",
        "-L",
        tree / "usr/share/qemu",
    ]
    return f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n'


def publish(tree: Path, target: Path) -> None:
    """Write the executable; nothing is touched when it says so already."""
    text = script(tree)
    if target.exists() and target.read_text() == text:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    part.write_text(text)
    part.chmod(0o755)
    part.rename(target)
