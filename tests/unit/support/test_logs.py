# SPDX-License-Identifier: GPL-2.0-only
"""Logs over the API: whose, how many lines, and no secret among them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from appliance.api.schema.machine import Log
from appliance.errors import NotFoundError, RefusedError
from appliance.support.logs import Logs

HASH = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$X3DX6M94c7o.9agCG9G317fhZg9SqC.5i5rd.RhAtQ7"


def ask(folder: Path, **params: object) -> Log:
    def guest_log(name: str) -> Path:
        if name != "ips1":
            raise NotFoundError(f'there is no guest "{name}"')
        return folder / "ips1.log"

    return asyncio.run(Logs(folder, guest_log, lambda: ["hunter2"]).show(params))


def test_the_newest_lines_without_secrets(tmp_path: Path) -> None:
    (tmp_path / "bypass.log").write_text(f"one\nset password {HASH}\ntold hunter2\n")
    assert ask(tmp_path, source="supervisor", lines=2).lines == ["set password <hidden>", "told <hidden>"]
    first = ask(tmp_path, source="supervisor")
    assert len(first.lines) == 3
    with (tmp_path / "bypass.log").open("a") as file:
        file.write("four\nfive\n")
    assert ask(tmp_path, source="supervisor", after=first.cursor).lines == ["four", "five"]
    more = ask(tmp_path, source="supervisor", after=first.cursor, lines=1)
    assert (more.lines, more.lost) == (["five"], True)


def test_a_guest_is_named_with_its_log_alone(tmp_path: Path) -> None:
    (tmp_path / "ips1.log").write_text("login:\n")
    assert ask(tmp_path, source="guest", guest="ips1").lines == ["login:"]
    assert ask(tmp_path, source="ntp").lines == []
    with pytest.raises(NotFoundError):
        ask(tmp_path, source="guest", guest="nobody")
    for params in ({"source": "guest"}, {"source": "ssh", "guest": "ips1"}, {"source": "ssh", "lines": 0}):
        with pytest.raises(RefusedError):
            ask(tmp_path, **params)
