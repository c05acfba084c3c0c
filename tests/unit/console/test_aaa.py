# SPDX-License-Identifier: GPL-2.0-only
"""`show aaa` and `test aaa USER` as typed, on a terminal and in a pipe: the password is unseen, the exit code tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.api.rpc import Param
from appliance.api.schema import access, methods
from tests.support.machine_daemon import MachineDaemon
from tests.support.terminal import Terminal, bypass

PASSWORD = "correct horse"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[MachineDaemon]:
    made = MachineDaemon(tmp_path / "control.sock")

    async def show(_: dict[str, Any]) -> access.Aaa:
        server = access.AaaServer("r1", "radius", "192.0.2.1", 1812, "answers", 2.0, 0.0, 4.2, 3, 1, 0, 5, 0)
        return access.Aaa(["radius", "local"], "on", "", "sessions", 0, 0, [server])

    async def test(params: dict[str, Any]) -> access.AaaTest:
        good = params["password"] == PASSWORD
        step = access.AaaStep("radius server r1", "accepted" if good else "radius server r1: refused", 0.004)
        if good:
            return access.AaaTest("accept", "operator", "password, radius server r1, role operator", [step])
        return access.AaaTest("refuse", "", "radius server r1: refused", [step])

    made.registry.add(methods.AAA_SHOW, show)
    made.registry.add(methods.AAA_TEST, test, "admin", params={"user": Param(), "password": Param()})
    with made:
        yield made


def test_show(daemon: MachineDaemon) -> None:
    shown = bypass("show", "aaa", sock=daemon.path)
    assert (shown.returncode, shown.stdout.splitlines()[0]) == (0, "passwords are decided by: radius, then local")
    assert "radius r1" in shown.stdout
    assert bypass("show", "tacacs", sock=daemon.path).stdout == shown.stdout, "a habit"
    assert json.loads(bypass("show", "aaa", "--json", sock=daemon.path).stdout)["servers"][0]["accepted"] == 3


def test_in_a_pipe(daemon: MachineDaemon) -> None:
    good = bypass("test", "aaa", "ann", sock=daemon.path, stdin=f"{PASSWORD}\n")
    assert (good.returncode, good.stdout.splitlines()[0]) == (0, "accepted, role operator")
    bad = bypass("test", "aaa", "ann", "--json", sock=daemon.path, stdin="wrong\n")
    assert (bad.returncode, json.loads(bad.stdout)["decision"]) == (1, "refuse")
    none = bypass("test", "aaa", "ann", sock=daemon.path)
    assert (none.returncode, "no password was given" in none.stderr) == (1, True)
    assert bypass("test", "aaa", sock=daemon.path).returncode == 2


@pytest.mark.parametrize(("term", "size"), [("xterm", (24, 80)), ("xterm", (20, 60)), ("dumb", (24, 80))])
def test_on_a_terminal(daemon: MachineDaemon, term: str, size: tuple[int, int]) -> None:
    person = Terminal(daemon.path, term, size)
    person.until("inline]>")
    person.type("tes aa ann\r")  # abbreviated
    person.until("Password: ")
    person.type(f"{PASSWORD}\r")
    person.until("accepted, role operator")
    person.until("inline]>")
    assert PASSWORD not in person.seen
