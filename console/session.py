# SPDX-License-Identifier: GPL-2.0-only
"""The state of a console session: the context in which commands run, and `configure` mode while it is active."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from appliance.errors import BypassError
from console.client import Client
from console.line.command import Command
from console.line.commands import COMMANDS
from console.line.configure_commands import ROWS
from console.line.live_names import Names
from console.line.parse import Parsed
from console.render import Style
from console.tty import PROMPT_S

if TYPE_CHECKING:
    from console.tty import Terminal


class Context:
    """The context in which commands run: client, streams and their style, available commands. Lives as long as the
    session.

    `page` shows a long text; the shell puts its pager there. `mode` is set while `configure` is active.
    """

    def __init__(self, client: Client, out: TextIO, err: TextIO, style: Style) -> None:
        self.client, self.out, self.err, self.style = client, out, err, style
        self.names = Names(client)
        self.ended = False  # the user typed `exit`
        self.table: Sequence[Command] = COMMANDS
        self.mode: Mode | None = None
        self.following: str | None = None  # in a script: the text that follows `load -`
        self.notes: set[str] = set()  # about the configuration, that a commit of this session has printed
        self.terminal: Terminal | None = None  # set by the shell; None outside it
        self.page: Callable[[str], None] = self._print

    def _print(self, text: str) -> None:
        print(text, file=self.out, flush=True)

    def say(self, text: str) -> None:
        """Print a message for the user, which is not part of the data."""
        if self.style.width and len(text) >= self.style.width:
            import textwrap

            text = textwrap.fill(text, self.style.width - 1, subsequent_indent="  ", break_on_hyphens=False)
        print(text, file=self.err, flush=True)


class Mode:
    """`configure` mode while it is active: its level and its part of the prompt."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.level: tuple[str, ...] = ()
        self.outside = context.table
        self.done: list[dict[str, Any]] = []  # bypassd's answers to commits and checks, for `configure --json`
        context.table, context.mode = ROWS, self

    def go(self, level: tuple[str, ...]) -> None:
        """Go to another level."""
        self.level = self.context.names.prefix = level
        self.context.names.forget()

    def end(self) -> None:
        """Leave the mode; the candidate has been released already."""
        self.go(())
        self.context.table, self.context.mode = self.outside, None

    @contextmanager
    def left(self) -> Iterator[None]:
        """Outside the mode in this block, for one command of the shell; the mode stays active."""
        context, level = self.context, self.context.names.prefix
        context.table, context.mode, context.names.prefix = self.outside, None, ()
        try:
            yield
        finally:
            if context.mode is None:
                context.table, context.mode, context.names.prefix = ROWS, self, level

    def words(self, parsed: Parsed) -> list[str]:
        """The typed words, from the top level of the configuration."""
        return [*self.level, *parsed.rest]

    def prompt(self) -> str:
        """Level and uncommitted changes, for the prompt."""
        where = f" {' '.join(self.level)}" if self.level else ""
        try:
            status: dict[str, Any] = self.context.client.call("config.status", wait=PROMPT_S)
        except BypassError:
            return f"configure{where} (uncommitted changes unknown)"
        if not status.get("mine", True):
            where += " (taken over by another user)"
        return f"configure{where}{'*' if status.get('changes') else ''}"
