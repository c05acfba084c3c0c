# SPDX-License-Identifier: GPL-2.0-only
"""Builds a small initramfs: busybox, an init script and given files. For trial boots and board tests."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

APPLETS = ("sh", "mount", "base64", "printf", "stty", "cat", "echo", "sleep", "ip", "brctl", "kill", "reboot",
           "poweroff", "dmesg", "ls", "setsid", "ping", "test", "rm", "head", "tr", "true", "uname")  # fmt: skip


def cpio(entries: dict[str, tuple[int, bytes]]) -> bytes:
    """A `newc` archive; `entries` maps a path to its mode and contents (a link's target, a device's "major minor")."""
    out = bytearray()
    for inode, (name, (mode, contents)) in enumerate([*entries.items(), ("TRAILER!!!", (0, b""))], start=1):
        device = stat.S_ISCHR(mode)
        data = b"" if device else contents
        major, minor = (int(part) for part in contents.split()) if device else (0, 0)
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    return bytes(out)


def build(path: Path, init: str, files: dict[str, Path] | None = None) -> Path:
    """Write an initramfs that runs `init` (a busybox sh script) as process 1. Raises FileNotFoundError, no busybox."""
    busybox = shutil.which("busybox")
    if busybox is None:
        raise FileNotFoundError("busybox is not installed (Debian package busybox-static)")
    directory, program, link = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFLNK | 0o777
    entries: dict[str, tuple[int, bytes]] = dict.fromkeys(
        ("bin", "dev", "etc", "proc", "sys", "tmp", "run"), (directory, b"")
    )
    entries["dev/console"] = (stat.S_IFCHR | 0o600, b"5 1")
    entries["bin/busybox"] = (program, Path(busybox).read_bytes())
    entries.update({f"bin/{applet}": (link, b"busybox") for applet in APPLETS})
    entries.update({name: (program, source.read_bytes()) for name, source in (files or {}).items()})
    entries["init"] = (program, init.encode())
    path.write_bytes(cpio(entries))
    return path
