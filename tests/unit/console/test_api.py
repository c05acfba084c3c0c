# SPDX-License-Identifier: GPL-2.0-only
"""`api`: a request in a pipe, one JSON object out, and an exit code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_daemon import FakeDaemon
from tests.support.terminal import Terminal, bypass


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    with FakeDaemon(tmp_path / "control.sock") as made:
        yield made


def test_one_request_one_object(daemon: FakeDaemon) -> None:
    asked = {"method": "segment.set", "params": {"name": "main", "mode": "bypass"}}
    done = bypass("api", sock=daemon.path, stdin=json.dumps(asked))
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == {"jsonrpc": "2.0", "id": 1, "result": {"message": "segment main: bypass"}}
    assert daemon.calls == [("segment.set", asked["params"])]
    several = bypass("-c", "api", sock=daemon.path, stdin=json.dumps([{"method": "guests.show", "id": "x"}, asked]))
    assert [answer["id"] for answer in json.loads(several.stdout)] == ["x", 2]


@pytest.mark.parametrize(
    ("stdin", "code", "out"),
    [
        ('{"method": "segment.set", "params": {"name": "x", "mode": "auto"}}', 1, "no segment is named"),
        ('{"method": "nothing"}', 1, "no method"),
        ('{"method": "guest.stop", "params": {"name": "ips1"}}', 4, "internal error"),
        ("", 2, ""),
        ("[]", 2, ""),
        ('{"params": {}}', 2, ""),
        ('"status.show"', 2, ""),
    ],
)
def test_what_goes_wrong_has_an_exit_code(daemon: FakeDaemon, stdin: str, code: int, out: str) -> None:
    done = bypass("api", sock=daemon.path, stdin=stdin)
    assert done.returncode == code, done
    assert out in done.stdout
    assert bool(done.stdout) is not bool(done.stderr), "data on standard output, usage on standard error"


def test_without_bypassd(tmp_path: Path) -> None:
    assert bypass("api", sock=tmp_path / "none", stdin='{"method": "status.show"}').returncode == 3


def test_on_a_terminal_it_says_how(daemon: FakeDaemon) -> None:
    person = Terminal(daemon.path, "dumb")
    person.until("inline]>")
    person.type("api\r")
    person.until("api reads a request from standard input")
    person.until("inline]>")
    person.close()
