# SPDX-License-Identifier: GPL-2.0-only
"""`drill` as typed: what is asked, what reaches bypassd; a script never drills by accident."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from console.render import Style
from console.views import render
from tests.support.machine_daemon import MachineDaemon
from tests.support.terminal import Terminal, bypass


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[MachineDaemon]:
    made = MachineDaemon(tmp_path / "control.sock")
    with made:
        yield made


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("drill run relay now", ("drill.run", {"kind": "relay"})),
        ("drill run relay --segment main now", ("drill.run", {"kind": "relay", "segment": "main"})),
        ("drill answer passed", ("drill.answer", {"passed": True})),
        ("drill answer failed", ("drill.answer", {"passed": False})),
    ],
)
def test_what_a_script_orders(daemon: MachineDaemon, line: str, asked: tuple[str, Any]) -> None:
    done = bypass(*line.split(), sock=daemon.path)
    assert done.returncode == 0, done
    assert daemon.calls == [asked]


@pytest.mark.parametrize(("line", "said"), [("drill run relay", "`drill run relay now`"), ("drill run x now", "relay")])
def test_a_script_must_say_now_and_name_a_kind(daemon: MachineDaemon, line: str, said: str) -> None:
    done = bypass(*line.split(), sock=daemon.path, stdin="yes\n")
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert daemon.calls == []


def test_on_a_terminal_it_says_what_it_means_and_asks(daemon: MachineDaemon) -> None:
    person = Terminal(daemon.path, "xterm")
    person.until("inline]>")
    for answer, end in (("\r", "error: drill cancelled"), ("\x03", "error: drill cancelled"), ("y\r", "begins now")):
        person.type("drill run relay\r")
        assert "- the relay of segment main closes for 5 s" in person.until("(yes/no) [no]: ")
        assert daemon.calls == []
        person.type(answer)
        person.until(end)
    assert daemon.calls == [("drill.run", {"kind": "relay"})]
    person.close()


RESULT = {
    "kind": "relay", "segment": "main", "when": "2026-11-29T03:30:00+00:00", "by": "anna", "passed": True,
    "to_bypass_ms": 30.4, "to_inline_ms": 2040.0, "first_frame_ms": None,
    "detail": "the relay moved to bypass and back",
}  # fmt: skip


def test_results_and_what_they_prove() -> None:
    proven = {"state": "protected", "detail": "proven by relay drills"}
    said = render("drills", {"protection": proven, "running": "", "window": "sun 03:00-04:00", "results": [RESULT]})
    assert said.splitlines() == [
        "protected: proven by relay drills",
        "maintenance window: sun 03:00-04:00",
        "",
        "DRILL  SEGMENT  WHEN                  BY    RESULT  TO BYPASS  TO INLINE  DETAIL",
        "relay  main     2026-11-29 03:30:00Z  anna  passed  30 ms      2040 ms    the relay moved to bypass and back",
    ]


def test_that_there_is_none_is_said_once() -> None:
    unproven = {"state": "unproven", "detail": "relay drill of segment main: none yet; `drill run relay` makes it"}
    said = render("drills", {"protection": unproven, "running": "watchdog drill", "window": "", "results": []})
    assert said.splitlines() == [f"unproven: {unproven['detail']}", "under way: watchdog drill"]
    narrow = render("drills", {"protection": unproven, "running": "", "window": "", "results": []}, Style(width=60))
    assert max(map(len, narrow.splitlines())) <= 60
    unjudged = {"state": "not judged", "detail": "max_age_days is 0"}
    said = render("drills", {"protection": unjudged, "running": "", "window": "", "results": []})
    assert said.endswith("no drill yet: `drill run relay` makes one")


def test_an_unproven_box_raises_no_alarm() -> None:
    protection = {"state": "unproven", "detail": "relay drill of segment main: none yet; `drill run relay` makes it"}
    segments = [{"name": "main", "relay": "inline", "cause": "healthy"}]
    said = render("status", {"hostname": "x", "segments": segments, "protection": protection})
    assert "***" not in said
    assert "protection: unproven, relay drill of segment main: none yet; `drill run relay` makes it" in said
