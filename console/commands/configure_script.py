# SPDX-License-Identifier: GPL-2.0-only
"""Lines of `configure` that count as one: `ssh admin@box configure < changes`. All of them, or nothing.

Every line is parsed before the first is run. What fails undoes all; what is not committed at the end is committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TextIO

from appliance.counted import counted
from appliance.errors import BypassError, RefusedError
from console.execute import run_tokens
from console.line.configure_commands import ROWS
from console.line.outcome import GOOD, Outcome
from console.line.parse import Token, UsageError, parse, tokenize
from console.render import cell
from console.session import Context

# what needs no hold of the candidate
_LOOKS = {
    f"configure:{name}" for name in ("show", "compare", "check", "history", "status", "help", "confirm", "revert")
}
MAX_LINES = 100_000


class Line(NamedTuple):
    """One command, and where it stands."""

    number: int
    tokens: Sequence[Token]


def read(lines: TextIO) -> list[Line]:
    """The commands of a text; empty lines and comments are none. UsageError: a quotation is not closed."""
    found = []
    try:
        for number, text in enumerate(lines, 1):
            tokens, open_quote = tokenize(text)
            if open_quote:
                raise UsageError(f"line {number}: a quotation is not closed; nothing was changed")
            if number > MAX_LINES:
                raise UsageError(f"more than {MAX_LINES} lines")
            if tokens and not (tokens[0].text.startswith("#") and not tokens[0].quoted):
                found.append(Line(number, tokens))
    except UnicodeDecodeError as error:
        raise UsageError("standard input is no text in UTF-8; nothing was changed") from error
    return found


def run(lines: Sequence[Line], context: Context) -> Outcome:
    """Run all of them, or nothing."""
    from console.session import Mode

    does = []
    for line in lines:
        try:
            does.append(parse(line.tokens, ROWS).command.local)
        except UsageError as error:
            raise UsageError(f"line {line.number}: {error}; nothing was changed") from error
    changes = not set(does) <= _LOOKS
    if changes:
        _hold(context, clean=does[0] != "configure:discard")
    mode = Mode(context)
    whole = False
    try:
        number, code = _each(lines, context)
        if code == GOOD and changes and context.client.call("config.status")["changes"]:
            number, code = 0, run_tokens([Token("commit")], context)
        whole = code == GOOD
    finally:
        mode.end()
        if changes:
            _let_go(context, discard=not whole)
    if not whole and changes:
        context.say(f"error: {f'line {number} failed' if number else 'not committed'}: nothing uncommitted was kept")
    return Outcome([], "lines", code)


def _each(lines: Iterable[Line], context: Context) -> tuple[int, int]:
    """(line that failed, its exit code), or that of the last."""
    number = 0
    for number, tokens in lines:
        code = run_tokens(tokens, context)
        if code != GOOD:
            return number, code
        if context.mode is None:  # exit
            break
    return number, GOOD


def _hold(context: Context, *, clean: bool) -> None:
    """Hold the candidate, which must be nobody's work: it would be committed along."""
    began = context.client.call("config.edit")
    if clean and began.get("changes"):
        context.client.call("config.end")
        by = cell(began.get("left_by") or "somebody")
        raise RefusedError(
            counted(began["changes"], f"uncommitted change by {by} is", f"uncommitted changes by {by} are")
            + " in the candidate and would be committed along: "
            "`configure compare` shows them, `configure discard` throws them away"
        )


def _let_go(context: Context, *, discard: bool) -> None:
    try:
        context.client.call("config.end", {"discard": True} if discard else {})
    except BypassError as error:  # taken by somebody else, or bypassd is gone: then nothing is ours to give back
        context.say(f"note: {cell(error)}")
