# SPDX-License-Identifier: GPL-2.0-only
"""`reboot` and `poweroff` as typed: what is asked, what reaches bypassd; a script never does it by accident."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import RefusedError, UnreachableError
from console.commands import power
from console.commands.power import _through_init
from console.render import Style
from console.terminal.prompt import Asker
from console.views import machine, render
from tests.support.machine_daemon import DUE, MachineDaemon
from tests.support.terminal import Terminal, bypass


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[MachineDaemon]:
    made = MachineDaemon(tmp_path / "control.sock")
    with made:
        yield made


@pytest.mark.parametrize(
    ("args", "asked"),
    [
        (["reboot", "now"], {"action": "reboot"}),
        (["reb", "now", "force"], {"action": "reboot", "force": True}),
        (["poweroff", "in", "10min"], {"action": "poweroff", "in_s": 600}),
        (["reboot", "in", "2", "h"], {"action": "reboot", "in_s": 7200}),
        (["reboot", "at", "2026-12-24", "03:30"], {"action": "reboot", "at": "2026-12-24 03:30"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_a_script_orders(daemon: MachineDaemon, args: list[str], asked: dict[str, Any]) -> None:
    done = bypass(*args, sock=daemon.path)
    assert (done.returncode, done.stdout) == (0, f"{asked['action']} ordered\n"), done
    assert daemon.calls == [("power.order", asked)]


def test_a_script_must_say_now(daemon: MachineDaemon) -> None:
    done = bypass("reboot", sock=daemon.path, stdin="yes\n")
    assert (done.returncode, "`reboot now` does it without asking" in done.stderr) == (1, True)
    assert daemon.calls == []


def test_it_is_withdrawn_and_shown(daemon: MachineDaemon) -> None:
    assert bypass("show", "reboot", sock=daemon.path).stdout == "no reboot or poweroff is scheduled\n"
    daemon.order = DUE
    shown = bypass("show", "reboot", sock=daemon.path).stdout
    assert shown.startswith("reboot in 4 min 10 s, at 2026-11-29 13:30:00")
    assert json.loads(bypass("show", "reboot", "--json", sock=daemon.path).stdout)["user"] == "anna"
    done = bypass("reboot", "cancel", "--json", sock=daemon.path)
    assert json.loads(done.stdout) == {"message": "reboot cancelled"}


@pytest.mark.parametrize(("term", "size"), [("xterm", (24, 80)), ("dumb", (20, 60))])
def test_on_a_terminal_it_says_what_it_means_and_asks(daemon: MachineDaemon, term: str, size: tuple[int, int]) -> None:
    """No is the default; Ctrl-C and what is not understood are no yes."""
    with_person = Terminal(daemon.path, term, size)
    with_person.until("inline]>")
    for answer, end in (("\r", "error: reboot cancelled"), ("\x03", "error: reboot cancelled")):
        with_person.type("reboot\r")
        said = re.sub(r"\s+", " ", with_person.until("(yes/no) [no]: "))
        assert "segment main: the relay closes first: traffic crosses it, uninspected, until the appliance" in said
        assert "guests that are powered down: ips1, dpi" in said
        assert "sessions that end: anna from 192.0.2.7" in said
        assert "warning: uncommitted changes by anna are lost" in said
        with_person.type(answer)
        with_person.until(end)
        with_person.until("inline]>")
    assert daemon.calls == []
    with_person.type("poweroff in 10 min\r")
    with_person.until("(yes/no) [no]: ")
    with_person.type("maybe\r")
    with_person.until("Please answer yes or no.")
    with_person.type("y\r")
    with_person.until("poweroff ordered")
    assert daemon.calls == [("power.order", {"action": "poweroff", "in_s": 600})]
    with_person.close()


def test_the_banner_and_json_of_what_is_due() -> None:
    power = {"state": "waiting", "action": "poweroff", "seconds_left": 59}
    assert "*** GOING DOWN *** poweroff in 59 s" in render("status", {"hostname": "x", "power": power})
    assert machine.due({"state": "running", "action": "reboot"}) == "reboot is under way"
    assert machine.due({"state": "none"}) == machine.due(None) == ""


def test_without_bypassd_init_does_it_for_root_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The console's user is root; nothing but `now` goes that way without a question."""
    made = tmp_path / "reboot"
    made.write_text(f"#!/bin/sh\necho done > {tmp_path}/mark\n")
    made.chmod(0o755)
    monkeypatch.setattr(power, "PATH", str(tmp_path))
    with pytest.raises(UnreachableError, match="on a console without a login"):
        _through_init("reboot", Asker(style=Style()), "bypassd hangs", later=False)
    monkeypatch.setenv("BYPASS_SERIAL", "1")
    with pytest.raises(UnreachableError, match="poweroff works without bypassd"):
        _through_init("poweroff", Asker(style=Style()), "bypassd hangs", later=False)
    with pytest.raises(UnreachableError):
        _through_init("reboot", Asker(style=Style()), "bypassd hangs", later=True)
    assert not (tmp_path / "mark").exists()

    class Person(Asker):
        terminal = True
        answer = "no"

        def yes(self, question: str, default: bool) -> bool:
            return self.answer == "yes"

    with pytest.raises(RefusedError):
        _through_init("reboot", Person(style=Style()), "bypassd hangs", later=False)
    Person.answer = "yes"
    assert _through_init("reboot", Person(style=Style()), "bypassd hangs", later=False)["message"]
    assert (tmp_path / "mark").read_text() == "done\n"


def test_a_factory_reset_needs_the_name_of_the_appliance(daemon: MachineDaemon) -> None:
    person = Terminal(daemon.path, "dumb")
    person.until("inline]>")
    for name, end in (("bypass", "error: factory reset cancelled"), ("\x03", "error: factory reset cancelled")):
        person.type("factory-reset all\r")
        said = re.sub(r"\s+", " ", person.until("(wire1) to erase it: "))
        assert "files of users, guest images. It cannot be undone." in said
        person.type(f"{name}\r" if name.isalpha() else name)
        person.until(end)
        person.until("inline]>")
    assert daemon.calls == []
    person.type("factory-reset\r")
    person.until("Keep the guest images? (yes/no) [yes]: ")
    person.type("\r")
    person.until("(wire1) to erase it: ")
    person.type("wire1\r")
    person.until("reboot ordered")
    assert daemon.calls == [("power.order", {"action": "reboot", "reset": "keep-images"})]
    person.close()


def test_a_script_says_what_it_erases(daemon: MachineDaemon) -> None:
    for args in (["factory-reset"], ["factory-reset", "all"], ["factory-reset", "now"]):
        assert bypass(*args, sock=daemon.path, stdin="wire1\n").returncode == 1
    assert bypass("factory-reset", "all", "now", sock=daemon.path).returncode == 0
    assert daemon.calls == [("power.order", {"action": "reboot", "reset": "all"})]
