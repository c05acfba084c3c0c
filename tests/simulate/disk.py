# SPDX-License-Identifier: GPL-2.0-only
"""A disk that loses unsynced data in a power cut, fills up, and fails.

Real files, in memory; for every unsynced change it records how to undo it. At a power cut each of these changes is lost
or kept, at random.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

from appliance.system.files import Disk


class DiskModel(Disk):
    """`calls` is called before each system call with its name; it may raise OSError or KilledError."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.before: Callable[[str], object] = lambda name: None
        self.error = 0  # errno of every write, 0: none
        self._open: dict[int, Path] = {}
        self._unsynced: dict[Path, bytes] = {}  # files whose content is not on the disk: what they have there
        self._renames: list[tuple[Path, Path, bytes | None]] = []  # folder, name, what it was before; not synced

    def _call(self, name: str) -> None:
        self.before(name)
        if self.error and name in ("create", "write", "sync"):
            raise OSError(self.error, os.strerror(self.error))

    def create(self, path: Path) -> int:
        self._call("create")
        fd = super().create(path)
        self._open[fd] = path
        self._unsynced[path] = b""
        return fd

    def write(self, fd: int, data: bytes) -> int:
        self._call("write")
        return super().write(fd, data)

    def sync(self, fd: int) -> None:
        self._call("sync")
        self._unsynced.pop(self._open.pop(fd, Path()), None)

    def rename(self, old: Path, new: Path) -> None:
        self._call("rename")
        before = new.read_bytes() if new.exists() else None
        super().rename(old, new)
        if old in self._unsynced:
            self._unsynced[new] = self._unsynced.pop(old)
        self._renames.append((new.parent, new, before))

    def unlink(self, path: Path) -> None:
        self._call("unlink")
        before = path.read_bytes()
        super().unlink(path)
        self._unsynced.pop(path, None)
        self._renames.append((path.parent, path, before))

    def sync_folder(self, folder: Path) -> None:
        self._call("sync_folder")
        self._renames = [change for change in self._renames if change[0] != folder]

    def lose_power(self) -> None:
        """Undo unsynced changes. A later change of names is on the disk only if the earlier ones are."""
        kept = self._rng.randrange(len(self._renames) + 1)
        for path, data in self._unsynced.items():
            if path.exists() and self._rng.random() < 0.5:
                path.write_bytes(data[: len(data) // 2])
        for _, path, before in reversed(self._renames[kept:]):
            if before is None:
                path.unlink(missing_ok=True)
            else:
                path.write_bytes(before)
        self._renames.clear()
        self._unsynced.clear()
        self._open.clear()
        self.error = 0


NO_SPACE, BROKEN = errno.ENOSPC, errno.EIO
