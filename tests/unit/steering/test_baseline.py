# SPDX-License-Identifier: GPL-2.0-only
"""Counters since they were cleared: nothing is lost, what began anew is shown as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from appliance.api.schema import state
from appliance.steering.baseline import Baseline, since


def counters(frames: int, lost: int = 0, *rules: str) -> state.Counters:
    device = state.DeviceCounters(frames, frames * 64, lost, {"straight": state.Outcome(frames, frames * 64)}, {}, {})
    rows = {name: state.RuleCounters(frames, frames * 64, 0, frames, 0, 0) for name in rules}
    return state.Counters({"main/lan": device}, {}, rows, device)


def rule(name: str, frames: int) -> state.Rule:
    return state.Rule(name, "all", "ip", [], [], "bypass", "any", "auto", "", frames, frames * 64, 0, frames, 0, 0)


def test_numbers_without_those_of_then() -> None:
    now: dict[str, Any] = {"a": 5, "b": {"c": 7}, "new": 3, "name": "x", "flag": True, "none": None}
    assert since(now, {"a": 2, "b": {"c": 9}, "gone": 1, "name": "y", "flag": True}) == {**now, "a": 3}
    assert since(now, None) == now


def test_what_came_since(tmp_path: Path) -> None:
    baseline = Baseline(tmp_path / "cleared.json")
    assert baseline.counters(counters(10)) == counters(10)
    baseline.set(counters(10, 1, "web"))
    found = baseline.counters(counters(25, 1, "web", "dns"))
    assert found.cleared
    assert (found.ports["main/lan"].frames, found.ports["main/lan"].dropped_frames) == (15, 0)
    assert (found.ports["main/lan"].outcomes["straight"].bytes, found.unknown.frames) == (15 * 64, 15)
    assert (found.rules["web"].frames, found.rules["dns"].frames) == (15, 25)
    shown = baseline.rules(state.Rules([rule("web", 25), rule("dns", 4)], []))
    assert [row.frames for row in shown.rules] == [15, 4]
    assert shown.cleared == found.cleared
    assert baseline.counters(counters(3)).ports["main/lan"].frames == 3, "the datapath was loaded anew"


def test_the_next_bypassd_of_this_boot_knows_it(tmp_path: Path) -> None:
    Baseline(tmp_path / "cleared.json").set(counters(10))
    later = Baseline(tmp_path / "cleared.json")
    later.read()
    assert later.counters(counters(12)).ports["main/lan"].frames == 2
    for text in ("", "{}", '{"when": "x", "counters": {"ports": 1}}'):
        (tmp_path / "cleared.json").write_text(text)
        damaged = Baseline(tmp_path / "cleared.json")
        damaged.read()
        assert damaged.counters(counters(12)) == counters(12)


def test_a_full_disk_costs_the_next_bypassd_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    baseline = Baseline(tmp_path / "file" / "cleared.json")
    baseline.set(counters(10))
    assert baseline.counters(counters(12)).ports["main/lan"].frames == 2
