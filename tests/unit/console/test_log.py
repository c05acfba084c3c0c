# SPDX-License-Identifier: GPL-2.0-only
"""`show log` as typed: its end, a pattern, and following it on a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machine_daemon import MachineDaemon
from tests.support.terminal import Terminal, bypass


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[MachineDaemon]:
    (tmp_path / "bypass.log").write_text("".join(f"INFO line {number}\n" for number in range(100)))
    (tmp_path / "ips1.log").write_text("login:\n")
    made = MachineDaemon(tmp_path / "control.sock")
    with made:
        yield made


def test_the_end_of_a_log_and_what_matches(daemon: MachineDaemon) -> None:
    shown = bypass("show", "log", sock=daemon.path).stdout.splitlines()
    assert (len(shown), shown[-1]) == (40, "INFO line 99")
    assert bypass("show", "log", "match", "LINE .5$", "lines", "2", sock=daemon.path).stdout == (
        "INFO line 85\nINFO line 95\n"
    )
    assert bypass("sh", "log", "guest", "ips1", sock=daemon.path).stdout == "login:\n"
    data = json.loads(bypass("show", "log", "supervisor", "lines", "1", "--json", sock=daemon.path).stdout)
    assert (data["lines"], data["lost"]) == (["INFO line 99"], False)
    for wrong in (["match", "("], ["lines", "0"], ["nobody"], ["follow", "--json"]):
        assert bypass("show", "log", *wrong, sock=daemon.path).returncode == 2, wrong


@pytest.mark.parametrize("how", ["", " follow"])
def test_long_lines_are_folded_between_words(daemon: MachineDaemon, how: str) -> None:
    """On a terminal alone, and while it follows too."""
    (daemon.path.parent / "bypass.log").write_text("WARNING one two three four five six seven eight nine ten eleven\n")
    person = Terminal(daemon.path, "dumb", (20, 40))
    person.until("inline]>")
    person.type(f"show log{how}\r")
    person.until("WARNING one two three four five six\r\n    seven eight nine ten eleven\r\n")
    person.close()
    assert len(bypass("show", "log", sock=daemon.path).stdout.splitlines()) == 1


def test_it_follows_until_ctrl_c(daemon: MachineDaemon) -> None:
    log = daemon.path.parent / "bypass.log"
    person = Terminal(daemon.path, "dumb")
    person.until("inline]>")
    person.type("show log supervisor lines 1 match line follow\r")
    person.until("INFO line 99")
    with log.open("a") as file:
        file.write("something else\nINFO line \x1b[2J100\n")
    came = person.until("INFO line ?[2J100")
    assert "something else" not in came
    log.write_text("INFO line A\n")
    assert "lines are missing here" in person.until("INFO line A")
    person.type("\x03")
    person.until("inline]>")
    person.close()
