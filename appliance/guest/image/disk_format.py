# SPDX-License-Identifier: GPL-2.0-only
"""The format of a guest's disk, as determined at its import or first start, never from what the guest wrote since.

A guest controls every byte of a raw disk. If the format were read from it at each start, the guest could write the
header of a qcow2 image whose backing file is any file of the appliance. So QEMU is given a format that the guest
cannot influence, and a qcow2 image is examined before each start: one that refers to other files is refused.

For images that were never imported, the format is determined when a guest that may write to them is first started with
them. It is kept in `disk-formats.json` on the data partition with the file's inode number: another file in its place is
examined again.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from appliance.errors import RefusedError
from appliance.guest.image import inspect, qcow2
from appliance.paths import Paths
from appliance.system import files

log = logging.getLogger(__name__)

MANY = 1000
"""From this many disks on, those that no longer exist are forgotten."""

Format = Literal["raw", "qcow2"]
_file = threading.Lock()
"""Guests start in threads; the format in a lost entry would be determined again, from what the guest wrote."""


class Found(NamedTuple):
    """The format for QEMU, and a remark for the operator ("" = none)."""

    format: Format
    note: str = ""


class _Kept(msgspec.Struct, frozen=True):
    """One disk in the file. `inode` 0: a block device, whose inode changes with each boot."""

    format: Format
    inode: int


def find(path: Path, paths: Paths, *, written: bool) -> Found:
    """The format of a disk; `written`: the guest may write to it.

    RefusedError if it must not be used; OSError if it cannot be read.
    """
    with path.open("rb") as disk:
        head = disk.read(inspect.HEAD_BYTES)
    looks: Format = "qcow2" if head.startswith(qcow2.MAGIC) else "raw"
    known, who = _imported(path, paths), "its import"
    if known is None:
        known, who = _first_start(path, paths, looks, written=written), "its first start"
    if known == "qcow2":
        if looks != known:
            raise RefusedError(f"it was qcow2 at {who}, but no longer begins like qcow2: import it again")
        qcow2.judge(head, None)
    elif looks != known:
        text = f"disk {path.name} begins like qcow2, but is used as raw, as at {who}: import it to change that"
        return Found(known, text)
    return Found(known)


class Record(msgspec.Struct):
    """The record of an import. `imported`: seconds since 1970; `restored`: a later import was undone."""

    format: str = "unknown"
    virtual_bytes: int = 0
    sha256: str = ""
    verified: bool = False
    imported: str | float | None = None
    source: str = ""
    restored: bool = False


def read_record(folder: Path, name: str) -> Record | None:
    """What was recorded when the image `name` was imported; None if it was not, or the record is damaged."""
    try:
        return msgspec.json.decode((folder / f".{name}.json").read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def _imported(path: Path, paths: Paths) -> Format | None:
    real = path.resolve()
    if real.parent != paths.images.resolve():
        return None
    record = read_record(real.parent, real.name)
    found: object = record.format if record is not None else None
    if found in ("kernel", "initrd"):
        raise RefusedError(f"it was imported as {found}, not as a disk: import it again with --kind disk")
    return found if found == "raw" or found == "qcow2" else None  # noqa: PLR1714  mypy understands only this


def _first_start(path: Path, paths: Paths, looks: Format, *, written: bool) -> Format:
    with _file:
        return _known_or_kept(path, paths, looks, written=written)


def _known_or_kept(path: Path, paths: Paths, looks: Format, *, written: bool) -> Format:
    file = paths.state / "disk-formats.json"
    inode = 0 if path.is_block_device() else path.stat().st_ino
    try:
        kept = msgspec.json.decode(file.read_bytes(), type=dict[str, _Kept])
    except (OSError, msgspec.DecodeError):
        kept = {}
    known = kept.get(str(path))
    if known is not None and known.inode == inode:
        return known.format
    if written:
        try:  # not synced, because links wait for us meanwhile
            if len(kept) >= MANY:
                kept = {disk: about for disk, about in kept.items() if Path(disk).exists()}
            files.replace(file, msgspec.json.encode({**kept, str(path): _Kept(looks, inode)}), synced=False)
        except OSError as error:  # a full disk does not stop a guest; the next start determines the format again
            log.warning("the format of disk %s cannot be saved: %s", path, error.strerror)
    return looks
