# SPDX-License-Identifier: GPL-2.0-only
"""`configure`: the candidate, edited on a terminal, or by lines on standard input that count as one.

The candidate itself, who holds it and how it is committed are bypassd's (appliance/config/api.py); here is what a
person types and sees: levels, prompt, files, progress. `Mode` lives from `configure` to `exit`, or for one script.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.errors import BypassError, RefusedError
from console.commands import configure_script
from console.commands.configure_script import Line
from console.execute import run_tokens
from console.line.configure_commands import ROWS
from console.line.outcome import GOOD, REFUSED, Outcome
from console.line.parse import Parsed, Token, UsageError
from console.line.pipes import save_text
from console.render import cell, duration
from console.session import Context, Mode

COMMIT_S = 120.0  # that a commit may take
END_OF_TEXT = "."  # a line that ends a text typed for `load -`
MAX_FILE = 4 << 20  # bytes


def configure(parsed: Parsed, context: Context) -> Outcome:
    """`configure`: on a terminal the mode; with a line, or lines on standard input, all of them or nothing."""
    if context.mode is not None:
        raise RefusedError("this is configure already")
    if parsed.rest:
        return configure_script.run([Line(1, [Token(word) for word in parsed.rest])], context)
    if context.terminal is None:
        if sys.stdin.isatty():
            raise RefusedError("configure needs the shell (`bypass`), a line behind it, or lines on standard input")
        return configure_script.run(configure_script.read(sys.stdin), context)
    began = context.client.call("config.edit", {"takeover": True} if "takeover" in parsed.options else {})
    Mode(context)
    if began.get("message"):
        context.say(f"note: {cell(began['message'])}: `compare` shows them, `discard` throws them away")
    if began.get("confirm"):
        context.say(f"note: {probation(began['confirm'])}")
    return Outcome([], "lines")


def probation(pending: dict[str, Any], how: str = "confirm") -> str:
    """What a commit on probation waits for, and how it is given."""
    left = duration(pending.get("seconds_left", 0))
    return f"commit {cell(pending.get('number'))} is taken back in {left} unless it is confirmed: `{how}`"


def _mode(context: Context) -> Mode:
    assert context.mode is not None, "these commands are in the table of the mode alone"
    return context.mode


def _call(context: Context, method: str, **params: object) -> Any:
    return context.client.call(f"config.{method}", params, COMMIT_S)


def _said(result: dict[str, Any], context: Context) -> Outcome:
    """What bypassd answers to a small change; a script is told of failures only."""
    return Outcome(result, "config-changed") if context.terminal is not None else Outcome([], "lines")


def change(parsed: Parsed, context: Context) -> Outcome:
    """`set WORDS`, `delete WORDS`."""
    words = _mode(context).words(parsed)
    return _said(_call(context, str(parsed.command.words[0]), words=words), context)


def move(parsed: Parsed, context: Context) -> Outcome:
    """`move TABLE NAME first|last|before OTHER|after OTHER`."""
    words = _mode(context).words(parsed)
    table, tail = words[:2], " ".join(words[2:]).split()  # Tab offers "before OTHER" as one word
    if len(table) < 2 or tail[:1] not in (["first"], ["last"], ["before"], ["after"]):
        raise UsageError("move TABLE NAME first, last, before OTHER or after OTHER")
    if len(tail) != (2 if tail[0] in ("before", "after") else 1):
        raise UsageError(f"{tail[0]} whom?" if len(tail) == 1 else f"{tail[0]} takes one name at most")
    other: dict[str, object] = {"other": tail[1]} if len(tail) == 2 else {}
    return _said(_call(context, "move", words=table, where=tail[0], **other), context)


def _is_table(level: tuple[str, ...], context: Context) -> bool:
    found = _call(context, "complete", words=list(level), action="set")
    kinds = {row.get("kind") for row in found.get("words", [])}
    return len(found.get("path", [])) == len(level) and bool(kinds & {"key", "table"})


def edit(parsed: Parsed, context: Context) -> Outcome:
    """`edit WORDS`: go into a table, which need not be there yet."""
    mode = _mode(context)
    level = tuple(mode.words(parsed))
    if not _is_table(level, context):
        raise RefusedError(f"{' '.join(level)} is no table with keys; `edit ?` shows what is")
    mode.go(level)
    return Outcome([], "lines")


def up(_: Parsed, context: Context) -> Outcome:
    """`up`."""
    mode = _mode(context)
    level = mode.level[:-1]
    while level and not _is_table(level, context):
        level = level[:-1]
    mode.go(level)
    return Outcome([], "lines")


def top(_: Parsed, context: Context) -> Outcome:
    """`top`."""
    _mode(context).go(())
    return Outcome([], "lines")


def leave(_: Parsed, context: Context) -> Outcome:
    """`exit`: out of the table, or out of the mode."""
    mode = _mode(context)
    if mode.level:
        return up(_, context)
    ended = _call(context, "end")
    mode.end()
    if ended.get("message"):
        context.say(f"note: {cell(ended['message'])}")
    with contextlib.suppress(BypassError):
        if pending := _call(context, "status").get("confirm"):
            context.say(f"note: {probation(pending, 'configuration confirm')}")
    return Outcome([], "lines")


def show(parsed: Parsed, context: Context) -> Outcome:
    """`show [WORDS] [of WHICH] [as FORM]`, also outside of the mode as `show configuration`."""
    words = context.mode.words(parsed) if context.mode else list(parsed.rest)
    params: dict[str, object] = {"words": words} if words else {}
    form = parsed.options.get("as", ["json" if "--json" in parsed.options else "toml"])[0]
    of = parsed.options.get("of", ["candidate" if context.mode else "running"])[0]
    found = _call(context, "show", **params, of=of, format=form)
    return Outcome(found["data"]) if form == "json" else Outcome(found["text"].splitlines(), "lines")


def compare(parsed: Parsed, context: Context) -> Outcome:
    """`compare [OLD [NEW]]`: running to candidate when nothing is said."""
    given = {key.lower(): value for key, value in parsed.args.items()}
    return Outcome(_call(context, "compare", **given), "config-compare")


def check(_: Parsed, context: Context) -> Outcome:
    """`commit check`."""
    found = _call(context, "check")
    return Outcome(found, "config-check", GOOD if found.get("good") else REFUSED)


def commit(parsed: Parsed, context: Context) -> Outcome:
    """`commit [confirmed SECONDS] [comment TEXT]`."""
    params: dict[str, object] = {}
    if parsed.args.get("TEXT"):
        params["comment"] = parsed.args["TEXT"]
    if "SECONDS" in parsed.args:
        params["confirmed_s"] = int(parsed.args["SECONDS"])
    with _progress(context):
        done = _call(context, "commit", **params)
    return Outcome(done, "config-commit")


@contextlib.contextmanager
def _progress(context: Context) -> Iterator[None]:
    """Say each phase of a commit while it lasts, to a person."""
    if context.terminal is None:
        yield
        return
    events = context.client.events(["config"])

    def follow() -> None:
        with contextlib.suppress(BypassError, OSError, ValueError):
            for _, event in events:
                if done.is_set():
                    return
                if event.get("event") == "progress":
                    context.say(f"  {cell(event.get('text'))}")

    done = threading.Event()
    threading.Thread(target=follow, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def confirm(_: Parsed, context: Context) -> Outcome:
    """`confirm`."""
    return Outcome(_call(context, "confirm"), "done")


def revert(_: Parsed, context: Context) -> Outcome:
    """`revert`."""
    return Outcome(_call(context, "revert"), "done")


def rollback(parsed: Parsed, context: Context) -> Outcome:
    """`rollback N`."""
    return _said(_call(context, "rollback", number=int(parsed.args["NUMBER"])), context)


def discard(_: Parsed, context: Context) -> Outcome:
    """`discard`: the candidate is the running configuration again."""
    mode = _mode(context)
    _call(context, "end", discard=True)
    _call(context, "edit")
    mode.go(())
    return _said({"message": "all uncommitted changes are thrown away"}, context)


def load(parsed: Parsed, context: Context) -> Outcome:
    """`load FILE`, `load merge FILE`; `-` is standard input."""
    file = parsed.args["FILE"]
    text = _typed(context) if file == "-" else _read(Path(file))
    merge = "merge" in parsed.command.words
    done = _call(context, "load", text=text, mode="merge" if merge else "replace", source=file)
    for error in done.get("errors", []):
        context.say(f"warning: {cell(error.get('where'))}: {cell(error.get('what'))}")
    return _said(done, context)


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_FILE:
            raise RefusedError(f"{file}: is larger than {MAX_FILE >> 20} MB")
        return file.read_text("utf-8")
    except OSError as error:
        raise RefusedError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RefusedError(f"{file}: is no text in UTF-8") from error


def _typed(context: Context) -> str:
    """A text from standard input: to its end, or, typed on a terminal, to a line with a single full stop."""
    if context.terminal is None:
        return sys.stdin.read(MAX_FILE)
    context.say(f"type or paste the configuration, then a line with {END_OF_TEXT} alone; Ctrl-C gives up")
    lines: list[str] = []
    with context.terminal.lines():
        for line in sys.stdin:
            if line.rstrip("\r\n") == END_OF_TEXT:
                break
            lines.append(line)
    return "".join(lines)


def save(parsed: Parsed, context: Context) -> Outcome:
    """`save FILE`: with its secrets, so that it can be loaded again; readable by its owner only."""
    text = _call(context, "show", of="candidate", secrets=True)["text"]
    if parsed.args["FILE"] == "-":
        return Outcome(text.splitlines(), "lines")
    return Outcome([save_text(text.rstrip("\n"), Path(parsed.args["FILE"]))], "lines")


def history(_: Parsed, context: Context) -> Outcome:
    """`history`, and `show commits`."""
    return Outcome(_call(context, "history"), "config-history")


def status(_: Parsed, context: Context) -> Outcome:
    """`status`, and `show candidate`."""
    return Outcome(_call(context, "status"), "config-status")


def run(parsed: Parsed, context: Context) -> Outcome:
    """`run COMMAND`: a command of the shell, without leaving."""
    mode = _mode(context)
    context.table = mode.outside
    try:
        return Outcome([], "lines", run_tokens([Token(word) for word in parsed.rest], context))
    finally:
        if context.mode is mode:
            context.table = ROWS


def help(parsed: Parsed, context: Context) -> Outcome:
    """`help`."""
    from console.line import manual

    return Outcome(manual.rows(ROWS, 0 if parsed.pipes else context.style.width), "lines")
