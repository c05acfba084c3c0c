# SPDX-License-Identifier: GPL-2.0-only
"""The commands of `configure` mode, as one table like that of commands.py. Pure data."""

from __future__ import annotations

from console.line.command import Arg, Command, Option


def _words(action: str, text: str, *, optional: bool = False) -> Arg:
    """Words of the configuration; what may come next is asked from bypassd for this action."""
    return Arg("WORDS", text, source=f"config {action}", optional=optional, rest=True)


TEXT = Arg("TEXT", "why", rest=True)
VERSION = "candidate, running, startup, or a number: so many commits ago"
WHICH = Option("of", "another one", Arg("WHICH", VERSION))
FORM = Option("as", "in another form", Arg("FORM", "toml, set or json", choices=("toml", "set", "json")))
JSON = Option("--json", "print data as JSON")
FILE = Arg("FILE", "a file; - is standard input", source="file")
SECONDS = Arg("SECONDS", "taken back by itself after so many, unless it is confirmed", number=True)
TAKEOVER = Option("takeover", "take the candidate from whoever holds it")


def _row(words: tuple[str | Arg, ...], text: str, function: str, *options: Option) -> Command:
    return Command(words, text, local=f"configure:{function}", role="admin", options=options)


ROWS: tuple[Command, ...] = (
    _row(("set", _words("set", "table, name, key, value")), "change or add something", "change"),
    _row(("delete", _words("delete", "table, name, key")), "take something out", "change"),
    _row(("move", _words("move", "rule NAME first, last, before OTHER or after OTHER")), "change the order", "move"),
    _row(("edit", _words("edit", "table and name")), "go into a table: what follows is about it", "edit"),
    _row(("up",), "one table up", "up"),
    _row(("top",), "out of all tables", "top"),
    _row(("show", _words("show", "table, name", optional=True)), "the candidate, or a part of it", "show", WHICH, FORM),
    _row(
        ("compare", Arg("OLD", VERSION, optional=True), Arg("NEW", VERSION, optional=True)),
        "what is different: running to candidate",
        "compare",
        JSON,
    ),
    _row(("commit",), "make the candidate the running configuration, proven or not at all", "commit", JSON),
    _row(("commit", "check"), "what is wrong with the candidate, and what it means for traffic", "check", JSON),
    _row(("commit", "comment", TEXT), "commit, and say why", "commit"),
    _row(("commit", "confirmed", SECONDS), "commit on probation", "commit", JSON),
    _row(("commit", "confirmed", SECONDS, "comment", TEXT), "commit on probation, and say why", "commit"),
    _row(("confirm",), "keep what was committed on probation", "confirm"),
    _row(("revert",), "take back what was committed on probation, now", "revert"),
    _row(
        ("rollback", Arg("NUMBER", "so many commits ago; 0: the running one", number=True)),
        "make the candidate an earlier configuration",
        "rollback",
    ),
    _row(("discard",), "throw all uncommitted changes away", "discard"),
    _row(("load", FILE), "make the candidate what a file says", "load"),
    _row(("load", "merge", FILE), "change of the candidate what a file says", "load"),
    _row(("save", FILE), "the candidate into a file", "save"),
    _row(("export", FILE), "the candidate into a file", "save"),
    _row(("history",), "who committed what, when and why", "history", JSON),
    _row(("status",), "who edits, what is uncommitted, what is on probation", "status", JSON),
    _row(("run", Arg("COMMAND", "a command of the shell", rest=True)), "run a command of the shell", "run"),
    Command(("help",), "these lines", local="configure:help"),
    _row(("exit",), "out of the table, or of configure; uncommitted changes stay", "leave"),
    _row(("quit",), "out of the table, or of configure; uncommitted changes stay", "leave"),
)
