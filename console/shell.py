# SPDX-License-Identifier: GPL-2.0-only
"""The shell on a terminal: prompt-toolkit for the line, the command table for everything else.

It has to work at three in the morning on a 9600-baud serial line: no cursor-position requests, no menus that repaint,
80x24 where the size is unknown, and on a terminal that can do nothing but print (TERM=dumb) a line that is only ever
written to its end. Ctrl-C empties the line or ends a command, never the session. It works without bypassd, says so, and
asks again at every prompt.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.data_structures import Size
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import DummyOutput, Output
from prompt_toolkit.output.vt100 import Vt100_Output

from appliance.errors import BypassError, UnreachableError
from console.complete import Completion, completion
from console.execute import GOOD, Context, help_text, run_line
from console.greeting import prompt_state
from console.parse import tokenize
from console.render import cell

HISTORY = Path("/var/lib/bypass/console_history")
PROMPT_WAIT = 1.0  # seconds that the state in the prompt may delay it


class Shell:
    """One session on one terminal."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._dumb = os.environ.get("TERM", "dumb") in ("", "dumb", "unknown")
        self._hostname = socket.gethostname()
        self._prompt = ""
        self._alarmed = False
        self._echo = _Echo(context.out) if self._dumb else None
        self._session: PromptSession[str] = PromptSession(
            history=_history(HISTORY),
            key_bindings=self._keys(),
            output=self._output(),
            reserve_space_for_menu=0,
            complete_while_typing=False,
            enable_suspend=False,
        )
        if echo := self._echo:
            self._session.default_buffer.on_text_changed += echo.changed
            self._session.app.after_render += lambda _: echo.show(self._session.default_buffer.text)

    def run(self) -> int:
        """Until exit or end of input; the exit code is always 0, for init starts the next session."""
        with _typing_ahead(sys.stdin.fileno()):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            while not self._context.ended:
                try:
                    line = self._read()
                except KeyboardInterrupt:
                    continue  # the line is thrown away
                except EOFError:
                    break
                try:
                    run_line(line, self._context)
                except KeyboardInterrupt:
                    self._context.say(
                        "interrupted; what bypassd was asked to do may still happen: see show transitions"
                    )
                self._context.names.forget()
        self._context.say("logout")
        return GOOD

    def _output(self) -> Output:
        if self._dumb:
            return DummyOutput()
        return _SerialOutput(sys.stdout, _size, term=os.environ.get("TERM"), enable_cpr=False)

    def _read(self) -> str:
        self._look()
        if self._echo is None:
            kind = "bold" if self._alarmed else ""
            return self._session.prompt(FormattedText([(kind, self._prompt)]))
        self._echo.begin(self._prompt)
        try:
            return self._session.prompt("")
        finally:
            self._echo.end(self._session.default_buffer.text)

    def _look(self) -> None:
        """The prompt: host name, and where the relays stand now."""
        try:
            status = self._context.client.call("status.show", wait=PROMPT_WAIT)
        except UnreachableError:
            state, self._alarmed = "bypassd not reachable", True
        except BypassError:
            state, self._alarmed = "state unknown", True
        else:
            state, self._alarmed = prompt_state(status)
            if isinstance(status, dict) and status.get("hostname"):
                self._hostname = cell(status["hostname"])
        self._prompt = f"{self._hostname} [{state}]> "

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("?")
        def _(event: KeyPressEvent) -> None:
            before = event.current_buffer.document.text_before_cursor
            if tokenize(before)[1]:  # inside quotes it is a character like any other
                event.current_buffer.insert_text("?")
                return
            self._print(before + "?", lambda: help_text(before, self._context.names))

        @keys.add("tab")
        def _(event: KeyPressEvent) -> None:
            self._complete(event.current_buffer)

        return keys

    def _complete(self, buffer: Buffer) -> None:
        """Tab: as much as is unambiguous, else what is possible."""
        before = buffer.document.text_before_cursor
        found: Completion = completion(before, self._context.names.of)
        if found.insert:
            buffer.insert_text(found.insert)
        elif found.rows:
            self._print(before, lambda: found.text)

    def _print(self, line: str, make: Callable[[], str]) -> None:
        """Leave `line` standing as it was typed, print below it, then show the line that is being typed again."""

        def show() -> None:
            if self._echo:
                self._echo.below(line, make())
            else:
                print(f"{self._prompt}{line}\n{make()}", flush=True)

        run_in_terminal(show)


class _SerialOutput(Vt100_Output):
    """A VT100 for slow lines: no cursor blinking on and off around each key, which is most of the bytes.

    Bracketed paste stays off: several pasted lines are several commands, each entered by its own newline.
    """

    def hide_cursor(self) -> None:
        """Left alone."""

    def show_cursor(self) -> None:
        """Left alone."""

    def enable_bracketed_paste(self) -> None:
        """Left off."""


@contextmanager
def _typing_ahead(terminal: int) -> Iterator[None]:
    """Between prompts keys wait, unseen and unchanged, for the next prompt; only Ctrl-C acts at once.

    With the usual settings a Ctrl-D typed ahead is lost, text is echoed twice, and a serial line has no way to say that
    it is full when many lines are pasted.
    """
    before = termios.tcgetattr(terminal)
    quiet = termios.tcgetattr(terminal)
    quiet[0] |= termios.IXOFF
    quiet[3] &= ~(termios.ICANON | termios.ECHO | termios.IEXTEN)
    quiet[6][termios.VMIN], quiet[6][termios.VTIME] = 1, 0
    termios.tcsetattr(terminal, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSANOW, before)


def _size() -> Size:
    """The terminal's size; a serial line knows none (0x0), and then it is the usual 80x24."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        columns, rows = 0, 0
    return Size(rows=rows or 24, columns=columns or 80)


def _history(path: Path) -> History:
    """History in a file where one can be kept, else for this session only."""
    try:
        path.open("a").close()
        os.chmod(path, 0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)


class _Echo:
    """Shows the typed line on a terminal that can only print: characters, backspace, and the line anew when it must."""

    def __init__(self, out: Any) -> None:
        self._out, self._prompt, self._shown, self._visible = out, "", "", False

    def begin(self, prompt: str) -> None:
        """A new line begins; it is shown once the terminal is ready for keys."""
        self._prompt, self._shown, self._visible = prompt, "", False

    def show(self, text: str) -> None:
        """The terminal is ready: prompt, and what was typed ahead."""
        if not self._visible:
            self._visible, self._shown = True, text
            self._write(f"{self._prompt}{text}")

    def end(self, text: str) -> None:
        """The line was accepted or thrown away."""
        self.show(text)
        self._write("\r\n")

    def changed(self, buffer: Buffer) -> None:
        """Follow the text of the buffer."""
        if not self._visible:
            return
        text, shown = buffer.text, self._shown
        if text.startswith(shown):
            self._write(text[len(shown) :])
        elif shown.startswith(text):
            gone = len(shown) - len(text)
            self._write("\b" * gone + " " * gone + "\b" * gone)
        else:
            self._write(f"\r\n{self._prompt}{text}")
        self._shown = text

    def below(self, line: str, text: str) -> None:
        """Complete the line that is shown to `line`, text below it, then the line again."""
        rest = line[len(self._shown) :] if line.startswith(self._shown) else ""
        lines = "\r\n".join(text.splitlines())
        self._write(f"{rest}\r\n{lines}\r\n{self._prompt}{self._shown}")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
