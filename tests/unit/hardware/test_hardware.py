# SPDX-License-Identifier: GPL-2.0-only
"""Relay lines, watchdog and crash log where no hardware is: what is said, what is written. The devices: tests/image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from appliance.errors import HardwareError
from appliance.hardware import relay, watchdog
from appliance.hardware.crashlog import CrashLog, decide, judge

# -- relay


class Coil:
    """What periphery's line does, for the relay's order of moves."""

    def __init__(self, log: list[tuple[str, bool]], name: str) -> None:
        self.log, self.name, self.level = log, name, False

    def write(self, level: bool) -> None:
        self.level = level
        self.log.append((self.name, level))

    def read(self) -> bool:
        return self.level

    def close(self) -> None:
        self.log.append((self.name, False))


def made(active_high: bool = True) -> tuple[relay.Relay, list[tuple[str, bool]]]:
    spec = relay.RelaySpec("r", relay.LineSpec("r", active_high), relay.LineSpec("d", active_high))
    log: list[tuple[str, bool]] = []
    one = relay.Relay(spec)
    assert one._disconnect
    one._inline._gpio, one._disconnect._gpio = Coil(log, "r"), Coil(log, "d")  # type: ignore[assignment]
    return one, log


def test_modes_and_their_order() -> None:
    """From disconnect to inline the disconnect contact opens first; away from inline the coil falls first."""
    one, log = made()
    for mode in ("inline", "disconnect", "inline", "bypass"):
        one.set(mode)
        assert one.read() == mode
    assert log == [
        ("d", False), ("r", True),
        ("r", False), ("d", True),
        ("d", False), ("r", True),
        ("r", False), ("d", False),
    ]  # fmt: skip


def test_an_active_low_coil_is_released_high() -> None:
    one, log = made(active_high=False)
    one.set("inline")
    assert ("r", False) in log
    assert one.read() == "inline"
    one.set("bypass")
    assert log[-2:] == [("r", True), ("d", True)]


def test_no_disconnect_on_this_board() -> None:
    one = relay.Relay(relay.RelaySpec("r", relay.LineSpec("r")))
    with pytest.raises(HardwareError, match="no disconnect"):
        one.set("disconnect")


def test_a_line_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(
        HardwareError, match='GPIO line "r" not found \\(there is no GPIO chip\\): load the GPIO driver'
    ):
        relay.find_line("r", str(tmp_path / "gpiochip*"))
    (tmp_path / "gpiochip0").touch()
    with pytest.raises(HardwareError, match="gpiochip0: "):
        relay.find_line("r", str(tmp_path / "gpiochip*"))


def test_an_unopened_line_refuses() -> None:
    with pytest.raises(HardwareError, match="not open"):
        relay.Line(relay.LineSpec("r")).drive(True)


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
    with pytest.raises(HardwareError, match="there is none"):
        watchdog.find("", str(tmp_path))
    with pytest.raises(HardwareError, match="No such file"):
        watchdog.Watchdog.open(str(tmp_path / "watchdog0"))


def test_only_an_orderly_close_writes_the_magic_character(tmp_path: Path) -> None:
    for orderly, written in ((False, b""), (True, b"V")):
        path = tmp_path / f"dog{orderly}"
        path.touch()
        watchdog.Watchdog.open(str(path)).close(orderly)
        assert path.read_bytes() == written


def test_a_device_that_refuses_is_a_named_error(tmp_path: Path) -> None:
    path = tmp_path / "dog"
    path.touch()
    dog = watchdog.Watchdog(str(path), os.open(path, os.O_WRONLY))
    with pytest.raises(HardwareError, match="cannot be fed"):
        dog.feed()
    dog.close(orderly=False)


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
