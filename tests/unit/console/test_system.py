# SPDX-License-Identifier: GPL-2.0-only
"""`show system` as typed and shown."""

from __future__ import annotations

import json
from pathlib import Path

from console.views import machine, render
from tests.support.machine_daemon import MachineDaemon
from tests.support.terminal import Terminal, bypass

SHOWN = """\
board         acme-2
vendor        Acme
model         Board 2
serial        A1B2
up            1 h 6 min
load          0.50 1.25 2.00 (1, 5, 15 min), 4 processors
memory        1.5 GiB of 4.0 GiB available
huge pages    3 of 8 free
temperatures  coretemp Package id 0 41.5 C
fans          nct6775 fan1 1200 /min

SLOT  BOOTED  NEXT  STATE
a     yes     yes   good
b     no      no    given up after 3 starts that failed

DISK  TYPE   SIZE      AVAILABLE  USED  BOUND
data  ext4   10.0 GiB  4.0 GiB    60 %  guests pause when less than 512 MiB are free
run   tmpfs  2.0 GiB   2.0 GiB    0 %   memory, at most half of it
"""


def test_the_system_is_shown(tmp_path: Path) -> None:
    daemon = MachineDaemon(tmp_path / "control.sock")
    with daemon:
        assert bypass("show", "system", sock=daemon.path).stdout == SHOWN
        assert json.loads(bypass("sh", "sy", "--json", sock=daemon.path).stdout)["serial"] == "A1B2"
        person = Terminal(daemon.path, "dumb", (30, 60))
        person.until("inline]>")
        person.type("show system\r")
        shown = person.until("half of it")
        assert all(len(line.rstrip()) <= 60 for line in shown.splitlines())
        person.close()


def test_sizes_and_what_is_not_there() -> None:
    assert [machine.size(count) for count in (0, 5 << 20, 3 << 40, None)] == ["0 KiB", "5.0 MiB", "3.0 TiB", "-"]
    assert "memory  - of - available" in render("system", {})
