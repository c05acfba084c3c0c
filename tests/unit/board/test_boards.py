# SPDX-License-Identifier: GPL-2.0-only
"""Every board of the tree: its kernel has what its description needs, and what is not known is not invented."""

from __future__ import annotations

from pathlib import Path

import boardspec
import pytest
from boardspec import REPO
from imagebuild import fragments
from imagecheck import drivers

from appliance.hardware import board

BOARDS = sorted(path.parent.name for path in (REPO / "board").glob("*/board.toml"))
REAL = ("lanner-gen3", "nxp-imx8mp-evk", "technexion-tek-imx8mp", "x86-superio")


def described(name: str) -> board.Board:
    return board.load(REPO / "board" / name / "board.toml")


@pytest.mark.parametrize("name", BOARDS)
def test_the_kernel_has_the_drivers_that_the_board_needs(name: str) -> None:
    """Those of its ports, watchdogs, lines and buses, all built in."""
    asked = fragments.settings(path.read_text() for path in boardspec.load(name).fragments)
    missing = {option: why for option, why in drivers.needed(described(name)).items() if asked.get(option) != "y"}
    assert missing == {}


def test_a_driver_that_the_fragments_lack_is_named() -> None:
    """Without the fragment that these boards share, each of their drivers is missing."""
    spec = boardspec.load("nxp-imx8mp-evk")
    asked = fragments.settings(path.read_text() for path in spec.fragments if path.stem != "imx8mp")
    missing = {option for option in drivers.needed(described("nxp-imx8mp-evk")) if asked.get(option) != "y"}
    assert missing == {"CONFIG_FEC", "CONFIG_STMMAC_ETH", "CONFIG_STMMAC_PLATFORM", "CONFIG_IMX2_WDT"}


@pytest.mark.parametrize("name", BOARDS)
def test_a_driver_that_closes_the_port_is_named_by_the_board(name: str) -> None:
    for port in described(name).port:
        assert (port.on_attach == "closes") == (port.driver in drivers.CLOSES), port.name


@pytest.mark.parametrize("name", REAL)
def test_a_real_board_says_how_its_relay_is_driven(name: str) -> None:
    made = described(name)
    assert made.name == name
    assert made.watchdog is not None
    assert len(made.relay) == 1


@pytest.mark.parametrize("name", REAL)
def test_nothing_is_claimed_of_a_board_that_nobody_has_tried(name: str) -> None:
    """What the public sources do not say is left out: times of the relay, what it does without power or on a reset."""
    (relay,) = described(name).relay
    assert (relay.power_up, relay.unpowered, relay.on_watchdog, relay.unpowered_proven) == ("", "", "", None)
    assert relay.settle == 0
    assert "keep_alive_timeout" not in relay.options


@pytest.mark.parametrize("name", [name for name in BOARDS if name not in ("qemu-x86_64", "x86_64")])
def test_every_board_is_in_the_readme(name: str) -> None:
    assert f"| `{name}` |" in Path(REPO / "board/README.md").read_text()
