# SPDX-License-Identifier: GPL-2.0-only
"""Run one command line: parse, call, render, pipe, print. The shell and the one-shot client both use it.

Only KeyboardInterrupt, SystemExit and the BrokenPipeError of our output leave `run_line` as exceptions; the exit code
reports all other failures.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from appliance.errors import BypassError, UnreachableError
from console.client import RemoteError
from console.line import habits
from console.line.command import Arg
from console.line.complete import listed
from console.line.configure_commands import ROWS
from console.line.live_names import CONFIG
from console.line.outcome import GOOD, INTERNAL, REFUSED, UNREACHABLE, USAGE, Outcome
from console.line.parse import Parsed, Table, Token, UsageError, complete, parse, seconds, tokenize
from console.line.pipes import pipe
from console.render import cell
from console.views.common import hang

if TYPE_CHECKING:
    from console.session import Context


def run_line(line: str, context: Context) -> int:
    """Run one typed line; "" does nothing."""
    tokens, open_quote = tokenize(line)
    if open_quote:
        context.say("usage: missing closing quote")
        return USAGE
    if tokens and tokens[0].text.startswith("#") and not tokens[0].quoted:
        return GOOD  # comments in scripts
    if not tokens:
        return GOOD
    if tokens[-1].text.endswith("?") and not tokens[-1].quoted:
        context.page(help_text(line.rstrip().removesuffix("?"), context))
        return GOOD
    return run_tokens(tokens, context)


def run_tokens(tokens: Sequence[Token], context: Context) -> int:
    """Run one command."""
    if context.mode is not None and len(tokens) > 1 and _runs_outside(tokens):
        with context.mode.left():
            return run_tokens(tokens[1:], context)
    try:
        outcome, pipes, as_json = _perform(parse(tokens, context.table), context)
        text = pipe(outcome, pipes, as_json, context.style)
        if text:
            context.page(text)
        return outcome.code
    except UsageError as error:
        context.say(f"usage: {cell(error)}")
        return USAGE
    except UnreachableError as error:
        context.say(f"error: {cell(error)}")
        return UNREACHABLE
    except BypassError as error:
        for one in (error, *getattr(error, "also", ())):
            for line in str(one).splitlines() or ["no reason given"]:
                context.say(f"error: {cell(line)}")
        if hint := _hint(error, context, tokens[0].text):
            context.say(f"hint: {cell(hint)}")
        return INTERNAL if isinstance(error, RemoteError) and error.internal else REFUSED
    except BrokenPipeError:
        if output_is_gone():
            raise
        context.say("error: a connection broke before the command had ended; check what was done before you repeat it")
        return UNREACHABLE
    except Exception as error:  # the session must survive a bug in one command
        context.say(f"internal error: {type(error).__name__}: {cell(error)}")
        if os.environ.get("BYPASS_DEBUG"):
            raise
        return INTERNAL


def _runs_outside(tokens: Sequence[Token]) -> bool:
    """Whether a line typed inside `configure` is one of the shell: `run show guests`."""
    return tokens[0].text in habits.RUN and not tokens[0].quoted


def _hint(error: BypassError, context: Context, word: str) -> str:
    """What to do about an error. `commit check` lists all errors of a commit; a refused `set` has reported its own."""
    if context.mode is not None and getattr(error, "kind", "") == "ConfigError":
        whole = "commit".startswith(word)
        return "`commit check` lists all errors of the candidate" if whole else ""
    return str(getattr(error, "hint", ""))


def _perform(parsed: Parsed, context: Context) -> tuple[Outcome, tuple[Parsed, ...], bool]:
    command = parsed.command
    as_json = "--json" in parsed.options
    if command.local:
        return located(command.local)(parsed, context), parsed.pipes, as_json
    params: dict[str, object] = dict(command.fixed)
    numbers = {word.name for word in command.words if isinstance(word, Arg) and word.number}
    times = {word.name for word in command.words if isinstance(word, Arg) and word.time}
    for name, value in parsed.args.items():
        params[name.lower()] = int(value) if name in numbers else round(seconds(value)) if name in times else value
    if context.style.width and not as_json and not parsed.pipes:
        for word in command.words:
            if isinstance(word, Arg) and word.on_terminal is not None:
                params.setdefault(word.name.lower(), word.on_terminal)
    data = context.client.call(command.method, params, command.wait)
    return Outcome(data, command.view), parsed.pipes, as_json


def located(local: str) -> Callable[[Parsed, Context], Outcome]:
    """The function of a command that runs in this process; its module is imported on first use."""
    import importlib

    module, _, function = local.rpartition(":")
    found: Callable[[Parsed, Context], Outcome] = getattr(
        importlib.import_module(f"console.commands.{module or 'offline'}"), function
    )
    return found


def help_text(line: str, context: Context) -> str:
    """What may follow `line`, one item per line with its meaning: the answer to `?`."""
    if other := other_level(line, context):
        with other[0]:
            return help_text(other[1], context)
    names, table = context.names, context.table
    _, partial, items = complete(line, table)
    if not items:
        try:
            parse(tokenize(line)[0], table)
        except UsageError as error:
            return "\n".join(hang(f"  {cell(error)}", context.style))
        return "  <Enter>  execute"
    rows: list[tuple[str, str]] = []
    for item in items:
        proposals = names.of(item.arg, partial, item.before) if item.arg and item.arg.source != "file" else []
        hints = names.hints(item.arg, item.before) if item.arg and not partial else []
        if not (proposals or hints) or item.arg is None or not item.arg.source.startswith(CONFIG):
            rows.append((item.text, item.help))
        rows += [*proposals, *hints]
    try:
        parse(tokenize(line)[0], table)
        open_ = [item for item in items if item.arg is not None and item.arg.source.startswith(CONFIG)]
        if line[-1:].isspace() and all(names.whole(item.arg, item.before) for item in open_ if item.arg):
            rows.append(("<Enter>", "execute"))
    except UsageError:
        pass
    return listed(rows, context.style.width)


def other_level(line: str, context: Context) -> tuple[AbstractContextManager[None], str] | None:
    """Where `line` holds a command of another level: that level, and the command.

    Inside `configure` it is one of the shell, after `run`; in the shell, one of `configure` after that word.
    """
    tokens, _ = tokenize(line)
    if context.mode is not None:
        if not tokens or not _runs_outside(tokens) or not line[tokens[0].start + len(tokens[0].text) :]:
            return None
        return context.mode.left(), line[tokens[0].start + len(tokens[0].text) :].lstrip()
    if len(tokens) < 2 or len(tokens[0].text) < 2 or not "configure".startswith(tokens[0].text):
        return None
    whole = tokens[1].text in {row.words[0] for row in ROWS} and line[tokens[1].start + len(tokens[1].text) :]
    return (_in_table(context, ROWS), line[tokens[1].start :]) if whole else None


@contextmanager
def _in_table(context: Context, table: Table) -> Iterator[None]:
    before, context.table = context.table, table
    try:
        yield
    finally:
        context.table = before


def output_is_gone() -> bool:
    """Whether nobody reads our output any more: only then does a broken pipe mean that."""
    watched = select.poll()
    for stream in (sys.stdout, sys.stderr):
        watched.register(stream.fileno(), 0)  # only what is always reported: POLLERR, POLLHUP, POLLNVAL
    return bool(watched.poll(0))


def quiet_broken_pipe() -> None:
    """Let the interpreter exit without an error message after the reader of our output has gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
