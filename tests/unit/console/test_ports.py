# SPDX-License-Identifier: GPL-2.0-only
"""`show ports` and `show port` as typed and shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.views import ports, render
from tests.support.machine_daemon import MachineDaemon
from tests.support.terminal import Terminal, bypass

TABLE = """\
PORT   USE         LINK     SPEED      ERRORS RX/TX  DROPPED RX/TX   MTU  DRIVER  MAC                DETAIL
lan0   main/lan    up       2.5G full  3/0           0/7            3480  igc     02:fc:00:00:00:01  -
wan0   main/wan    missing  -          -             -                 -  -       -                  not found
mgmt0  management  down     -          0/0           0/0            1500  igb     02:fc:00:00:00:03  -
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[MachineDaemon]:
    made = MachineDaemon(tmp_path / "control.sock")
    with made:
        yield made


def test_ports_are_shown(daemon: MachineDaemon) -> None:
    assert bypass("show", "ports", sock=daemon.path).stdout == TABLE
    one = bypass("show", "port", "lan0", sock=daemon.path).stdout
    for line in ("port        lan0 (enp2s0)", "rx crc errors  2", "Laser rx power low warning  On", "rx_packets  12"):
        assert line in one
    assert "tx_timeout" not in one, "a counter that is 0 says nothing"
    assert json.loads(bypass("show", "port", "lan0", "--json", sock=daemon.path).stdout)["counters"]["tx_timeout"] == 0
    assert "mgmt0  down" in bypass("show", "port", "?", sock=daemon.path).stdout


def test_speeds() -> None:
    assert [ports.speed(mbps) for mbps in (10, 1000, 2500, 100000, None, -1)] == ["10M", "1G", "2.5G", "100G", "-", "-"]
    assert render("ports", []) == "the board has no ports"
    assert render("port", "x") == "x"


def test_on_a_terminal_it_fits(daemon: MachineDaemon) -> None:
    person = Terminal(daemon.path, "dumb", (24, 80))
    person.until("inline]>")
    person.type("show po\t lan0\r")
    assert "2.5G full" in person.until("inline]>")
    person.type("show ports\r")
    shown = person.until("inline]>")
    assert all(len(line.rstrip()) <= 80 for line in shown.splitlines())
    assert "mac 02:fc:00:00:00:03" in re.sub(r"\s+", " ", shown)
    person.close()
