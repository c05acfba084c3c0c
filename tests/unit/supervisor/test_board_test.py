# SPDX-License-Identifier: GPL-2.0-only
"""The test of a board, its buttons and its LEDs, on a keeper that does or does not do what it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.api.schema import machine
from appliance.config.schema.model import Config, Segment
from appliance.errors import HardwareError, RefusedError
from appliance.hardware.board import Button, parse
from appliance.hardware.watchdog import WatchdogDevice
from appliance.keeper.client import KeeperState, RelayState
from appliance.keeper.messages import CheckIn
from appliance.keeper.protocol import parse_packet
from appliance.paths import Paths
from appliance.supervisor import board_buttons, board_test, locate
from appliance.supervisor.board_buttons import BoardButtons
from appliance.supervisor.board_test import BoardTester
from appliance.supervisor.supervisor import Supervisor
from appliance.telemetry.subject import Notice
from tests.unit.supervisor.test_supervisor import BOARD, Keeper

MORE = """
[[led]]
name = "status"
line = "led-status"
[[led]]
name = "power"
line = "led-power"
[[button]]
name = "front"
line = "button"
"""


def make(tmp_path: Path, keeper: Keeper, board: str = BOARD + MORE) -> Supervisor:
    config = Config(segment=(Segment(name="main", lan="lan0", wan="wan0"),))
    return Supervisor(Paths(tmp_path), keeper.link, board=parse(board), board_error="", config=config, config_errors=[])


def rows(link: str = "up", driver: str = "igb") -> Callable[[], Any]:
    async def found() -> list[machine.Port]:
        return [
            machine.Port(name=name, role="data", device="eth", segment="", link=link, driver=driver)
            for name in ("lan0", "wan0")
        ]

    return found


def state(position: str) -> KeeperState:
    dog = WatchdogDevice("watchdog0", "a dog", 2000, 1000, True, "5000 ms requested, the device took 2000 ms")
    return KeeperState({"relay-inline": RelayState(position, "x", True)}, True, 2000, watchdogs=(dog,))


def obey(made: Supervisor, stuck: str = "") -> Callable[[], None]:
    """A keeper that moves its relays as soon as bypassd is woken; `stuck`: a position that it never reaches."""
    moved = made.system.keeper

    def woken() -> None:
        position = made.system.relay_orders.get("relay-inline", "bypass")
        made.moves.append(position)  # type: ignore[attr-defined]
        if position != stuck:
            moved.state = state(position)

    moved.state = state("bypass")
    made.moves = []  # type: ignore[attr-defined]
    return woken


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("REST_S", 0.0), ("BLINK_S", 0.01), ("MOVE_S", 0.05)):
        monkeypatch.setattr(board_test, name, value)
    monkeypatch.setattr(board_test, "caller", lambda: SimpleNamespace(uid=0))


def test_every_thing_of_a_board_is_tried(tmp_path: Path) -> None:
    keeper = Keeper()
    made = make(tmp_path, keeper)
    wake = obey(made)
    found = asyncio.run(BoardTester(made.system, wake, rows()).test({}))
    assert found.passed
    results = {item.what: item.result for item in found.items}
    assert results == {
        "watchdog watchdog0": "passed",
        "watchdog reset": "to do",
        "relay relay-inline: bypass": "passed",
        "relay relay-inline: inline": "passed",
        "LED status": "to do",
        "LED power": "to do",
        "button front": "to do",
        "port lan0": "passed",
        "port wan0": "passed",
        "relay relay-inline: facts": "not known",
        "port lan0: facts": "not known",
        "port wan0: facts": "not known",
    }
    moves = [move for move in made.moves if move != "bypass"]  # type: ignore[attr-defined]
    assert moves == ["inline"]
    assert made.system.relay_orders == {}
    assert not made.system.segments.units["main"].drill


def test_a_relay_that_does_not_move_fails_and_is_left_to_its_segment(tmp_path: Path) -> None:
    keeper = Keeper()
    made = make(tmp_path, keeper)
    found = asyncio.run(BoardTester(made.system, obey(made, stuck="inline"), rows()).test({}))
    assert not found.passed
    (failed,) = [item for item in found.items if item.result == "failed"]
    assert (failed.what, failed.detail) == ("relay relay-inline: inline", "in bypass after 0.05 s")
    assert made.system.relay_orders == {}


@pytest.mark.parametrize(
    ("board", "link", "result", "detail"),
    [
        ("", "down", "to do", "plug in a cable"),
        ('driver = "fec"\n', "up", "failed", "board.toml says fec"),
        ('driver = "igb"\n', "up", "passed", "eth, igb, link up"),
    ],
)
def test_a_port(tmp_path: Path, board: str, link: str, result: str, detail: str) -> None:
    keeper = Keeper()
    text = (BOARD + MORE).replace('name = "lan0"\n', f'name = "lan0"\n{board}')
    made = make(tmp_path, keeper, text)
    found = asyncio.run(BoardTester(made.system, obey(made), rows(link)).test({}))
    port = next(item for item in found.items if item.what == "port lan0")
    assert port.result == result
    assert detail in port.detail


def test_the_driver_of_a_platform_has_a_name_of_its_own() -> None:
    assert board_test._same_driver("stmmac", "imx-dwmac")
    assert board_test._same_driver("stmmac", "st_gmac")
    assert not board_test._same_driver("stmmac", "fec")


def test_it_is_refused_beside_a_drill(tmp_path: Path) -> None:
    made = make(tmp_path, Keeper())
    made.system.segments.drill("main", True)
    with pytest.raises(RefusedError, match="drill abort"):
        asyncio.run(BoardTester(made.system, obey(made), rows()).test({}))


def test_the_pulse_asks_for_what_the_test_wants(tmp_path: Path) -> None:
    """Instead of what the segment wants, and with its own cause."""
    keeper = Keeper()
    made = make(tmp_path, keeper)
    made.system.relay_orders["relay-inline"] = "inline"
    made.pulse.beat(1)
    (said,) = keeper.heard()
    assert said["relays"]["relay-inline"] == {"want": "inline", "cause": "board_test"}


# -- LEDs and buttons


def test_locating_is_told_to_the_keeper_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper()
    made = make(tmp_path, keeper)
    handler = locate.Locate(made.system)
    monkeypatch.setattr(locate, "time", SimpleNamespace(monotonic_ns=lambda: 0))
    asyncio.run(handler.set({"time": 5}))
    told = []
    for second in (1, 4, 6):
        made.pulse.beat(second * 1_000_000_000)
        (said,) = keeper.heard()
        packet = parse_packet(json.dumps(said).encode())
        assert isinstance(packet, CheckIn)
        told.append(packet.locate)
    assert told == [True, True, False]
    asyncio.run(handler.set({"time": 5}))
    asyncio.run(handler.set({"time": 0}))
    assert not made.system.locate_until


@pytest.mark.parametrize(
    ("board", "seconds", "said"),
    [(BOARD, 5, "no LED"), (BOARD + MORE, 86401, "must be"), (BOARD + MORE, -1, "must be")],
)
def test_locating_that_cannot_be_is_refused(tmp_path: Path, board: str, seconds: int, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        asyncio.run(locate.Locate(make(tmp_path, Keeper(), board).system).set({"time": seconds}))


def test_a_button_bypasses_every_segment_and_ends_that(tmp_path: Path) -> None:
    made = make(tmp_path, Keeper())
    woken = []
    buttons = BoardButtons(made.system, lambda: woken.append(1))
    unit = made.system.segments.units["main"]
    for mode in ("bypass", "auto", "bypass"):
        buttons.held("front")
        assert unit.asked == mode
    assert len(woken) == 3
    said = [event.text for event in made.system.events.newest() if "button front was held" in event.text]
    assert len(said) == 3
    assert Notice.BUTTON.cause is not None


def test_a_line_is_watched_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt fails, the second one sees it held; a controller that goes away ends no thread."""
    made = make(tmp_path, Keeper())
    buttons = BoardButtons(made.system, lambda: None)
    clock, opened, held = [0.0], [0], list[str]()

    class Line:
        def __init__(self, spec: object) -> None: ...

        def open(self) -> bool:
            opened[0] += 1
            if opened[0] == 1:
                raise HardwareError("busy")
            return False

        def driven(self) -> bool:
            clock[0] += 1
            if clock[0] > 9:
                buttons._ended.set()
                raise HardwareError("gone")
            return clock[0] > 1

        def close(self) -> None: ...

    monkeypatch.setattr(board_buttons, "InputLine", Line)
    monkeypatch.setattr(board_buttons, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    for name in ("RETRY_S", "LOOK_S"):
        monkeypatch.setattr(board_buttons, name, 0.001)
    buttons._watch(Button(name="front", line="button"), held.append)
    assert held == ["front"]
    assert opened[0] == 2
