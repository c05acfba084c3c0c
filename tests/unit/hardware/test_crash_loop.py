# SPDX-License-Identifier: GPL-2.0-only
"""A machine that crashes repeatedly: how often it goes inline, when it stops trying, and what ends that."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from appliance.hardware import crash_loop
from appliance.hardware.crash_loop import Crash, History, Limits, begin, cleared, hold, pack, settle, unpack
from appliance.hardware.crashlog import CrashLog

LIMITS = Limits()
HOUR = 3600


class Machine:
    """Boots again and again; the history is kept as bypassd keeps it, through JSON."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.limits, self.boots = limits, 0
        self.kept: object = None
        self.now = History()

    def boot(self, kind: str) -> str:
        """Start after a reset of this kind: "safe", "hold" or "inline" is what follows."""
        self.boots += 1
        self.now = begin(unpack(self.kept), f"boot-{self.boots}", kind, f"a {kind}", self.limits)
        self._keep()
        return "safe" if self.now.safe else "hold" if hold(self.now, self.limits) else "inline"

    def run(self, seconds: int) -> None:
        """Operate for so long in this boot."""
        self.now = settle(self.now._replace(up=self.now.up + seconds), self.limits)
        self._keep()

    def _keep(self) -> None:
        self.kept = json.loads(json.dumps(pack(self.now)))


def test_twenty_panics_in_a_row_are_five_times_inline_and_then_safe_mode() -> None:
    machine = Machine()
    came = [machine.boot("first")]
    for _ in range(20):
        machine.run(10)
        came.append(machine.boot("panic"))
    assert came == ["inline", "inline", "hold", "hold", "hold", *["safe"] * 16]


def test_the_hold_doubles_up_to_the_window() -> None:
    machine = Machine(Limits(limit=0))
    held = []
    for _ in range(12):
        machine.boot("watchdog")
        held.append(hold(machine.now, machine.limits))
    assert held == [0, 30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600, 3600]
    assert not machine.now.safe, "a limit of 0 is never reached"


def test_one_crash_now_and_then_changes_nothing() -> None:
    machine = Machine()
    for _ in range(20):
        assert machine.boot("panic") == "inline"
        machine.run(HOUR)
    assert machine.now.idle


def test_a_power_cut_is_no_crash_but_twenty_in_a_row_are_suspect() -> None:
    machine = Machine()
    came = [machine.boot("power") for _ in range(21)]
    assert came == ["inline"] * 19 + ["safe"] * 2


@pytest.mark.parametrize("kind", ["orderly", "first", "none"])
def test_an_orderly_restart_counts_for_nothing_and_ends_no_safe_mode(kind: str) -> None:
    machine = Machine()
    for _ in range(5):
        machine.boot("panic")
    assert machine.boot(kind) == "safe"
    machine = Machine()
    assert [machine.boot(kind) for _ in range(50)] == ["inline"] * 50


def test_a_restart_of_bypassd_is_no_new_start() -> None:
    machine = Machine()
    machine.boot("panic")
    again = begin(machine.now, machine.now.boot, "panic", "the same record", LIMITS)
    assert again == machine.now


def test_safe_mode_ends_after_the_window_and_is_then_on_trial() -> None:
    """Stable in safe mode proves little: the next crash leads back at once, an hour of operation ends the trial."""
    machine = Machine()
    for _ in range(5):
        machine.boot("panic")
    machine.run(HOUR - 1)
    assert machine.now.safe
    machine.run(1)
    assert not machine.now.safe
    assert machine.boot("panic") == "safe"
    machine.run(HOUR)
    machine.run(HOUR // 2)
    assert machine.boot("orderly") == "inline"
    machine.run(HOUR // 2)
    assert machine.boot("panic") == "inline", "the trial lasts over an orderly restart, and is over now"


def test_an_order_forgets_everything() -> None:
    machine = Machine()
    for _ in range(5):
        machine.boot("panic")
    machine.kept = pack(cleared(machine.now))
    assert [machine.boot("panic") for _ in range(2)] == ["inline", "hold"]


def test_operation_counts_and_not_the_calendar() -> None:
    """Four crashes, each 14 minutes of operation after the one before: the first is forgotten as the fifth comes."""
    machine = Machine()
    for _ in range(5):
        machine.boot("panic")
        machine.run(15 * 60)
    assert machine.boot("panic") == "hold"
    assert machine.now.counted == 4


def test_a_history_survives_being_kept() -> None:
    crashes = (Crash(7, "panic", "a"), Crash(0, "power", "b"))
    for safe, trial in itertools.product((False, True), (None, -5, 9)):
        history = History("boot", 12, crashes, safe, trial)
        assert unpack(json.loads(json.dumps(pack(history)))) == history


@pytest.mark.parametrize(
    "kept",
    [
        None,
        [],
        {},
        "x",
        {"boot": "b", "up": "soon", "crashes": [], "safe": True, "trial": None},
        {"boot": "b", "up": 1, "crashes": [[1, "panic"]], "safe": True, "trial": None},
        {"boot": "b", "up": 1, "crashes": [[1, "meteor", ""]], "safe": True, "trial": None},
    ],
)
def test_a_damaged_history_is_none(kept: object) -> None:
    """It must not keep the link in bypass for ever."""
    assert unpack(kept) == History()


# -- with the crash log

PANIC = "Panic#1 Part1\n<0>[ 99.0] Kernel panic - not syncing: again\n"
OLDER = "Panic#1 Part2\nolder words\n"


def crash(pstore: Path, number: int) -> None:
    """What a crashing kernel leaves, in two parts; every boot counts its records anew."""
    (pstore / f"dmesg-erst-{2 * number:04}").write_text(PANIC)
    (pstore / f"dmesg-erst-{2 * number + 1:04}").write_text(OLDER)


@pytest.fixture
def pstore(tmp_path: Path) -> Path:
    made = tmp_path / "pstore"
    made.mkdir()
    return made


def test_the_history_lies_on_the_data_partition(tmp_path: Path, pstore: Path) -> None:
    safe = []
    for number in range(7):
        if number:
            crash(pstore, number)
        log = CrashLog(pstore, tmp_path / "crash", tmp_path, f"boot-{number}")
        log.collect()
        safe.append(log.history.safe)
        assert list(pstore.iterdir()) == []
    assert safe == [False] * 5 + [True] * 2
    log.history = cleared(log.history)
    log.note()
    again = CrashLog(pstore, tmp_path / "crash", tmp_path, log.history.boot)
    again.collect()
    assert again.history == log.history
    assert not again.history.safe


def test_without_a_data_partition_the_records_in_pstore_are_the_history(tmp_path: Path, pstore: Path) -> None:
    """What is written is gone at the next boot; the records stay in pstore, shortened to the part with the panic."""
    for number in range(1, 6):
        crash(pstore, number)
        state = tmp_path / f"memory-{number}"
        log = CrashLog(pstore, state / "crash", state, f"boot-{number}", kept=False)
        assert log.collect().kind == "panic"
        assert (log.history.counted, log.history.safe) == (number, number == 5)
        assert len(list(pstore.iterdir())) == number
        newest = log.read(log.report)
        assert newest is not None
        assert "older words" in newest.text
    again = CrashLog(pstore, state / "crash", state, "boot-5", kept=False)
    again.collect()
    assert again.history == log.history, "a restart of bypassd"
    again.history = cleared(again.history)
    again.note()
    assert list(pstore.iterdir()) == []


def test_a_crash_before_the_crash_log_could_be_written_counts(tmp_path: Path, pstore: Path) -> None:
    """Three boots that did not get this far, or found the disk full: their records are still there."""
    for number in range(3):
        crash(pstore, number)
    log = CrashLog(pstore, tmp_path / "crash", tmp_path, "boot-4")
    log.collect()
    assert log.history.counted == 3
    assert [report.about.number for report in log.reports()] == [1, 2, 3]


def test_a_cut_between_the_count_and_the_record_loses_no_crash(
    tmp_path: Path, pstore: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crash(pstore, 1)

    def cut(_: Path) -> None:
        raise OSError("power cut")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", cut)
        with pytest.raises(OSError, match="power cut"):
            CrashLog(pstore, tmp_path / "crash", tmp_path, "boot-2").collect()
    log = CrashLog(pstore, tmp_path / "crash", tmp_path, "boot-3")
    log.collect()
    assert log.history.counted >= 1


def test_the_count_is_of_crashes() -> None:
    """Three power cuts and two panics are two."""
    cuts = tuple(Crash(0, "power", "") for _ in range(3))
    assert History(crashes=(*cuts, Crash(0, "panic", ""), Crash(0, "watchdog", ""))).counted == 2
    assert crash_loop.hold(History(crashes=cuts), LIMITS) == 0
