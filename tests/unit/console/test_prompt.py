# SPDX-License-Identifier: GPL-2.0-only
"""Questions at a terminal: a secret is not echoed from the moment of its prompt on."""

from __future__ import annotations

import io
import os
import pty
import termios
from collections.abc import Iterator

import pytest

from console.terminal.prompt import Asker


class Screen(io.StringIO):
    """Where questions go; `seen`: with each, whether the terminal shows what is typed."""

    def __init__(self, terminal: int) -> None:
        super().__init__()
        self._terminal, self.seen = terminal, dict[str, bool]()

    def write(self, text: str, /) -> int:
        self.seen[text] = bool(termios.tcgetattr(self._terminal)[3] & termios.ECHO)
        return super().write(text)


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """A terminal: the person's end and the program's."""
    person, program = pty.openpty()
    yield person, program
    os.close(person)
    os.close(program)


def test_a_secret_is_unseen_before_its_question_is_there(ends: tuple[int, int]) -> None:
    person, program = ends
    screen = Screen(program)
    os.write(person, b"admin\nmy secret\n")
    with open(program, closefd=False) as source:
        asker = Asker(source, screen)
        assert (asker.line("login"), asker.secret("Password")) == ("admin", "my secret")
    assert (screen.seen["login: "], screen.seen["Password: "]) == (True, False)
    assert termios.tcgetattr(program)[3] & termios.ECHO
