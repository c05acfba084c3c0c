# SPDX-License-Identifier: GPL-2.0-only
"""Files that are whole or not there: written beside their place, synced, and put in place in one step.

Each method is one system call, so that a test can cut the power between any two of them. Stateless.
"""

from __future__ import annotations

import os
from pathlib import Path

from appliance.errors import RefusedError

_NEW = ".new"


class Disk:
    """The system calls that a write consists of."""

    def create(self, path: Path) -> int:
        """Open for writing, emptied; readable by its owner alone, for a configuration holds secrets."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)

    def write(self, fd: int, data: bytes) -> int:
        """Write some of the data; how much."""
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        """Wait until a file's content is on the disk."""
        os.fsync(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Put a file in another's place, in one step."""
        os.replace(old, new)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        os.unlink(path)

    def sync_folder(self, folder: Path) -> None:
        """Wait until the names in a folder are on the disk."""
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def stage(disk: Disk, path: Path, data: bytes) -> None:
    """Write `data` beside its place and sync it: what may fail (a full disk) fails here, and nothing has changed.

    RefusedError says what the disk says.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = disk.create(_beside(path))
        try:
            left = memoryview(data)
            while left:
                left = left[disk.write(fd, bytes(left)) :]
            disk.sync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        drop(disk, path)
        raise RefusedError(
            f"{path} cannot be written: {error.strerror or error}: make room, or check the disk"
        ) from error


def publish(disk: Disk, path: Path) -> None:
    """Put what was staged in its place: one step, old or new."""
    try:
        disk.rename(_beside(path), path)
        disk.sync_folder(path.parent)
    except OSError as error:
        raise RefusedError(f"{path} cannot be written: {error.strerror or error}") from error


def drop(disk: Disk, path: Path) -> None:
    """Forget what was staged."""
    try:
        disk.unlink(_beside(path))
    except OSError:
        pass  # it was not there, or the disk is gone: the next write replaces it


def write(disk: Disk, path: Path, data: bytes) -> None:
    """Stage and publish."""
    stage(disk, path, data)
    publish(disk, path)


def remove(disk: Disk, path: Path) -> None:
    """Remove a file for good; one that is not there is no error."""
    try:
        disk.unlink(path)
        disk.sync_folder(path.parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RefusedError(f"{path} cannot be removed: {error.strerror or error}") from error


def _beside(path: Path) -> Path:
    return path.with_name(path.name + _NEW)
