# SPDX-License-Identifier: GPL-2.0-only
"""What the image tests make of bypassd's log."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from simulator.pace import Pace

from appliance.system.loop_watch import LoopWatch, Stall
from tests.support.stalls import LIMIT_S, Stalls, parse


def log_of(*stalls: Stall) -> str:
    form = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    return "".join(
        form.format(logging.LogRecord("appliance", logging.WARNING, "", 0, "%s", (stall,), None)) + "\n"
        for stall in stalls
    )


BLOCKED = Stall("task guest ips1", "; Run.live is at run.py:7", 1.8, 0.05, 0.2)
STARVED = Stall("callback x.<locals>.y", "", 3.0, 0.06, 2.9)


def test_the_line_that_is_logged_is_the_line_that_is_read() -> None:
    found = parse("noise\n" + log_of(BLOCKED, STARVED))
    assert [(one.what, one.own_s) for one in found] == [("task guest ips1", 1.6), ("callback x.<locals>.y", 0.1)]
    assert LoopWatch().longest is None


def board(log: str, speed: float = 1.0, pid: int | None = 1) -> Any:
    def sh(_: str, **__: object) -> object:
        return SimpleNamespace(output=log)

    events = SimpleNamespace(add=lambda *_, **__: None)
    return cast(Any, SimpleNamespace(qemu_pid=pid, pace=Pace(speed), sh=sh, events=events))


def test_a_test_fails_by_what_kept_the_loop_during_it() -> None:
    stalls = Stalls()
    before, later = log_of(STARVED), log_of(BLOCKED)  # each line has its time: they are made once
    stalls.check(board(before))
    with pytest.raises(AssertionError, match="task guest ips1 blocked the event loop for 1800 ms"):
        stalls.check(board(before + later))
    stalls.check(board(before + later))
    assert Stalls().new(board(log_of(BLOCKED), pid=None)) == []


def test_the_limit_grows_with_a_slow_emulation() -> None:
    assert parse(log_of(BLOCKED))[0].own_s > LIMIT_S
    with pytest.raises(AssertionError):
        Stalls().check(board(log_of(BLOCKED), speed=0.5))
    Stalls().check(board(log_of(BLOCKED), speed=0.25))
