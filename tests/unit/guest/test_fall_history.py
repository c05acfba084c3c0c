# SPDX-License-Identifier: GPL-2.0-only
"""A guest that flaps is held down although bypassd restarts between its falls."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from appliance.config.schema import model
from appliance.guest.console import Console
from appliance.guest.fall_history import FILE, KeptHistory
from appliance.guest.guest import Guest
from appliance.guest.run import Run, Setting
from appliance.health.detector import Detector, Good, Limits, Tick
from appliance.health.verdict import Decision, Verdict, hold_down
from appliance.paths import Paths

MS = 1_000_000
LIMITS = Limits(interval=20 * MS, misses=2, rises=2)


class Listener:
    """Takes the decisions, as a guest does."""

    def __init__(self) -> None:
        self.said: list[Decision] = []

    def on_decision(self, decision: Decision) -> None:
        self.said.append(decision)


def a_run(paths: Paths, now: int) -> Run:
    """A run of a guest under a bypassd that has just started."""
    nobody = cast(Any, None)
    setting = Setting(paths, 1, (), 0, nobody, nobody, clock=lambda: now)
    history = KeptHistory.load(paths.guests / "ips1", now)
    console = Console("ips1", paths.guests / "ips1")
    return Run(model.Guest(name="ips1", image="a"), setting, history, cast(Any, Listener()), console)


def test_each_fall_holds_longer_although_bypassd_restarts_after_each(tmp_path: Path) -> None:
    """As without restarts: the first fall costs nothing extra, then a second, doubling."""
    paths, waits, now = Paths(tmp_path), [], 0
    for _ in range(5):
        run = a_run(paths, now)
        verdict = run.watch.verdict = Verdict([Detector("probe", LIMITS)], run.watch.verdict.history)
        began = now
        while not verdict.available:
            now += 20 * MS
            for decision in verdict.step(now, "probe", Good(now)):
                run.on_decision(decision)
        waits.append(now - began)
        now += 100 * MS
        for decision in verdict.step(now, "probe", Tick()):
            run.on_decision(decision)
    assert waits[0] == waits[1] < hold_down(2)
    assert [wait // hold_down(2) for wait in waits[2:]] == [1, 2, 4]
    shown = KeptHistory.load(paths.guests / "ips1", now)
    assert (len(shown.falls), shown.count) == (5, len(shown.flips))


def test_a_guest_begins_with_the_falls_of_the_bypassd_before(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    earlier = KeptHistory.load(paths.guests / "ips1", 0)
    earlier.falls.extend([10, 20])
    earlier.count = 2
    earlier.save()

    class Nobody:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: None

    nobody = cast(Any, Nobody())
    setting = Setting(paths, 1, (), 0, nobody, nobody, clock=lambda: 30)
    guest = Guest(model.Guest(name="ips1", image="a"), setting, nobody, nobody, order=nobody, aftermath=nobody)
    assert guest.history.recent_falls(30) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"falls": ["x"], "flips": [], "count": 1}', "\xff"])
def test_what_cannot_be_read_is_no_fall(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    assert KeptHistory.load(tmp_path, 0).falls == KeptHistory(folder=tmp_path).falls


def test_times_of_another_boot_are_left_out(tmp_path: Path) -> None:
    """Where the folder outlives a reboot after all: nothing can have happened later than now."""
    old = KeptHistory(folder=tmp_path)
    old.falls.extend([5, 10**12])
    old.count = 1
    old.save()
    assert list(KeptHistory.load(tmp_path, 100).falls) == [5]


def test_a_folder_that_cannot_be_written_costs_the_memory_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    history = KeptHistory(folder=tmp_path / "file")
    history.count = 1
    history.save()
    assert "its falls are not kept for a restart of bypassd" in caplog.text
