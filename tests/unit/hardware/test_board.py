# SPDX-License-Identifier: GPL-2.0-only
"""board.toml: the reference board is valid, and an error is one line that names file and position."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import HardwareError
from appliance.hardware import board
from appliance.keeper.board import Board

ROOT = Path(__file__).parents[3]
GOOD = """
name = "x"
[[port]]
name = "lan0"
pci = "0000:00:10.0"
[[port]]
name = "wan0"
mac = "02:00:00:00:00:01"
[[relay]]
ports = ["lan0", "wan0"]
line = "r"
"""


@pytest.mark.parametrize("path", sorted(ROOT.glob("board/*/board.toml")), ids=lambda path: path.parent.name)
def test_every_board_of_the_tree_is_good_for_both_readers(path: Path) -> None:
    made = board.load(path)
    small = Board(str(path))
    assert not small.error
    assert [relay.name for relay in small.relays] == [relay.line for relay in made.relay]
    assert (small.watchdog is not None) == (made.watchdog is not None)


def test_finding() -> None:
    made = board.parse(GOOD)
    relay = made.find_relay("wan0", "lan0")
    assert relay is not None
    assert relay.settle == 0
    assert made.find_relay("lan0", "lan0") is None
    assert made.find_port("lan0") is made.port[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('pci = "0000:00:10.0"', "", "port lan0: set exactly one"),
        ('pci = "0000:00:10.0"', 'pci = "10.0"', "pci"),
        ('mac = "02:00:00:00:00:01"', 'mac = "x"', "mac"),
        ('"wan0"\nmac', '"lan0"\nmac', "used twice"),
        ('["lan0", "wan0"]', '["lan0", "wan9"]', "no port wan9"),
        ('["lan0", "wan0"]', '["lan0", "lan0"]', "two different ports"),
        ('["lan0", "wan0"]', '["lan0"]', "relay"),
        ('line = "r"', 'line = "r"\nsettle = "soon"', "soon"),
        ('line = "r"', 'line = "r"\ncolour = "red"', "relay 1: colour: no such key; there are: ports, kind"),
        ('line = "r"', 'line = "r"\nactive = "up"', "relay 1: active: must be high or low, not 'up'"),
        ('line = "r"', "line = 7", "relay 1: line: must be text"),
        ('line = "r"', "", "relay 1: line is missing"),
        ('line = "r"', 'line = "r"\nkind = "level"\noptions = "x"', "relay 1: options: no such key"),
        ('name = "x"', "", "name"),
        ('name = "x"', 'name = "x', "line 2"),
    ],
)
def test_what_is_wrong(old: str, new: str, said: str) -> None:
    with pytest.raises(HardwareError, match=said) as caught:
        board.parse(GOOD.replace(old, new), "board.toml")
    assert str(caught.value).startswith("board.toml: ")
    assert "\n" not in str(caught.value)


def test_a_relay_of_a_kind_that_is_not_known_is_read_and_left_to_the_keeper(tmp_path: Path) -> None:
    """Both readers give it the same name, and neither refuses the rest of the board for it."""
    text = GOOD.replace('line = "r"', 'kind = "telepathic"\nbus = 7')
    (relay,) = board.parse(text).relay
    (tmp_path / "board.toml").write_text(text)
    small = Board(str(tmp_path / "board.toml"))
    assert small.error == ""
    assert relay.line == small.relays[0].name == "lan0-wan0"
    assert not relay.disconnect


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match="No such file"):
        board.load(tmp_path / "board.toml")
