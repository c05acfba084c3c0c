# SPDX-License-Identifier: GPL-2.0-only
"""The only writer of whole files: written to a temporary name, synced, renamed, and the folder synced.

A reader of such a file finds the old content or the new, also after a power cut. `replace` does it at once and raises
OSError; `stage` and `publish` are its two halves for a configuration and raise RefusedError for the user. Files that
are appended to (the ledger, logs) and the kernel's own files (/proc, /sys) are not written here.

Each method of `Disk` is one system call, so that a test can cut the power between any two of them. Stateless.
"""

from __future__ import annotations

import os
from pathlib import Path

from appliance.errors import RefusedError

_NEW = ".new"
_OWNER = 0o600  # readable only by its owner, because a configuration contains secrets


class Disk:
    """The system calls that make up a write."""

    def create(self, path: Path) -> int:
        """Open for writing, emptied; never through a symbolic link."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, _OWNER)

    def write(self, fd: int, data: bytes) -> int:
        """Write some of the data; returns how much."""
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        """Wait until a file's content is on the disk."""
        os.fsync(fd)

    def rename(self, old: Path, new: Path) -> None:
        """Replace a file by another one, in one step."""
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


def replace(
    path: Path, data: bytes | str, mode: int = _OWNER, *, synced: bool = True, disk: Disk | None = None
) -> None:
    """Write a whole file in one step: after a crash or a power cut it has its old content or `data`, nothing else.

    `synced` waits until it is on the disk. Without it, a power cut may still bring the old content back: for files in
    memory (/run), or not worth the wait. OSError: nothing has changed.
    """
    disk = disk or Disk()
    try:
        _stage(disk, path, data, mode, synced)
        disk.rename(_beside(path), path)
    except OSError:
        drop(disk, path)
        raise
    if synced:
        disk.sync_folder(path.parent)


def put_in_place(made: Path, path: Path) -> None:
    """The same for a file that another program wrote to `made`, on the same file system. OSError from the disk."""
    disk = Disk()
    fd = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
    try:
        disk.sync(fd)
    finally:
        os.close(fd)
    disk.rename(made, path)
    disk.sync_folder(path.parent)


def _stage(disk: Disk, path: Path, data: bytes | str, mode: int, synced: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = disk.create(_beside(path))
    try:
        if mode != _OWNER:
            os.fchmod(fd, mode)
        left = memoryview(data.encode() if isinstance(data, str) else data)
        while left:
            left = left[disk.write(fd, bytes(left)) :]
        if synced:
            disk.sync(fd)
    finally:
        os.close(fd)


def stage(disk: Disk, path: Path, data: bytes) -> None:
    """The first half of a write: `data` is written to a temporary name and synced. A full disk makes it fail here.

    RefusedError has the disk's error; nothing has changed then.
    """
    try:
        _stage(disk, path, data, _OWNER, synced=True)
    except OSError as error:
        drop(disk, path)
        raise RefusedError(
            f"{path} cannot be written: {error.strerror or error}: make room, or check the disk"
        ) from error


def publish(disk: Disk, path: Path) -> None:
    """The second half: move the staged file to its place, in one step."""
    try:
        disk.rename(_beside(path), path)
        disk.sync_folder(path.parent)
    except OSError as error:
        raise RefusedError(f"{path} cannot be written: {error.strerror or error}") from error


def drop(disk: Disk, path: Path) -> None:
    """Remove the staged file."""
    try:
        disk.unlink(_beside(path))
    except OSError:
        pass  # it does not exist, or the disk is gone: the next write replaces it


def write(disk: Disk, path: Path, data: bytes) -> None:
    """Stage and publish."""
    stage(disk, path, data)
    publish(disk, path)


def remove(disk: Disk, path: Path) -> None:
    """Remove a file durably; it need not exist."""
    try:
        disk.unlink(path)
        disk.sync_folder(path.parent)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RefusedError(f"{path} cannot be removed: {error.strerror or error}") from error


def _beside(path: Path) -> Path:
    return path.with_name(path.name + _NEW)
