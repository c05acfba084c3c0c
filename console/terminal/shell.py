# SPDX-License-Identifier: GPL-2.0-only
"""The shell on a terminal: prompt-toolkit for the line, the command table for everything else.

It must work on a 9600-baud serial line: no cursor-position requests, no menus that repaint, 80x24 if the size is
unknown, and on a plain-text terminal (TERM=dumb) a line that is only ever appended to. Ctrl-C clears the line or stops
a command, never the session. The shell works without bypassd, says so, and tries again at each prompt.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable

from prompt_toolkit import PromptSession
from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.data_structures import Size
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.output import DummyOutput, Output

from appliance.errors import BypassError, NoAnswerError, UnreachableError
from console.execute import help_text, other_level, run_line
from console.line.complete import completion
from console.line.outcome import GOOD
from console.line.parse import tokenize
from console.render import cell, duration
from console.session import Context
from console.terminal.banner import prompt_state
from console.terminal.pager import IdleError, page
from console.terminal.serial_output import Echo, SerialOutput, history, history_file, typing_ahead
from console.tty import PROMPT_S, Terminal
from console.views.common import hang

IDLE_S = 900.0  # idle timeout if the appliance specifies none


class Shell:
    """One session on one terminal."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._terminal = context.terminal = Terminal()
        context.page = self._page
        self._hostname = socket.gethostname()
        self._prompt = ""  # without what follows from the time
        self._confirm_at: float | None = None  # a commit is rolled back then (monotonic)
        self._level: tuple[str, ...] | None = None  # the configuration level in the prompt
        self._alarmed = False
        self._idle_s = float(os.environ.get("BYPASS_IDLE_S", IDLE_S))
        self._key_at = time.monotonic()
        self._idle = False  # no key was pressed within the idle timeout
        self._history = history(history_file())
        self._edit()

    def _edit(self) -> None:
        """Create the line editor that suits the terminal's current settings."""
        self._dumb = self._terminal.only_prints
        self._echo = Echo(self._context.out) if self._dumb else None
        self._session: PromptSession[str] = PromptSession(
            history=self._history,
            key_bindings=self._keys(),
            output=self._output(),
            reserve_space_for_menu=0,
            complete_while_typing=False,
            enable_suspend=False,
        )
        self._session.app.key_processor.before_key_press += self._typed
        if echo := self._echo:
            self._session.default_buffer.on_text_changed += echo.changed
            self._session.app.after_render += lambda _: echo.show(self._session.default_buffer.text)

    def run(self) -> int:
        """Run until exit, end of input or idle timeout. The exit code is always 0: init starts the next session."""
        with typing_ahead(sys.stdin.fileno()):
            signal.signal(signal.SIGINT, signal.default_int_handler)
            while not self._context.ended:
                if self._dumb is not self._terminal.only_prints:
                    self._edit()
                try:
                    line = self._read()
                except KeyboardInterrupt:
                    continue  # the line is discarded
                except EOFError:
                    if self._context.mode is None:
                        break
                    self._run("exit")
                except IdleError:
                    self._idle = True
                else:
                    self._run(line)
                if self._idle:
                    self._context.say(f"session closed after {duration(self._idle_s)} without input")
                    break
            self._leave()
        self._context.say("logout")
        return GOOD

    def _run(self, line: str) -> None:
        self._context.style = self._terminal.style  # the window may have been resized
        try:
            run_line(line, self._context)
        except KeyboardInterrupt:
            unanswered = "interrupted; bypassd may still complete the request: see `show transitions`"
            self._context.say(unanswered if self._context.client.waiting else "Cancelled.")
        self._context.names.forget()

    def _leave(self) -> None:
        """Release the candidate, at whatever level the session ends."""
        while self._context.mode is not None:
            level = self._context.mode.level
            run_line("exit", self._context)
            if self._context.mode is not None and self._context.mode.level == level:
                return  # bypassd is not reachable; the hold ends with this process

    def _page(self, text: str) -> None:
        """Show a text; Ctrl-C only stops the output, because the command itself has finished."""
        with contextlib.suppress(KeyboardInterrupt):
            typed = self._paged(text, 0)
            store_typeahead(self._session.app.input, [KeyPress(key) for key in typed])

    def _paged(self, text: str, above: int) -> str:
        """Print a text by pages, the first one below `above` rows; the key that ended it, if it begins a command."""
        out, keys = self._context.out, sys.stdin.fileno()
        if self._terminal.paging and not self._typed_ahead():
            try:
                return page(text, out, keys, self._terminal.size, idle_s=self._idle_s, above=above)
            except IdleError:
                self._idle = True
                return ""
        print(text, file=out, flush=True)
        return ""

    def _typed_ahead(self) -> bool:
        """Whether there is input that was typed ahead, read by the editor or not."""
        keys = get_typeahead(self._session.app.input)
        store_typeahead(self._session.app.input, keys)
        return bool(keys or select.select([sys.stdin], [], [], 0)[0])

    def _typed(self, _: object) -> None:
        self._key_at = time.monotonic()

    async def _watch_idle(self) -> None:
        """End the prompt after the idle timeout."""
        while (left := self._key_at + self._idle_s - time.monotonic()) > 0:
            await asyncio.sleep(left)
        self._session.app.exit(exception=IdleError)

    def _begin(self) -> None:
        """The editor is about to read keys."""
        self._key_at = time.monotonic()
        if self._idle_s:
            self._session.app.create_background_task(self._watch_idle())
        if self._confirm_at is not None:
            self._session.app.create_background_task(self._watch_commit())

    def _output(self) -> Output:
        if self._dumb:
            return DummyOutput()
        return SerialOutput(sys.stdout, self._size, term=os.environ.get("TERM"), enable_cpr=False)

    def _size(self) -> Size:
        columns, rows = self._terminal.size
        return Size(rows=rows, columns=columns)

    def _read(self) -> str:
        self._look()
        if self._echo is None:
            return self._session.prompt(self._painted, pre_run=self._begin)
        self._echo.begin(self._shown)
        try:
            return self._session.prompt("", pre_run=self._begin)
        finally:
            self._echo.end(self._session.default_buffer.text)

    @property
    def _shown(self) -> str:
        """The prompt as it is now."""
        if self._confirm_at is None:
            return self._prompt
        left = duration(max(0, self._confirm_at - time.monotonic()))
        return f"{self._prompt[:-2]} CONFIRM WITHIN {left}{self._prompt[-2:]}"

    def _painted(self) -> FormattedText:
        alarmed = self._alarmed or self._confirm_at is not None
        return FormattedText([("bold" if alarmed else "", self._shown)])

    async def _watch_commit(self) -> None:
        """Count down at the prompt while a commit awaits confirmation, and say what becomes of it when it happens."""
        client, loop, news = self._context.client, asyncio.get_running_loop(), asyncio.Event()
        try:
            follow = await asyncio.to_thread(client.follow, ["config"])
        except BypassError:
            return
        loop.add_reader(follow.fileno(), news.set)
        try:
            while self._confirm_at is not None:
                try:
                    await asyncio.wait_for(news.wait(), None if self._dumb else 1.0)
                except TimeoutError:
                    self._session.app.invalidate()
                    continue
                events = [event for _, event in follow.read()]
                news.clear()
                said = [event for event in events if event.get("event") in ("confirmed", "reverted", "committed")]
                if said:
                    self._confirm_at = None
                    self._note(f"note: {cell(said[-1].get('text'))}")
        except UnreachableError:
            return
        finally:
            loop.remove_reader(follow.fileno())
            follow.close()

    def _note(self, text: str) -> None:
        """Print a line above the prompt, which is shown again as it is now."""
        if self._echo:
            self._echo.renew(self._shown)
            self._echo.below(self._session.default_buffer.text, "\n".join(hang(text, self._context.style)))
        else:
            run_in_terminal(lambda: self._context.say(text))

    def _look(self) -> None:
        """Update the prompt: host name and current relay state. During a paste it stays unchanged."""
        level = None if self._context.mode is None else self._context.mode.level
        if self._prompt and level == self._level and self._typed_ahead():
            return
        self._level = level
        try:
            status = self._context.client.call("status.show", wait=PROMPT_S)
        except NoAnswerError:
            state, self._alarmed = "bypassd busy", True
        except UnreachableError:
            state, self._alarmed = "bypassd not reachable", True
        except BypassError:
            state, self._alarmed = "state unknown", True
        else:
            state, self._alarmed = prompt_state(status)
            if isinstance(status, dict) and status.get("hostname"):
                self._hostname = cell(status["hostname"])
            if isinstance(status, dict) and "BYPASS_IDLE_S" not in os.environ:
                self._idle_s = float(status.get("idle_timeout_s", self._idle_s))
            config = status.get("config") if isinstance(status, dict) else None
            left = config.get("confirm_s") if isinstance(config, dict) else None
            self._confirm_at = None if left is None else time.monotonic() + float(left)
        if self._context.mode is None:
            self._prompt = f"{self._hostname} [{state}]> "
            return
        self._prompt = f"{self._hostname} [{state}] {self._context.mode.prompt()}# "

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()

        @keys.add("?")
        def _(event: KeyPressEvent) -> None:
            before = event.current_buffer.document.text_before_cursor
            if tokenize(before)[1]:  # inside quotes it is an ordinary character
                event.current_buffer.insert_text("?")
                return
            self._print(before + "?", lambda: help_text(before, self._context))

        @keys.add("tab")
        def _(event: KeyPressEvent) -> None:
            self._complete(event.current_buffer)

        return keys

    def _complete(self, buffer: Buffer) -> None:
        """Tab: insert the unambiguous part, or list the possibilities."""
        before = buffer.document.text_before_cursor
        if other := other_level(before, self._context):
            with other[0]:
                found = completion(other[1], self._context.names.of, self._context.table)
        else:
            found = completion(before, self._context.names.of, self._context.table)
        if found.insert:
            buffer.insert_text(found.insert)
        elif found.rows:
            self._print(before, lambda: found.text(self._terminal.size[0]))

    def _print(self, line: str, make: Callable[[], str]) -> None:
        """Keep `line` as typed, print below it, then show the line again for editing."""

        def show() -> None:
            self._context.style = self._terminal.style  # the window may have been resized
            shown = f"{self._shown}{line}"
            if self._echo:
                self._echo.complete(line)
            else:
                print(shown, flush=True)
            with typing_ahead(sys.stdin.fileno(), signals=False):
                typed = self._paged(make(), 1 + len(shown) // self._terminal.size[0])
            if self._echo:
                self._echo.again()
            if typed:
                self._session.default_buffer.insert_text(typed)
            if self._idle:
                self._session.app.exit(exception=IdleError)

        run_in_terminal(show)
