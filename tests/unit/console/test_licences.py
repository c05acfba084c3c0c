# SPDX-License-Identifier: GPL-2.0-only
"""`show licences` and `show licence NAME` as typed and shown."""

from __future__ import annotations

from pathlib import Path

from console.render import Style
from console.views import render
from tests.support.machine_daemon import MachineDaemon
from tests.support.terminal import Terminal, bypass


def test_licences_are_shown(tmp_path: Path) -> None:
    daemon = MachineDaemon(tmp_path / "control.sock")
    with daemon:
        shown = bypass("show", "licences", sock=daemon.path).stdout.splitlines()
        assert shown[0].split() == ["COMPONENT", "VERSION", "FROM", "LICENCE"]
        assert shown[1].split()[0] == "throughwire"
        assert "Redistribution" in bypass("show", "licence", "msgspec", sock=daemon.path).stdout
        assert bypass("show", "licence", "nothing", sock=daemon.path).returncode == 1
        person = Terminal(daemon.path, "dumb", (24, 60))
        person.until("inline]>")
        person.type("show licence msgsp\t")
        person.until("msgspec ")
        person.close()


def test_a_text_drives_no_terminal() -> None:
    assert render("licence", {"name": "x", "text": "one\x1b[2J\ntwo\n"}, Style(width=80)) == "one?[2J\ntwo"
    assert render("licences", []) == "no component is known"
