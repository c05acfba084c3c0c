# SPDX-License-Identifier: GPL-2.0-only
"""`configure`: edit the candidate on a terminal, or with lines on standard input that are applied as one change.

bypassd owns the candidate, knows who edits it and commits it (appliance/config/api.py); this module has what a user
types and sees: levels, prompt, files, progress. `Mode` lives from `configure` to `exit`, or for one script.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from appliance.errors import BypassError, RefusedError
from console.commands import configure_script
from console.commands.configure_script import END_OF_TEXT, Line, until_full_stop
from console.line.configure_commands import ROWS
from console.line.outcome import GOOD, REFUSED, Outcome
from console.line.parse import Parsed, Token, UsageError, parse, seconds
from console.line.pipes import save_text
from console.render import cell, duration
from console.session import Context, Mode

COMMIT_S = 120.0  # maximum time for a commit
MAX_FILE = 4 << 20  # bytes


def configure(parsed: Parsed, context: Context) -> Outcome:
    """`configure`: enter the mode on a terminal; run a line, or lines on standard input, all or none."""
    if context.mode is not None:
        raise RefusedError("already in configure mode")
    as_json = "--json" in parsed.options
    if parsed.rest:
        return configure_script.run([Line(1, [Token(word) for word in parsed.rest])], context, as_json=as_json)
    if context.terminal is None:
        if sys.stdin.isatty():
            raise RefusedError("configure requires the shell (`bypass`), a command after it, or standard input")
        return configure_script.run(configure_script.read(sys.stdin), context, as_json=as_json)
    if as_json:
        raise UsageError("--json has a meaning with a command after configure, or with commands on standard input")
    began = context.client.call("config.edit", {"takeover": True} if "takeover" in parsed.options else {})
    Mode(context)
    configure_script.warn_of_crashes(context)
    if began.get("message"):
        context.say(f"note: {cell(began['message'])}: `compare` shows them, `discard` drops them")
    if began.get("confirm"):
        context.say(f"note: {awaiting(began['confirm'])}")
    return Outcome([], "lines")


def awaiting(pending: dict[str, Any], how: str = "confirm") -> str:
    """What happens to a commit that is awaiting confirmation, and the command that confirms it."""
    left = duration(pending.get("seconds_left", 0))
    return f"commit {cell(pending.get('number'))} will be rolled back in {left} unless confirmed: `{how}`"


def _mode(context: Context) -> Mode:
    assert context.mode is not None, "these commands exist only in the table of the mode"
    return context.mode


def _call(context: Context, method: str, **params: object) -> Any:
    return context.client.call(f"config.{method}", params, COMMIT_S)


def _noted(answer: Any, context: Context) -> Any:
    """The answer to a commit or a check, which `configure --json` sums up."""
    if context.mode is not None:
        context.mode.done.append(answer)
    return answer


def _changed(result: dict[str, Any], context: Context) -> Outcome:
    """bypassd's answer to a small change; a script reports only failures."""
    return Outcome(result, "config-changed") if context.terminal is not None else Outcome([], "lines")


def change(parsed: Parsed, context: Context) -> Outcome:
    """`set WORDS`, `delete WORDS`."""
    words = _mode(context).words(parsed)
    return _changed(_call(context, str(parsed.command.words[0]), words=words), context)


def move(parsed: Parsed, context: Context) -> Outcome:
    """`move TABLE NAME first|last|before OTHER|after OTHER`."""
    words = _mode(context).words(parsed)
    table, tail = words[:2], " ".join(words[2:]).split()  # Tab proposes "before OTHER" as one word
    relative = tail[:1] in (["before"], ["after"])
    if len(table) < 2 or not (relative or tail[:1] in (["first"], ["last"])) or len(tail) != 1 + relative:
        raise UsageError("expected: move TABLE NAME first|last|before OTHER|after OTHER")
    other: dict[str, object] = {"other": tail[1]} if relative else {}
    return _changed(_call(context, "move", words=table, where=tail[0], **other), context)


def _is_table(level: tuple[str, ...], context: Context) -> bool:
    found = _call(context, "complete", words=list(level), action="set")
    kinds = {row.get("kind") for row in found.get("words", [])}
    return len(found.get("path", [])) == len(level) and bool(kinds & {"key", "table"})


def edit(parsed: Parsed, context: Context) -> Outcome:
    """`edit WORDS`: enter a table, which need not exist yet."""
    mode = _mode(context)
    level = tuple(mode.words(parsed))
    if not _is_table(level, context):
        raise RefusedError(f"{' '.join(level)} is not a table with keys; `edit ?` lists those that are")
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
    """`exit`: leave the level, or the mode."""
    mode = _mode(context)
    if mode.level:
        return up(_, context)
    ended = _call(context, "end")
    mode.end()
    if ended.get("message"):
        context.say(f"note: {cell(ended['message'])}")
    with contextlib.suppress(BypassError):
        if pending := _call(context, "status").get("confirm"):
            context.say(f"note: {awaiting(pending, 'configuration confirm')}")
    return Outcome([], "lines")


def show(parsed: Parsed, context: Context) -> Outcome:
    """`show [WORDS] [of WHICH] [as FORM]`; outside the mode `show configuration`."""
    words = context.mode.words(parsed) if context.mode else list(parsed.rest)
    params: dict[str, object] = {"words": words} if words else {}
    form = parsed.options.get("as", ["json" if "--json" in parsed.options else "toml"])[0]
    of = parsed.options.get("of", ["candidate" if context.mode else "running"])[0]
    try:
        found = _call(context, "show", **params, of=of, format=form)
    except BypassError as error:
        if context.mode is not None and _is_of_the_shell(parsed.rest):
            line = " ".join(("show", *parsed.rest))
            raise RefusedError(f"{error}", f"the state is shown by a command of the shell: `run {line}`") from error
        raise
    return Outcome(found["data"]) if form == "json" else Outcome(found["text"].splitlines(), "lines")


def _is_of_the_shell(words: tuple[str, ...]) -> bool:
    """Whether `show WORDS` is a command outside the mode."""
    try:
        parse([Token("show"), *map(Token, words)])
    except UsageError:
        return False
    return True


def compare(parsed: Parsed, context: Context) -> Outcome:
    """`compare [OLD [NEW]]`; default: running and candidate."""
    given = {key.lower(): value for key, value in parsed.args.items()}
    return Outcome(_call(context, "compare", **given), "config-compare")


def check(_: Parsed, context: Context) -> Outcome:
    """`commit check`."""
    found = _noted(_call(context, "check"), context)
    return Outcome(found, "config-check", GOOD if found.get("good") else REFUSED)


def commit(parsed: Parsed, context: Context) -> Outcome:
    """`commit [confirmed SECONDS [UNIT]] [comment TEXT]`."""
    params: dict[str, object] = {}
    if parsed.args.get("TEXT"):
        params["comment"] = parsed.args["TEXT"]
    if "without-administrator" in parsed.options:
        params["without_admin"] = True
    if "SECONDS" in parsed.args:
        time, unit = parsed.args["SECONDS"], parsed.args.get("UNIT", "")
        params["confirmed_s"] = seconds(time, unit)
        if time.isdigit() and not unit:  # other appliances count minutes here
            context.say(f"note: {time} means {time} SECONDS; for minutes type {time}min")
    with _progress(context):
        done = _noted(_call(context, "commit", **params), context)
    as_data = "--json" in parsed.options or parsed.pipes
    return Outcome(done if as_data else {**done, "lint": _news(done.get("lint"), context)}, "config-commit")


def _news(findings: Any, context: Context) -> list[Any]:
    """Without the notes that a commit of this session has printed; warnings stay. `commit check` prints all."""
    rows = [row for row in findings or [] if row.get("severity") != "note" or str(row) not in context.notes]
    context.notes |= {str(row) for row in rows if row.get("severity") == "note"}
    return rows


@contextlib.contextmanager
def _progress(context: Context) -> Iterator[None]:
    """Print each phase of a commit as it happens, on a terminal."""
    if context.terminal is None:
        yield
        return
    try:
        events = context.client.follow(["config"])
    except BypassError:  # the commit itself reports why
        yield
        return
    done = os.eventfd(0, os.EFD_CLOEXEC)

    def show() -> None:
        with contextlib.suppress(BypassError, OSError, ValueError):
            while events.fileno() in select.select([events.fileno(), done], [], [])[0]:
                for _, event in events.read():
                    if event.get("event") == "progress":
                        context.say(f"  {cell(event.get('text'))}")

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.eventfd_write(done, 1)
        thread.join()
        events.close()
        os.close(done)


def confirm(_: Parsed, context: Context) -> Outcome:
    """`confirm`."""
    return Outcome(_noted(_call(context, "confirm"), context), "done")


def revert(_: Parsed, context: Context) -> Outcome:
    """`revert`."""
    return Outcome(_noted(_call(context, "revert"), context), "done")


def rollback(parsed: Parsed, context: Context) -> Outcome:
    """`rollback N`."""
    return _changed(_call(context, "rollback", number=int(parsed.args["NUMBER"])), context)


def discard(_: Parsed, context: Context) -> Outcome:
    """`discard`: reset the candidate to the running configuration."""
    mode = _mode(context)
    _call(context, "end", discard=True)
    _call(context, "edit")
    mode.go(())
    return _changed({"message": "all uncommitted changes discarded"}, context)


def load(parsed: Parsed, context: Context) -> Outcome:
    """`load FILE`, `load merge FILE`; `-` is standard input."""
    file = parsed.args["FILE"]
    text = _typed(context) if file == "-" else _read(Path(file))
    merge = "merge" in parsed.command.words
    done = _call(context, "load", text=text, mode="merge" if merge else "replace", source=file)
    for error in done.get("errors", []):
        context.say(f"warning: {cell(error.get('where'))}: {cell(error.get('what'))}")
    return _changed(done, context)


def _read(file: Path) -> str:
    try:
        if file.stat().st_size > MAX_FILE:
            raise RefusedError(f"{file}: is larger than {MAX_FILE >> 20} MB")
        return file.read_text("utf-8")
    except OSError as error:
        raise RefusedError(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RefusedError(f"{file}: is not UTF-8 text") from error


def _typed(context: Context) -> str:
    """The text after `load -` in a script, else standard input: to its end, or, on a terminal, to a full stop."""
    if context.following is not None:
        return context.following
    if context.terminal is None:
        return sys.stdin.read(MAX_FILE)
    context.say(f"Type or paste the configuration; end with a line that contains only {END_OF_TEXT} (Ctrl-C cancels)")
    with context.terminal.lines():
        return until_full_stop(sys.stdin)


def save(parsed: Parsed, context: Context) -> Outcome:
    """`save FILE`: including secrets, for this appliance; `export FILE`: without them. Readable only by its owner."""
    secrets = parsed.command.words[0] == "save"
    text = _call(context, "show", of="candidate", secrets=secrets)["text"]
    if parsed.args["FILE"] == "-":
        return Outcome(text.splitlines(), "lines")
    return Outcome([save_text(text.rstrip("\n"), Path(parsed.args["FILE"]))], "lines")


def history(_: Parsed, context: Context) -> Outcome:
    """`history`, and `show commits`: the commits that are kept, and those that were rolled back."""
    rows = _call(context, "history")
    for back in _call(context, "status").get("rolled_back", []):
        why = "; ".join(filter(None, (str(back["why"]), str(back["comment"]))))
        row = {"n": None, "number": None, "when": back["when"], "user": back["user"], "how": "rolled back"}
        rows.append({**row, "comment": why})
    return Outcome(sorted(rows, key=lambda row: str(row["when"]), reverse=True), "config-history")


def status(_: Parsed, context: Context) -> Outcome:
    """`status`, and `show candidate`."""
    return Outcome(_call(context, "status"), "config-status")


def run(parsed: Parsed, _: Context) -> Outcome:
    """`run COMMAND`. execute.py has run it outside the mode already, where its words are those of the shell."""
    raise UsageError(f'"{parsed.args["COMMAND"]}" is not a command of the shell')


def help(parsed: Parsed, context: Context) -> Outcome:
    """`help`."""
    from console.line import manual

    return Outcome(manual.rows(ROWS, 0 if parsed.pipes else context.style.width), "lines")
