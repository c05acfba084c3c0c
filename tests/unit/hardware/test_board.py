# SPDX-License-Identifier: GPL-2.0-only
"""board.toml: the reference board is valid, and an error is one line that names file and position."""

from __future__ import annotations

import re
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
    assert bool(small.watchdogs) == (made.watchdog is not None)


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


def test_everything_that_is_wrong_is_said_at_once_with_its_line() -> None:
    text = GOOD.replace('name = "lan0"', 'nmae = "lan0"').replace('line = "r"', 'line = 7\nsettle = "soon"')
    text += '[watchdog]\npretimeout = "9h"\n[[led]]\nname = "status"\n'
    with pytest.raises(HardwareError) as caught:
        board.parse(text)
    said = str(caught.value)
    for part in (
        'port 1: nmae: no such key; did you mean "name"? (line 4)',
        "port 1: name is missing: the port's name (line 3)",
        "relay 1: line: must be text, not 7 (line 11)",
        "relay 1: settle: ",
        "watchdog: pretimeout: must be 1000 to 60000 ms, not 3.24e+07 (line 14)",
        "led status: line is missing: its GPIO line (line 15)",
    ):
        assert part in said, said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('[[led]]\nname = "status"\nline = "r"\n', "led status: line: line r is used twice, also by relay 1"),
        ('[[button]]\nname = "bypass"\nline = "r"\n', "button bypass: line: line r is used twice"),
        ('[[port]]\nname = "x"\ndevice = "30be0000.ethernet"\nmac = "02:00:00:00:00:07"\n', "has mac and device"),
        ('[watchdog]\nalso = "gpio_wdt"\n', "watchdog: also: must be a list of texts"),
        ("led = 3\n", "led: must be a list of tables: [[led]]"),
        ("watchdog = 3\n", "watchdog: must be a table"),
        ("colour = 3\n", "colour: no such key"),
    ],
)
def test_what_is_wrong_elsewhere(more: str, said: str) -> None:
    text = GOOD + more if more.startswith("[") else more + GOOD
    with pytest.raises(HardwareError, match=re.escape(said)):
        board.parse(text)


def test_a_port_of_a_platform_device() -> None:
    text = GOOD.replace(
        'mac = "02:00:00:00:00:01"', 'device = "30be0000.ethernet"\ndriver = "fec"\non_attach = "closes"'
    )
    port = board.parse(text).find_port("wan0")
    assert port is not None
    assert (port.device, port.driver, port.on_attach) == ("30be0000.ethernet", "fec", "closes")


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
