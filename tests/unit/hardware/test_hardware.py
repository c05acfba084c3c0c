# SPDX-License-Identifier: GPL-2.0-only
"""Watchdog and crash log without hardware: messages and written data. The devices are tested in tests/image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.errors import HardwareError
from appliance.hardware import crashlog, watchdog
from appliance.hardware.crashlog import CrashLog, decide, judge

# -- watchdog


def fake_sysfs(root: Path, number: int, identity: str, driver: str) -> None:
    folder = root / "sys" / f"watchdog{number}"
    folder.mkdir(parents=True)
    (folder / "identity").write_text(identity + "\n")
    (root / "drivers" / driver).mkdir(parents=True)
    (folder / "device").mkdir()
    (folder / "device" / "driver").symlink_to(root / "drivers" / driver)


def test_the_watchdog_is_found_by_driver_or_identity(tmp_path: Path) -> None:
    fake_sysfs(tmp_path, 0, "Software Watchdog", "softdog")
    fake_sysfs(tmp_path, 1, "i6300ESB timer", "i6300esb")
    sysfs = str(tmp_path / "sys")
    assert watchdog.find("i6300esb", sysfs) == "/dev/watchdog1"
    assert watchdog.find("i6300ESB timer", sysfs) == "/dev/watchdog1"
    assert watchdog.find("", sysfs) == "/dev/watchdog0"
    with pytest.raises(HardwareError, match="watchdog0 is Software Watchdog"):
        watchdog.find("iTCO_wdt", sysfs)


def test_no_watchdog_at_all(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match="there are none"):
        watchdog.find("", str(tmp_path))
    with pytest.raises(HardwareError, match="No such file"):
        watchdog.Watchdog.open(str(tmp_path / "watchdog0"))


def test_closing_leaves_the_device_counting(tmp_path: Path) -> None:
    """The magic character that stops it is never written, nor anything else."""
    path = tmp_path / "dog"
    path.touch()
    watchdog.Watchdog.open(str(path)).close()
    assert path.read_bytes() == b""


def test_a_device_that_refuses_is_a_named_error(tmp_path: Path) -> None:
    path = tmp_path / "dog"
    path.touch()
    dog = watchdog.Watchdog(str(path), os.open(path, os.O_WRONLY))
    with pytest.raises(HardwareError, match="cannot be fed"):
        dog.feed()
    dog.close()


# -- crash log

NMI = "Panic#1 Part1\n<0>[ 12.3] Kernel panic - not syncing: NMI: Not continuing\n"
SYSRQ = "Panic#2 Part1\n<0>[ 99.0] Kernel panic - not syncing: sysrq triggered crash\n"


@pytest.mark.parametrize(
    ("text", "kind"), [(NMI, "watchdog"), (SYSRQ, "panic"), ("Oops#1 Part1\nBUG: something", None), ("", None)]
)
def test_what_a_record_says(text: str, kind: str | None) -> None:
    found = judge(text)
    assert (found.kind if found else None) == kind


@pytest.mark.parametrize(
    ("same_boot", "mark", "orderly", "records", "kind"),
    [
        (True, True, False, [], "none"),
        (False, False, False, [], "first"),
        (False, True, True, [], "orderly"),
        (False, True, False, [], "power"),
        (False, True, False, [NMI], "watchdog"),
        (False, True, True, [SYSRQ], "panic"),
        (False, False, False, ["nothing", SYSRQ], "panic"),
    ],
)
def test_the_cause_of_the_last_reset(same_boot: bool, mark: bool, orderly: bool, records: list[str], kind: str) -> None:
    assert decide(same_boot, mark, orderly, records).kind == kind


def test_records_are_moved_in_one_piece_and_judged_once(tmp_path: Path) -> None:
    pstore, folder = tmp_path / "pstore", tmp_path / "crash"
    pstore.mkdir()
    (pstore / "dmesg-erst-1").write_text(NMI)
    (pstore / "dmesg-erst-2").write_text("Panic#1 Part2\nolder words\n")
    first = CrashLog(pstore, folder, tmp_path, "boot-1")
    assert first.collect().kind == "watchdog"
    assert not list(pstore.iterdir())
    (record,) = first.records()
    assert record.kind == "watchdog"
    assert record.text.index("older words") < record.text.index("Kernel panic")
    assert CrashLog(pstore, folder, tmp_path, "boot-1").collect().kind == "none"
    second = CrashLog(pstore, folder, tmp_path, "boot-2")
    assert second.collect().kind == "power"
    second.mark_orderly()
    assert CrashLog(None, folder, tmp_path, "boot-3").collect().kind == "orderly"


def test_a_damaged_mark_is_no_mark(tmp_path: Path) -> None:
    (tmp_path / "last-run.json").write_text("{")
    assert CrashLog(None, tmp_path / "crash", tmp_path, "b").collect().kind == "first"


def test_old_crash_records_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that panics at every boot: the newest records stay, by number and by size, and always the last one."""
    pstore, folder = tmp_path / "pstore", tmp_path / "crash"
    pstore.mkdir()
    folder.mkdir()
    for number in range(crashlog.KEPT + 10):
        (folder / f"20260101T0000{number:02d}_panic_old.txt").write_text(SYSRQ)
    (pstore / "dmesg-erst-1").write_text(SYSRQ)
    CrashLog(pstore, folder, tmp_path, "b").collect()
    names = sorted(path.name for path in folder.iterdir())
    assert len(names) == crashlog.KEPT
    assert names[-1].endswith("_panic_dmesg-erst-1.txt")
    monkeypatch.setattr(crashlog, "KEPT_BYTES", 1)
    CrashLog(pstore, folder, tmp_path, "b").collect()
    assert [path.name for path in folder.iterdir()] == names[-1:]
