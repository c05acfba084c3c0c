# SPDX-License-Identifier: GPL-2.0-only
"""Which format a guest's disk has: as its import or its first start found, never what the guest wrote since.

A guest controls every byte of a raw disk. If the format were read from it at each start, the guest could write the
header of a qcow2 image, whose backing file is any file of the appliance. So QEMU is given a format that the guest
cannot influence, and a qcow2 image is examined before each start: one that refers to other files is refused.

For images that were never imported, the format is determined when a guest that may write to them is first started with
them. It is kept in `disk-formats.json` on the data partition with the file's inode number: another file in its place is
examined again.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from appliance.errors import RefusedError
from appliance.guest.image import inspect, qcow2
from appliance.paths import Paths
from appliance.system import files

log = logging.getLogger(__name__)

Format = Literal["raw", "qcow2"]


class Found(NamedTuple):
    """The format for QEMU, and a remark for the operator ("" = none)."""

    format: Format
    note: str = ""


class _Kept(msgspec.Struct, frozen=True):
    """One disk in the file. `inode` 0: a block device, whose inode changes with each boot."""

    format: Format
    inode: int


def find(path: Path, paths: Paths, *, written: bool) -> Found:
    """The format of a disk; `written` = the guest may write to it.

    RefusedError when it must not be used; OSError when it cannot be read.
    """
    with path.open("rb") as disk:
        head = disk.read(inspect.HEAD_BYTES)
    looks: Format = "qcow2" if head.startswith(qcow2.MAGIC) else "raw"
    known, who = _imported(path, paths), "its import"
    if known is None:
        known, who = _first_start(path, paths, looks, written=written), "its first start"
    if known == "qcow2":
        if looks != known:
            raise RefusedError(f"it was qcow2 at {who}, and does not begin like that any more: import it again")
        qcow2.judge(head, None)
    elif looks != known:
        return Found(known, f"disk {path.name} begins like qcow2, and is used as raw, as at {who}: import it to change")
    return Found(known)


class Record(msgspec.Struct):
    """What is kept of an import. `imported` in seconds since 1970; `restored`: a later import was undone."""

    format: str = "unknown"
    virtual_bytes: int = 0
    sha256: str = ""
    verified: bool = False
    imported: str | float | None = None
    source: str = ""
    restored: bool = False


def read_record(folder: Path, name: str) -> Record | None:
    """What was recorded when the image `name` was imported; None when it was not, or the record is damaged."""
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
        raise RefusedError(f"it was imported as {found}, and is no disk: import it again, with --kind disk")
    return found if found == "raw" or found == "qcow2" else None  # noqa: PLR1714  mypy understands only this


def _first_start(path: Path, paths: Paths, looks: Format, *, written: bool) -> Format:
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
        try:  # not synced, for links wait on us meanwhile
            files.replace(file, msgspec.json.encode({**kept, str(path): _Kept(looks, inode)}), synced=False)
        except OSError as error:  # a full disk stops no guest; the next start finds it out again
            log.warning("the format of disk %s cannot be kept: %s", path, error.strerror)
    return looks
