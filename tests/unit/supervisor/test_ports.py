# SPDX-License-Identifier: GPL-2.0-only
"""`show ports`: every port of the board has a row, also one that is missing or whose driver does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import structs

from appliance.errors import NotFoundError, UnreachableError
from appliance.hardware.board import Port as BoardPort
from appliance.hardware.links import Port
from appliance.supervisor.ports import Ports
from appliance.supervisor.system import System
from tests.unit.supervisor.test_supervisor import Keeper, make
from tests.unit.system.test_ethtool import COPPER, DRIVER, LINK, RINGS, SFP, STATISTICS

SAID = {"-i": DRIVER, "-g": RINGS, "-S": STATISTICS, "-m": SFP}


def system(folder: Path) -> System:
    made = make(folder, Keeper()).system
    made.links.ports["lan0"] = Port("lan0", "enp2s0", 4, "02:fc:00:00:00:01")
    made.links.missing["wan0"] = "wan0 was not found"
    return made


async def answers(words: Sequence[str], timeout: float) -> tuple[int, str]:
    if words[0] == "ip":
        return 0, LINK
    return 0, SAID.get(words[1], COPPER)


def test_each_port_has_a_row(tmp_path: Path) -> None:
    lan, wan = asyncio.run(Ports(system(tmp_path), answers).show({}))
    assert (lan.name, lan.device, lan.segment, lan.link, lan.speed_mbps) == ("lan0", "enp2s0", "main/lan", "up", 2500)
    assert (lan.driver, lan.rx_errors, lan.tx_dropped, lan.mtu) == ("igc", 3, 7, 3480)
    assert (wan.link, wan.detail) == ("missing", "wan0 was not found")


def test_one_port_with_all_that_its_driver_says(tmp_path: Path) -> None:
    shown = asyncio.run(Ports(system(tmp_path), answers).one({"name": "lan0"}))
    assert (shown.rings, shown.firmware, shown.counters["rx_packets"]) == ({"rx": "256 of 4096"}, "1057:8754", 12)
    assert shown.module["Laser rx power low warning"] == "On"
    assert shown.errors["rx crc errors"] == 2
    assert asyncio.run(Ports(system(tmp_path), answers).one({"name": "wan0"})).counters == {}
    with pytest.raises(NotFoundError, match="lan0, wan0"):
        asyncio.run(Ports(system(tmp_path), answers).one({"name": "wan9"}))


def test_a_driver_that_does_not_answer_costs_its_own_row(tmp_path: Path) -> None:
    async def hangs(words: Sequence[str], timeout: float) -> tuple[int, str]:
        raise UnreachableError(f"{words[0]} did not end within {timeout:g} s")

    lan, _ = asyncio.run(Ports(system(tmp_path), hangs).show({}))
    assert (lan.link, lan.detail) == ("missing", "ip did not end within 3 s")

    async def half(words: Sequence[str], timeout: float) -> tuple[int, str]:
        return await (answers if words[0] == "ip" else hangs)(words, timeout)

    lan, _ = asyncio.run(Ports(system(tmp_path), half).show({}))
    assert (lan.link, lan.speed_mbps, lan.driver) == ("up", None, "")


def test_a_management_port_that_is_not_used_is_there(tmp_path: Path) -> None:
    """It stands where the data ports are, by its own name, and is not missing."""
    found = system(tmp_path)
    assert found.board is not None
    found.board = structs.replace(found.board, port=(BoardPort("mgmt0", role="management"),))
    asked: list[Sequence[str]] = []

    async def only_there(words: Sequence[str], timeout: float) -> tuple[int, str]:
        asked.append(words)
        return await answers(words, timeout)

    (row,) = asyncio.run(Ports(found, only_there).show({}))
    assert (row.device, row.link, row.detail) == ("mgmt0", "up", "not in use: it has no address")
    assert list(asked[0][-2:]) == ["dev", "mgmt0"]
    assert asyncio.run(Ports(found, only_there).one({"name": "mgmt0"})).port.device == "mgmt0"


def test_one_port_that_is_nowhere_or_does_not_answer(tmp_path: Path) -> None:
    async def hangs(words: Sequence[str], timeout: float) -> tuple[int, str]:
        raise UnreachableError(f"{words[0]} did not end within {timeout:g} s")

    assert asyncio.run(Ports(system(tmp_path), answers).one({"name": "wan0"})).port.detail == "wan0 was not found"
    assert asyncio.run(Ports(system(tmp_path), hangs).one({"name": "lan0"})).port.detail.startswith("ip did not end")
