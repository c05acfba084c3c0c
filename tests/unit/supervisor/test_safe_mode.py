# SPDX-License-Identifier: GPL-2.0-only
"""Safe mode and the hold after crashes, as bypassd keeps them: what is started, what is shown, what ends them."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import pytest

from appliance.causes import Cause
from appliance.config.schema.model import Config, System
from appliance.hardware.crash_loop import Crash, History, Limits, pack
from appliance.hardware.crashlog import CrashLog
from appliance.supervisor import supervisor
from appliance.supervisor.metrics import collect as collect_metrics
from appliance.supervisor.safe_mode import SafeMode, limits_of
from appliance.telemetry import openmetrics
from appliance.units import Duration
from console.views.state import banner
from tests.support.waiting import until
from tests.unit.supervisor.test_supervisor import CONFIG, Keeper, ask, make, run

SECOND = 1_000_000_000
HOUR = 3600
PANIC = "Panic#1 Part1\n<0>[ 9.9] Kernel panic - not syncing: again\n"
CRASHES = tuple(Crash(60 * number, "panic", "kernel panic: again") for number in range(1, 5))


class Kept:
    """A safe mode over a data partition, at a time of the test."""

    def __init__(
        self, folder: Path, crashes: tuple[Crash, ...], *, safe: bool = False, limits: Limits | None = None
    ) -> None:
        self.folder, self.now, self.resumed = folder, 0, 0
        self.log = CrashLog(None, folder / "crash", folder, "boot")
        self.log.history = History("boot", 0, crashes, safe)
        self.mode = SafeMode(self.log, limits or Limits(), lambda: self.now)
        self.mode.resume = self._resume

    def _resume(self) -> None:
        self.resumed += 1

    def at(self, seconds: int) -> SafeMode:
        self.now = seconds * SECOND
        return self.mode

    def written(self) -> dict[str, object]:
        history = json.loads((self.folder / "last-run.json").read_text())["history"]
        assert isinstance(history, dict)
        return history


# -- by itself


def test_the_hold_is_named_and_ends_by_itself(tmp_path: Path) -> None:
    """Three crashes: a minute. Its text stays the same, for each change of a detail would be an entry of the ledger."""
    kept = Kept(tmp_path, CRASHES[:3])
    (said,) = {kept.at(second).faults()[Cause.CRASH_HOLD] for second in (0, 1, 59)}
    assert said == "3 crashes within 1 h of operation: in bypass for the first 60 s after the start"
    assert kept.at(10).held_s() == 50
    assert kept.at(60).faults() == {}
    assert kept.mode.answer().mode == "normal"


def test_an_appliance_that_never_crashed_writes_nothing_and_says_nothing(tmp_path: Path) -> None:
    kept = Kept(tmp_path, ())
    asyncio.run(kept.at(HOUR).note())
    assert not (tmp_path / "last-run.json").exists()
    answer = kept.mode.answer()
    assert (answer.mode, answer.alarm, answer.count) == ("normal", "", 0)


def test_who_logs_in_is_told_of_crashes_before_it_is_safe_mode(tmp_path: Path) -> None:
    said = Kept(tmp_path, CRASHES[:1]).at(5).answer().alarm
    assert said.endswith("(the last one: kernel panic: again): with 5 it starts in safe mode")
    assert Kept(tmp_path, CRASHES[:1], limits=Limits(0)).at(5).answer().alarm.endswith("safe mode is off")


def test_the_time_of_operation_is_noted_and_ends_safe_mode(tmp_path: Path) -> None:
    kept = Kept(tmp_path, CRASHES, safe=True)
    assert list(kept.at(0).faults()) == [Cause.SAFE_MODE]
    asyncio.run(kept.at(300).note())
    assert kept.written()["up"] == 300
    assert kept.resumed == 0
    asyncio.run(kept.at(HOUR).note())
    assert (kept.resumed, kept.mode.active, kept.mode.faults()) == (1, False, {})
    assert kept.written()["safe"] is False


def test_a_disk_that_takes_no_note_does_not_prolong_safe_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Kept(tmp_path, CRASHES, safe=True)

    def full() -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(kept.log, "note", full)
    asyncio.run(kept.at(5).clear())
    assert (kept.resumed, kept.mode.active) == (1, False)


def test_the_limits_come_from_the_configuration() -> None:
    config = Config(system=System(crash_limit=3, crash_window=Duration(600 * SECOND)))
    assert limits_of(config) == Limits(3, 600)
    assert limits_of(None) == limits_of(Config()) == Limits()


# -- in bypassd


def crashed(folder: Path, count: int) -> None:
    """A data partition after so many crashes, the last one just now, of which nothing is judged yet."""
    history = History("earlier", 10, tuple(CRASHES[: count - 1]), False, None)
    (folder / "var/lib/bypass").mkdir(parents=True)
    mark = {"boot": "earlier", "orderly": False, "history": pack(history)}
    (folder / "var/lib/bypass/last-run.json").write_text(json.dumps(mark))
    (folder / "pstore").mkdir()
    (folder / "pstore/dmesg-1").write_text(PANIC)


def test_in_safe_mode_console_and_access_run_and_nothing_else_until_the_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No datapath, no guest, relay in bypass, and that is reported; `crash-count clear` brings everything up."""
    crashed(tmp_path, 5)
    keeper = Keeper()
    made = make(tmp_path, keeper)
    system, started = made.system, asyncio.Event()
    monkeypatch.setattr(system.crash_log, "_pstore", tmp_path / "pstore")

    async def start() -> None:
        started.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(system.steering, "start", start)

    async def body() -> None:
        keeper.say()
        await until(lambda: system.segments.begun and system.part_states.get("access") == "running")
        assert not started.is_set()
        status = (await ask(system.paths.control_socket, "status.show"))["result"]
        (segment,) = status["segments"]
        assert (segment["cause"], segment["detail"].startswith("5 crashes")) == ("safe_mode", True)
        assert (status["crashes"]["mode"], status["crashes"]["count"]) == ("safe", 5)
        assert status["crashes"]["reasons"][-1] == "kernel panic: again"
        shown = banner(status)
        assert "SAFE MODE" in shown
        assert "crash-count clear" in shown
        assert keeper.heard()[-1]["relays"]["relay-inline"]["want"] == "bypass"
        entries = (await ask(system.paths.control_socket, "transitions.show"))["result"]
        assert [row["cause"] for row in entries if row["to"] == "safe mode"] == ["safe_mode"]
        done = (await ask(system.paths.control_socket, "crash-count.clear"))["result"]["message"]
        assert done.endswith("safe mode ends: the datapath and the guests are started")
        await until(started.is_set)
        assert system.faults("main")[Cause.STARTING] == "the datapath is not up yet"
        keeper.end.close()

    assert run(made, body) == 0
    again = make(tmp_path, Keeper())
    again.system.crash_log.collect()
    assert not again.system.safe_mode.active, "cleared for good"


def test_a_commit_in_safe_mode_starts_nothing(tmp_path: Path) -> None:
    """Not the first valid configuration either: whoever repairs it decides when to try again."""
    crashed(tmp_path, 5)
    made = make(tmp_path, Keeper(), None)
    made.system.crash_log._pstore = tmp_path / "pstore"
    made.system.crash_log.collect()
    asyncio.run(made._configured(CONFIG))
    assert made.system.config is CONFIG
    assert not made.runner._configured.is_set()


def test_the_fifth_crash_is_one_too_many_and_the_fourth_is_not(tmp_path: Path) -> None:
    for count in (4, 5):
        crashed(tmp_path / str(count), count)
        made = make(tmp_path / str(count), Keeper())
        made.system.crash_log._pstore = tmp_path / str(count) / "pstore"
        made.system.crash_log.collect()
        assert made.system.safe_mode.active == (count == 5)
        assert Cause.SAFE_MODE in made.system.faults("main") or count == 4


def test_a_disk_that_hangs_keeps_nothing_waiting_and_its_evidence_is_told_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crash records come first, within a time limit; what they say comes when they can be read."""
    crashed(tmp_path, 2)
    monkeypatch.setattr(supervisor, "EVIDENCE_S", 0.05)
    keeper = Keeper()
    made = make(tmp_path, keeper)
    system, answers = made.system, threading.Event()
    monkeypatch.setattr(system.crash_log, "_pstore", tmp_path / "pstore")
    collect = system.crash_log.collect

    def hang(limits: Limits) -> object:
        answers.wait(10)
        return collect(limits)

    monkeypatch.setattr(system.crash_log, "collect", hang)

    async def body() -> None:
        keeper.say()
        await until(lambda: system.segments.begun)
        assert system.crash_log.reset.text == "not determined yet"
        answers.set()
        await until(lambda: system.crash_log.report == 1)
        await until(lambda: any(entry.cause == "panic" for entry in system.transitions.entries(None)))
        (entry,) = [entry for entry in system.transitions.entries(None) if entry.cause == "panic"]
        assert entry.detail == "last reset: kernel panic: again (crash report 1)"
        (row,) = (await ask(system.paths.control_socket, "crash-log.show"))["result"]
        assert (row["number"], row["kind"], "text" in row) == (1, "panic", False)
        (row,) = (await ask(system.paths.control_socket, "crash-log.show", number=1))["result"]
        assert "Kernel panic - not syncing: again" in row["text"]
        error = (await ask(system.paths.control_socket, "crash-log.show", number=7))["error"]
        assert error["message"] == "there is no crash report 7; there is: 1"
        boots = (await ask(system.paths.control_socket, "boots.show"))["result"]
        assert (boots["count"], boots["by_kind"], boots["boots"][0]["report"]) == (1, {"panic": 1}, 1)
        shown = openmetrics.render(collect_metrics(system))
        assert 'throughwire_boots_total{kind="panic"} 1\n' in shown
        assert "throughwire_crash_report 1\n" in shown
        keeper.end.close()

    try:
        assert run(made, body) == 0
    finally:
        answers.set()
