# SPDX-License-Identifier: GPL-2.0-only
"""`configure` lines that are applied as one change: `ssh admin@box configure < changes`. All or none.

Every line is parsed before the first one runs. A failure undoes everything. Changes that are uncommitted at the end are
committed, unless the last line is `commit check`: then the script is a dry run and changes nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TextIO

from appliance.errors import BypassError, RefusedError
from console.commands.one_commit import uncommitted
from console.execute import run_tokens
from console.line.configure_commands import ROWS
from console.line.outcome import GOOD, Outcome
from console.line.parse import Token, UsageError, parse, tokenize
from console.render import cell
from console.session import Context

# functions that only read, or need no hold of the candidate
_READS = {
    f"configure:{name}" for name in ("show", "compare", "check", "history", "status", "help", "confirm", "revert")
}
MAX_LINES = 100_000


class Line(NamedTuple):
    """One command and its line number."""

    number: int
    tokens: Sequence[Token]


def read(lines: TextIO) -> list[Line]:
    """The commands of a text; empty lines and comments are skipped. UsageError: a closing quote is missing."""
    found = []
    try:
        for number, text in enumerate(lines, 1):
            tokens, open_quote = tokenize(text)
            if open_quote:
                raise UsageError(f"line {number}: missing closing quote; nothing was changed")
            if number > MAX_LINES:
                raise UsageError(f"more than {MAX_LINES} lines")
            if tokens and not (tokens[0].text.startswith("#") and not tokens[0].quoted):
                found.append(Line(number, tokens))
    except UnicodeDecodeError as error:
        raise UsageError("standard input is not UTF-8 text; nothing was changed") from error
    return found


def run(lines: Sequence[Line], context: Context) -> Outcome:
    """Run all lines, or change nothing."""
    from console.session import Mode

    does = []
    for line in lines:
        try:
            does.append(parse(line.tokens, ROWS).command.local)
        except UsageError as error:
            raise UsageError(f"line {line.number}: {error}; nothing was changed") from error
    changes = not set(does) <= _READS
    dry = bool(does) and does[-1] == "configure:check"
    if changes:
        _hold(context, clean=does[0] != "configure:discard")
    mode = Mode(context)
    whole = False
    try:
        number, code = _each(lines, context)
        if code == GOOD and changes and context.client.call("config.status")["changes"]:
            if dry:
                context.say("note: the last line is `commit check`: the changes were checked and not committed")
            else:
                number, code = 0, run_tokens([Token("commit")], context)
        whole = code == GOOD
    finally:
        mode.end()
        if changes:
            _let_go(context, discard=dry or not whole)
    if not whole and changes:
        context.say(f"error: {f'line {number} failed' if number else 'commit failed'}; uncommitted changes discarded")
    return Outcome([], "lines", code)


def _each(lines: Iterable[Line], context: Context) -> tuple[int, int]:
    """(the line that failed, its exit code), or (the last line, GOOD)."""
    number = 0
    for number, tokens in lines:
        code = run_tokens(tokens, context)
        if code != GOOD:
            return number, code
        if context.mode is None:  # exit
            break
    return number, GOOD


def warn_of_crashes(context: Context) -> None:
    """Warn the user that the machine has crashed: the last change of the configuration may be the cause."""
    with contextlib.suppress(BypassError):
        if alarm := context.client.call("status.show").get("crashes", {}).get("alarm"):
            context.say(f"note: {cell(alarm)}")


def _hold(context: Context, *, clean: bool) -> None:
    """Hold the candidate, which must have no uncommitted changes: they would be committed too."""
    began = context.client.call("config.edit")
    warn_of_crashes(context)
    if clean and began.get("changes"):
        context.client.call("config.end")
        raise RefusedError(
            f"{uncommitted(began)}, which would be committed too: "
            "`configure compare` shows them, `configure discard` drops them"
        )


def _let_go(context: Context, *, discard: bool) -> None:
    try:
        context.client.call("config.end", {"discard": True} if discard else {})
    except BypassError as error:  # another user took it over, or bypassd is gone: then there is nothing to release
        context.say(f"note: {cell(error)}")
