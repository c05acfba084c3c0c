# SPDX-License-Identifier: GPL-2.0-only
"""`show snmp` as typed and shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.views import render
from console.views.state import banner
from tests.support.machine_daemon import MachineDaemon
from tests.support.terminal import Terminal, bypass


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[MachineDaemon]:
    made = MachineDaemon(tmp_path / "control.sock")
    with made:
        yield made


def test_users_receivers_and_what_was_sent(daemon: MachineDaemon) -> None:
    shown = bypass("show", "snmp", sock=daemon.path).stdout
    assert "SNMPv3, read only, UDP port 161: listening" in shown
    assert "engine 80001f880576e10ba11f0c2ad5, started 66 times" in shown
    assert re.search(r"signs +notify +sha-512 +aes-128 +0", shown)
    assert "[2001:db8::162]:162" in shown
    assert "notifications sent: entStateOperDisabled 2, linkDown 1" in shown
    assert "waiting: 0; lost: 1" in shown
    assert "entStateOperDisabled, segment main" in shown
    assert json.loads(bypass("sh", "snmp", "--json", sock=daemon.path).stdout)["boots"] == 66


def test_off_and_failed_say_what_to_do() -> None:
    assert render("snmp", {"state": "off", "detail": "`set snmp enabled true`"}) == (
        "SNMP is off: `set snmp enabled true`"
    )
    shown = render("snmp", {"state": "failed", "detail": "snmpd: no such file", "port": 161})
    assert "SNMP" in shown.splitlines()[0]
    assert "snmpd: no such file" in shown.splitlines()[0]
    assert render("snmp", [1]) == "1"
    assert "started once" in render("snmp", {"state": "listening", "boots": 1})


@pytest.mark.parametrize(("term", "columns"), [("xterm", 80), ("dumb", 60)])
def test_on_a_terminal_it_fits(daemon: MachineDaemon, term: str, columns: int) -> None:
    person = Terminal(daemon.path, term, (24, columns))
    person.until("inline]>")
    person.type("show snmp\r")
    shown = person.until("last: ")
    shown += person.until("inline]>")
    bare = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "")
    assert all(len(line.rstrip()) <= columns for line in bare.splitlines())
    person.close()


def test_the_top_of_the_status_says_that_it_fails() -> None:
    status = {"hostname": "wire1", "version": "1", "segments": [{"name": "main", "relay": "inline"}]}
    assert "SNMP" not in banner(status)
    shown = banner({**status, "snmp_failure": "Error opening specified endpoint"})
    assert "*** SNMP *** Error opening specified endpoint" in shown


def test_show_management_names_its_state() -> None:
    row = {"state": "failed", "detail": "snmpd: No such file or directory", "port": 161}
    shown = render("management", {"port": "mgmt0", "snmp": row})
    assert "snmp" in shown
    assert "snmpd: No such file or directory" in shown
