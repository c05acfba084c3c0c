# SPDX-License-Identifier: GPL-2.0-only
"""The one writer of whole files: after a failure of any system call there is the old file or the new, and no rest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from appliance.system import files
from appliance.system.files import Disk

ROOT = Path(__file__).parents[3]
CALLS = ("create", "write", "sync", "rename", "sync_folder")


class FailingDisk(Disk):
    """One system call of one kind fails; what was called, in order."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> object:
        if name in CALLS:
            self.calls.append(name)
            if name == self.failing:
                raise OSError(28, "No space left on device")
        return super().__getattribute__(name)


def test_a_write_is_synced_renamed_and_its_name_synced(tmp_path: Path) -> None:
    disk = FailingDisk()
    files.replace(tmp_path / "deep/er/file", "text", disk=disk)
    assert tuple(disk.calls) == CALLS
    assert (tmp_path / "deep/er/file").read_text() == "text"
    disk = FailingDisk()
    files.replace(tmp_path / "file", b"1", synced=False, disk=disk)
    assert disk.calls == ["create", "write", "rename"]


@pytest.mark.parametrize("failing", CALLS)
def test_after_a_failure_there_is_the_old_file_or_the_new_and_nothing_beside(tmp_path: Path, failing: str) -> None:
    path = tmp_path / "file"
    files.replace(path, b"old")
    with pytest.raises(OSError, match="No space"):
        files.replace(path, b"new", disk=FailingDisk(failing))
    assert path.read_bytes() == (b"new" if failing == "sync_folder" else b"old")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_the_mode_is_exact_and_only_the_owner_reads_by_default(tmp_path: Path, mode: int) -> None:
    files.replace(tmp_path / "file", b"", mode)
    files.replace(tmp_path / "other", b"")
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    assert (tmp_path / "other").stat().st_mode & 0o777 == 0o600


def test_a_symbolic_link_in_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("kept")
    (tmp_path / "file.new").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic"):
        files.replace(tmp_path / "file", b"new")
    assert (tmp_path / "victim").read_text() == "kept"


def test_what_another_program_wrote_is_put_in_place(tmp_path: Path) -> None:
    (tmp_path / "made").write_text("new")
    (tmp_path / "file").write_text("old")
    files.put_in_place(tmp_path / "made", tmp_path / "file")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("file", "new")]


def test_nothing_else_in_the_appliance_puts_files_in_place() -> None:
    """What else renames or syncs writes no whole file: the ledger (appended to), an image (streamed, or taken back)."""
    own = re.compile(r"os\.(replace|rename|fsync)\(|\bwith_name\([^)]*new|with_suffix\(.\.new")
    found = {
        str(path.relative_to(ROOT / "appliance"))
        for path in (ROOT / "appliance").rglob("*.py")
        if own.search(path.read_text()) and path.name != "files.py"
    }
    assert found == {
        "telemetry/transitions.py",  # sets a full ledger aside
        "guest/image/importer.py",  # syncs what it streamed
        "system/clock.py",  # a symbolic link, in memory
        "access/ssh.py",  # dropbearkey writes the file, `put_in_place` does the rest
    }
