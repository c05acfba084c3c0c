# SPDX-License-Identifier: GPL-2.0-only
"""`show lldp` as typed and shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.views import render
from tests.support.machine_daemon import MachineDaemon
from tests.support.terminal import Terminal, bypass


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[MachineDaemon]:
    made = MachineDaemon(tmp_path / "control.sock")
    with made:
        yield made


def test_the_neighbour_is_shown_without_its_control_characters(daemon: MachineDaemon) -> None:
    shown = bypass("show", "lldp", sock=daemon.path).stdout
    assert "access-7" in shown
    assert "\x1b" not in shown
    assert "OS 15.2" in shown
    found = json.loads(bypass("sh", "lld", "--json", sock=daemon.path).stdout)
    assert found["neighbours"][0]["port"] == "Gi1/0/12"


def test_what_is_off_says_how_to_switch_it_on() -> None:
    assert render("lldp", {"state": "off", "detail": "`set management lldp on`", "neighbours": []}) == (
        "LLDP on the management port: off: `set management lldp on`"
    )
    listening = render("lldp", {"state": "receive", "port": "mgmt0", "neighbours": []})
    assert listening.splitlines()[0] == "LLDP on mgmt0: only receives"
    assert "no neighbour yet" in listening
    assert render("lldp", [1]) == "1"


@pytest.mark.parametrize(("term", "columns"), [("xterm", 80), ("dumb", 60)])
def test_on_a_terminal_it_fits(daemon: MachineDaemon, term: str, columns: int) -> None:
    person = Terminal(daemon.path, term, (24, columns))
    person.until("inline]>")
    person.type("show lldp\r")
    shown = person.until("15.2")
    assert "access-7" in shown
    bare = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "")
    assert all(len(line.rstrip()) <= columns for line in bare.splitlines())
    person.close()
