# SPDX-License-Identifier: GPL-2.0-only
"""A hop that flaps is held down although bypassd restarts between its falls."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from appliance.health.detector import Detector, Good, Limits, Tick
from appliance.health.verdict import Verdict, hold_down
from appliance.hop.fall_history import FILE, PersistentHistory
from appliance.hop.hop import Hop

MS = 1_000_000
LIMITS = Limits(interval=20 * MS, misses=2, rises=2)


class Nobody:
    """Takes everything."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def a_hop(folder: Path, now: int) -> Hop:
    """A hop under a bypassd that has just started."""
    nobody = cast(Any, Nobody())
    return Hop("guest", "ips1", folder, leases=nobody, owner=nobody, now=now)


def test_each_fall_holds_longer_although_bypassd_restarts_after_each(tmp_path: Path) -> None:
    """As without restarts: the first fall costs nothing extra, then a second, doubling."""
    waits, now = [], 0
    for _ in range(5):
        hop = a_hop(tmp_path, now)
        hop.begin(wanted=True)
        hop.running("")
        verdict = Verdict([Detector("probe", LIMITS)], hop.history)
        began = now
        while not verdict.available:
            now += 20 * MS
            for decision in verdict.step(now, "probe", Good(now)):
                hop.on_decision(now, decision)
        waits.append(now - began)
        now += 100 * MS
        for decision in verdict.step(now, "probe", Tick()):
            hop.on_decision(now, decision)
    assert waits[0] == waits[1] < hold_down(2)
    assert [wait // hold_down(2) for wait in waits[2:]] == [1, 2, 4]
    shown = PersistentHistory.load(tmp_path, now)
    assert (len(shown.falls), shown.count) == (5, len(shown.flips))


def test_a_hop_begins_with_the_falls_of_the_bypassd_before(tmp_path: Path) -> None:
    earlier = PersistentHistory.load(tmp_path, 0)
    earlier.falls.extend([10, 20])
    earlier.count = 2
    earlier.save()
    assert a_hop(tmp_path, 30).history.recent_falls(30) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"falls": ["x"], "flips": [], "count": 1}', "\xff"])
def test_what_cannot_be_read_is_no_fall(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text, encoding="latin-1")
    assert PersistentHistory.load(tmp_path, 0).falls == PersistentHistory(folder=tmp_path).falls


def test_times_of_another_boot_are_left_out(tmp_path: Path) -> None:
    """Where the folder outlives a reboot after all: nothing can have happened later than now."""
    old = PersistentHistory(folder=tmp_path)
    old.falls.extend([5, 10**12])
    old.count = 1
    old.save()
    assert list(PersistentHistory.load(tmp_path, 100).falls) == [5]


def test_a_folder_that_cannot_be_written_costs_the_memory_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    history = PersistentHistory(folder=tmp_path / "file")
    history.count = 1
    history.save()
    assert "the falls will not survive a restart of bypassd" in caplog.text
