# SPDX-License-Identifier: GPL-2.0-only
"""`show clock` and `clock set` as typed and shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.views import render
from tests.support.machine_daemon import MachineDaemon
from tests.support.terminal import Terminal, bypass

SHOWN = """\
2026-11-29 14:30:00 +01:00 (Europe/Berlin)
2026-11-29 13:30:00 UTC
NTP: synchronized: 120 us behind 192.0.2.123, stratum 3, at most 6.1 ms off
time servers: from DHCP
hardware clock: 2026-11-29 13:29:58 UTC, 2.0 s behind

TIME SERVER    STATE      STRATUM  CLOCK         LAST ANSWER  ANSWERS
192.0.2.123    used             2  210 us ahead  34 s ago     8 of 8
2001:db8::123  no answer        -  -             -            0 of 8
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[MachineDaemon]:
    made = MachineDaemon(tmp_path / "control.sock")
    with made:
        yield made


def test_the_clock_is_shown_and_set(daemon: MachineDaemon) -> None:
    assert bypass("show", "clock", sock=daemon.path).stdout == SHOWN
    assert json.loads(bypass("sh", "clo", "--json", sock=daemon.path).stdout)["offset_s"] == -0.00012
    done = bypass("clock", "set", "2026-12-24", "03:30", sock=daemon.path)
    assert (done.returncode, done.stdout) == (0, "clock set\n")
    assert daemon.calls == [("clock.set", {"when": "2026-12-24 03:30"})]


def test_a_clock_that_nothing_keeps() -> None:
    data = {"now": "2026-11-29T13:30:00.125+00:00", "zone": "UTC", "state": "off", "detail": "no time server is known"}
    assert render("clock", data).splitlines() == [
        "2026-11-29 13:30:00 +00:00 (UTC)",
        "NTP: off: no time server is known",
    ]
    assert render("clock", [1]) == "1"


@pytest.mark.parametrize(("term", "columns"), [("xterm", 80), ("dumb", 60)])
def test_on_a_terminal_it_fits(daemon: MachineDaemon, term: str, columns: int) -> None:
    person = Terminal(daemon.path, term, (24, columns))
    person.until("inline]>")
    person.type("show cl\r")
    shown = person.until("0 of 8")
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).splitlines()
    assert all(len(line.rstrip()) <= columns for line in lines)
    person.close()
