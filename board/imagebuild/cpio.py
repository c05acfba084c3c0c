# SPDX-License-Identifier: GPL-2.0-only
"""Archives for the kernel ("newc" cpio), and what every initramfs of ours begins with. Standard library alone.

Written without root and without device nodes on the build machine; the same bytes for the same inputs.
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from pathlib import Path

_DIR, _FILE, _CHAR, _LINK = 0o040000, 0o100000, 0o020000, 0o120000


@dataclass(frozen=True)
class Entry:
    """One name of an archive: a file's content (or where a link points), a character device, or (neither) a folder."""

    name: str
    content: bytes | None = None
    mode: int = 0o755
    device: tuple[int, int] | None = None
    link: bool = False


def cpio(entries: list[Entry]) -> bytes:
    """A cpio archive ("newc", as the kernel reads it) of the entries, all owned by root (pure)."""
    out = io.BytesIO()

    def put(inode: int, name: str, mode: int, content: bytes, device: tuple[int, int]) -> None:
        raw = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(raw), 0)
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + raw)
        out.write(b"\0" * (-out.tell() % 4))
        out.write(content)
        out.write(b"\0" * (-out.tell() % 4))

    for inode, entry in enumerate(entries, 1):
        kind = _LINK if entry.link else _CHAR if entry.device else _FILE if entry.content is not None else _DIR
        put(inode, entry.name, kind | entry.mode, entry.content or b"", entry.device or (0, 0))
    put(0, "TRAILER!!!", 0, b"", (0, 0))
    return out.getvalue()


def skeleton(busybox: Path, init: Path) -> list[Entry]:
    """Folders, console, busybox and the first process."""
    return [
        *(Entry(name) for name in ("bin", "dev", "proc", "sys", "mnt")),
        Entry("dev/console", mode=0o600, device=(5, 1)),
        Entry("bin/busybox", busybox.read_bytes()),
        Entry("init", init.read_bytes()),
    ]


def write(target: Path, entries: list[Entry]) -> None:
    """The compressed archive as a file."""
    target.write_bytes(gzip.compress(cpio(entries), compresslevel=6, mtime=0))
