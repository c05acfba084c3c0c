# SPDX-License-Identifier: GPL-2.0-only
"""Questions on a terminal: a line, a secret, yes or no. The kernel edits the line, so it works at 9600 baud too.

For use outside the line editor. Without a terminal a secret is one line of standard input, for provisioning scripts.
Ctrl-C raises KeyboardInterrupt, end of input EOFError; the terminal's settings are restored in any case.
"""

from __future__ import annotations

import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from console.render import Style
from console.tty import style_of
from console.views.common import prose


@contextmanager
def _line_mode(terminal: int, echo: bool) -> Iterator[None]:
    """Read whole lines, edited by the kernel; keys typed ahead are kept."""
    before = termios.tcgetattr(terminal)
    lines = termios.tcgetattr(terminal)
    lines[0] |= termios.ICRNL
    lines[3] |= termios.ICANON | termios.ISIG | termios.ECHOE | termios.ECHOK
    lines[3] = lines[3] | termios.ECHO if echo else lines[3] & ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSADRAIN, lines)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


class Asker:
    """Asks the user on standard input; prompts go to standard error, so that standard output stays data."""

    def __init__(self, source: TextIO | None = None, out: TextIO | None = None, style: Style | None = None) -> None:
        self._source, self._out = source or sys.stdin, out or sys.stderr
        self._style = style or style_of(self._out)  # the width may have been set with `terminal width`

    def line(self, question: str, default: str = "") -> str:
        """The typed line; an empty line gives the default."""
        shown = f"{question} [{default}]: " if default else f"{question}: "
        return self._read(shown, echo=True).strip() or default

    def secret(self, question: str) -> str:
        """The typed line, without echo."""
        return self._read(f"{question}: ", echo=False)

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Turn echo off in this block, also for keys typed before the prompt appears."""
        if not self.terminal:
            yield
            return
        with _line_mode(self._source.fileno(), echo=False):
            yield

    def yes(self, question: str, default: bool) -> bool:
        """Ask until the answer is yes or no."""
        while True:
            answer = self.line(f"{question} (yes/no)", "yes" if default else "no").lower()
            for word in ("yes", "no"):
                if answer and word.startswith(answer):
                    return word == "yes"
            self.say("Please answer yes or no.")

    def say(self, text: str = "") -> None:
        """Print lines for the user, folded to the terminal's width."""
        lines = (line for each in text.split("\n") for line in prose(each, self._style))
        print("\n".join(lines), file=self._out, flush=True)

    @property
    def terminal(self) -> bool:
        """Whether standard input is a terminal."""
        return self._source.isatty()

    def _read(self, shown: str, echo: bool) -> str:
        if not self.terminal:
            return self._raw()
        with _line_mode(self._source.fileno(), echo):
            print(shown, end="", file=self._out, flush=True)  # echo is off before the prompt is visible
            try:
                return self._raw()
            finally:
                if not echo:
                    self.say()

    def _raw(self) -> str:
        text = self._source.readline()
        if not text:
            raise EOFError
        return text.rstrip("\r\n")
