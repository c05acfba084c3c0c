# SPDX-License-Identifier: GPL-2.0-only
"""`configure` lines that are applied as one change: `ssh admin@box configure < changes`. All or none.

Every line is parsed before the first one runs. A failure undoes everything. Changes that are uncommitted at the end are
committed, unless the last line is `commit check`: then the script is a dry run and changes nothing. After `load -` the
text of a configuration follows, up to a line that is a single full stop, or to the end.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TextIO

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
} | {"compare_traffic:compare_traffic"}
MAX_LINES = 100_000
END_OF_TEXT = "."  # the line that ends a text after `load -`


class Line(NamedTuple):
    """One command and its line number; `text`: what follows `load -`."""

    number: int
    tokens: Sequence[Token]
    text: str | None = None


def read(lines: TextIO) -> list[Line]:
    """The commands of a text; empty lines and comments are skipped. UsageError: a closing quote is missing."""
    found = []
    numbered = enumerate(lines, 1)
    try:
        for number, text in numbered:
            tokens, open_quote = tokenize(text)
            if open_quote:
                raise UsageError(f"line {number}: missing closing quote; nothing was changed")
            if number > MAX_LINES:
                raise UsageError(f"more than {MAX_LINES} lines")
            if tokens and not (tokens[0].text.startswith("#") and not tokens[0].quoted):
                follows = until_full_stop(each for _, each in numbered) if _loads(tokens) else None
                found.append(Line(number, tokens, follows))
    except UnicodeDecodeError as error:
        raise UsageError("standard input is not UTF-8 text; nothing was changed") from error
    return found


def until_full_stop(lines: Iterable[str]) -> str:
    """The text up to a line that is a single full stop, or to the end."""
    return "".join(itertools.takewhile(lambda line: line.rstrip("\r\n") != END_OF_TEXT, lines))


def _loads(tokens: Sequence[Token]) -> bool:
    """Whether this is `load -` or `load merge -`."""
    if tokens[-1].text != "-":
        return False
    try:
        parsed = parse(tokens, ROWS)
    except UsageError:  # run() says what is wrong
        return False
    return parsed.command.words[0] == "load"


def run(lines: Sequence[Line], context: Context, *, as_json: bool = False) -> Outcome:
    """Run all lines, or change nothing; `as_json`: the outcome is one object that sums them up."""
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
    mode, page = Mode(context), context.page
    if as_json:
        context.page = lambda text: None
    whole = same = False
    try:
        number, code = _each(lines, context)
        if code == GOOD and changes:
            same = not context.client.call("config.status")["changes"]
            if dry:
                context.say("note: the last line is `commit check`: the changes were checked and not committed")
            elif not same:
                number, code = 0, run_tokens([Token("commit")], context)
            elif not mode.done:
                context.page("no changes")
        whole = code == GOOD
    finally:
        context.page = page
        mode.end()
        if changes:
            _let_go(context, discard=dry or same or not whole)
    if not whole and changes:
        context.say(f"error: {f'line {number} failed' if number else 'commit failed'}; uncommitted changes discarded")
    return Outcome(_summary(mode.done, context, dry=dry), "json", code) if as_json else Outcome([], "lines", code)


def _summary(done: Sequence[dict[str, Any]], context: Context, *, dry: bool) -> dict[str, Any]:
    """What automation wants to know of the answers to all commits and checks: whether something changed, and what.

    Of a dry run, what would change. `commit`: the number of the configuration that was committed last.
    """
    found = done[-1:] if dry else [answer for answer in done if "number" in answer]
    changes = [change for answer in found for change in answer.get("changes", [])]
    return {
        "changed": bool(changes) or any(answer.get("number") for answer in found),
        "commit": next((n for a in reversed(found) if (n := a.get("number"))), 0) or _newest(context),
        "changes": changes,
        "warnings": [row for answer in found for row in answer.get("lint", []) if row.get("severity") == "warning"],
        "errors": [error for answer in found for error in answer.get("errors", [])],
        "confirm": found[-1].get("confirm") if found else None,
    }


def _newest(context: Context) -> int:
    with contextlib.suppress(BypassError):
        return int(context.client.call("config.status")["number"])
    return 0


def _each(lines: Iterable[Line], context: Context) -> tuple[int, int]:
    """(the line that failed, its exit code), or (the last line, GOOD)."""
    number = 0
    for number, tokens, text in lines:
        context.following = text
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
