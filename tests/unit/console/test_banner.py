# SPDX-License-Identifier: GPL-2.0-only
"""The first lines of a session while bypassd starts, runs, or is missing."""

import io
import time
from collections.abc import Callable

import pytest

from appliance.errors import UnreachableError
from console.client import Client
from console.render import Style
from console.session import Context
from console.terminal import banner

STATUS = {"hostname": "wire1", "version": "1", "segments": [{"name": "main", "relay": "inline"}]}


class Starting(Client):
    """A client of a daemon that answers from the given question on."""

    def __init__(self, answers_at: int) -> None:
        super().__init__()
        self.left = answers_at

    def call(self, *_: object, **__: object) -> object:
        self.left -= 1
        if self.left > 0:
            raise UnreachableError("bypassd is not running")
        return STATUS


@pytest.fixture
def greet(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, float], str]:
    def run(answers_at: int, up_s: float) -> str:
        monkeypatch.setattr(time, "clock_gettime", lambda _: up_s)
        monkeypatch.setattr(banner, "ASK_AGAIN", 0)
        monkeypatch.setattr(banner, "START_WAIT", 0.2)
        out = io.StringIO()
        banner.greet(Context(Starting(answers_at), out, out, Style()))
        return out.getvalue()

    return run


def test_start_is_waited_for_and_said(greet: Callable[[int, float], str]) -> None:
    said = greet(4, 7.0)
    assert "starting" in said
    assert "inline: main" in said
    assert "UNKNOWN" not in said


def test_running_daemon_is_not_waited_for(greet: Callable[[int, float], str]) -> None:
    assert "starting" not in greet(1, 7.0)


def test_missing_daemon_is_an_alarm(greet: Callable[[int, float], str]) -> None:
    """Long after the start at once, just after it when the wait is over."""
    assert "STATE UNKNOWN" in greet(4, 3600.0)
    assert "STATE UNKNOWN" in greet(1_000_000_000, 7.0)
