# SPDX-License-Identifier: GPL-2.0-only
"""What `show relays`, `show status` and the metrics say about relays and watchdogs: from board.toml to the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.drill.record import Result
from appliance.hardware.watchdog import WatchdogDevice
from appliance.keeper.client import parse_state
from appliance.keeper.core import KeeperCore
from appliance.keeper.messages import Started, WatchdogReport
from appliance.supervisor import status
from appliance.supervisor.metrics import collect
from appliance.telemetry.openmetrics import render
from console.views import relays, state
from tests.unit.supervisor.test_board_test import make
from tests.unit.supervisor.test_supervisor import BOARD, Keeper

FACTS = 'power_up = "bypass"\nunpowered = "claimed"\non_watchdog = "bypass"\nsettle = "20ms"\n'
DOG = WatchdogDevice("watchdog0", "a dog", 6400, 1000, True, "5000 ms requested, the device took 6400 ms")


def board(facts: str) -> str:
    return BOARD.replace('line = "relay-inline"\n', f'line = "relay-inline"\n{facts}')


def shown(value: Any) -> Any:
    return msgspec.to_builtins(value)


def test_facts_that_are_known_and_those_that_are_not(tmp_path: Path) -> None:
    keeper = Keeper()
    made = make(tmp_path, keeper, board(FACTS))
    keeper.say(watchdog_ms=6000)
    made.system.keeper.receive()
    (row,) = status.relays(made.system)
    assert (row.name, row.segment, row.ports, row.relay) == ("relay-inline", "main", ["lan0", "wan0"], "bypass")
    assert (row.power_up, row.unpowered, row.on_watchdog, row.released) == ("bypass", "claimed", "bypass", "unknown")
    assert row.hang_ms == 6020
    bare = make(tmp_path / "bare", Keeper())
    (row,) = status.relays(bare.system)
    assert (row.power_up, row.unpowered, row.on_watchdog, row.hang_ms) == (None, None, None, None)
    assert row.detail == "the keeper does not report it"


@pytest.mark.parametrize(("passed", "word"), [(True, "proven"), (False, "no")])
def test_a_power_off_drill_has_the_last_word(tmp_path: Path, passed: bool, word: str) -> None:
    made = make(tmp_path, Keeper(), board(FACTS))
    made.drills.record.results = (Result("power", "", 1777800000.0, "admin", passed, "so"),)
    (row,) = status.relays(made.system)
    assert row.unpowered == word
    assert "2026-05-03" in row.unpowered_detail


def test_the_terminal_and_the_metrics_have_them(tmp_path: Path) -> None:
    keeper = Keeper()
    made = make(tmp_path, keeper, board(FACTS))
    keeper.say(watchdog_ms=6000)
    made.system.keeper.receive()
    rows = shown(status.relays(made.system))
    text = relays.table_of_all(rows)
    assert "6020 ms" in text
    assert "relay-inline: joined without power: claimed (by the board's maker: `drill run power` proves it)" in text
    page = state.status(shown(status.status(made.system, 0)))
    assert "relay relay-inline: link dead if the computer hangs: 6020 ms; joined without power: claimed" in page
    metrics = render(collect(made.system))
    assert 'relay_hang_gap_seconds{relay="relay-inline"} 6.02' in metrics
    assert 'unpowered="claimed"' in metrics


def test_what_is_not_known_is_said(tmp_path: Path) -> None:
    rows = shown(status.relays(make(tmp_path, Keeper()).system))
    text = relays.table_of_all(rows)
    assert "no limit known" in text
    assert text.count("not known") >= 4


def test_each_watchdog_is_shown_as_it_is() -> None:
    """From the device through the keeper's state to the answer."""
    core = KeeperCore()
    core.step(1, Started((), True))
    core.step(2, WatchdogReport(timeout_ms=6400, devices=(DOG,)))

    known = parse_state(json.dumps(core.state()).encode())
    assert known.watchdogs == (DOG,)
    assert known.watchdog_ms == 6400


def test_the_answer_has_each_watchdog(tmp_path: Path) -> None:

    core = KeeperCore()
    core.step(1, Started((), True))
    core.step(2, WatchdogReport(timeout_ms=6400, devices=(DOG,)))
    made = make(tmp_path, Keeper())
    made.system.keeper.state = parse_state(json.dumps(core.state()).encode())
    (device,) = shown(status.watchdog(made.system))["devices"]
    assert device == {
        "name": "watchdog0",
        "identity": "a dog",
        "timeout_ms": 6400,
        "pretimeout_ms": 1000,
        "nowayout": True,
        "note": "5000 ms requested, the device took 6400 ms",
    }
    page = state.status(shown(status.status(made.system, 0)))
    said = "watchdog watchdog0 (a dog): 6400 ms, the kernel panics 1000 ms before, cannot be stopped; 5000 ms requested"
    assert said in page
