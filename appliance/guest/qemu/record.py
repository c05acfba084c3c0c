# SPDX-License-Identifier: GPL-2.0-only
"""What is kept of a running guest for the next bypassd: `state.json` in its run folder."""

from __future__ import annotations

from pathlib import Path

import msgspec

from appliance.system import files

STATE_FILE = "state.json"


class Record(msgspec.Struct, frozen=True):
    """`digest`: of everything that needs another process if it changes; `since`: start time in ns."""

    pid: int
    started: int
    digest: str
    accel: str
    since: int
    proved: bool = False
    warnings: tuple[str, ...] = ()
    huge: int = 0  # bytes of its memory that are in huge pages
    full: bool = False  # it is paused until there is room for its disks


def read_record(folder: Path) -> Record | None:
    """What an earlier bypassd left in the guest's run folder; None if there is nothing readable."""
    try:
        return msgspec.json.decode((folder / STATE_FILE).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):
        return None


def write_record(folder: Path, record: Record) -> None:
    """Keep it for the next bypassd. OSError: it cannot be written."""
    files.replace(folder / STATE_FILE, msgspec.json.encode(record), synced=False)
