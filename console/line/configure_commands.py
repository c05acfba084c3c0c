# SPDX-License-Identifier: GPL-2.0-only
"""The commands of `configure` mode, as a table like that in commands.py. Pure data."""

from __future__ import annotations

from console.line.command import UNITS, Arg, Command, Option


def _words(action: str, text: str, *, optional: bool = False) -> Arg:
    """Words of the configuration; bypassd says what may follow for this action."""
    return Arg("WORDS", text, source=f"config {action}", optional=optional, rest=True)


TEXT = Arg("TEXT", "the reason for the change", rest=True)
VERSION = "candidate, running, startup, or N for the version N commits ago"
WHICH = Option("of", "show another version", Arg("WHICH", VERSION))
FORM = Option("as", "output format", Arg("FORM", "toml, set or json", choices=("toml", "set", "json")))
JSON = Option("--json", "print data as JSON")
SOURCE = Arg("FILE", "a file; - for standard input", source="file")
TARGET = Arg("FILE", "a file; - for standard output", source="file")
SECONDS = Arg("SECONDS", "roll back after SECONDS unless confirmed; or with a unit: 90s, 10min, 1h", time=True)
UNIT = Arg("UNIT", "the unit of the time", choices=tuple(UNITS), optional=True)
ALONE = Option("without-administrator", "also if nobody can log in as administrator any more")
TAKEOVER = Option("takeover", "take over the candidate from the user who is editing it")


def _row(words: tuple[str | Arg, ...], text: str, function: str, *options: Option) -> Command:
    return Command(words, text, local=f"configure:{function}", role="admin", options=options)


ROWS: tuple[Command, ...] = (
    _row(("set", _words("set", "table, name, key, value")), "add or change a setting", "change"),
    _row(("delete", _words("delete", "table, name, key")), "delete a setting or a table", "change"),
    _row(
        ("move", _words("move", "rule NAME first, last, before OTHER or after OTHER")),
        "change the order of rules or other tables",
        "move",
    ),
    _row(("edit", _words("edit", "table and name")), "enter a table; later commands are relative to it", "edit"),
    _row(("up",), "go up one level", "up"),
    _row(("top",), "go to the top level", "top"),
    _row(
        ("show", _words("show", "table, name", optional=True)),
        "show the candidate, or a part of it",
        "show",
        WHICH,
        FORM,
    ),
    _row(
        ("compare", Arg("OLD", VERSION, optional=True), Arg("NEW", VERSION, optional=True)),
        "show differences between two versions; default: running and candidate",
        "compare",
        JSON,
    ),
    Command(
        ("compare", "traffic", Arg("SECONDS", "how long; or with a unit: 10s, 5min", time=True), UNIT),
        "give frames of the link to running and candidate, and show which would go another way, by rule",
        local="compare_traffic:compare_traffic",
        role="admin",
        options=(JSON,),
    ),
    _row(("commit",), "apply the candidate, only if verification succeeds", "commit", ALONE, JSON),
    _row(("commit", "check"), "validate the candidate and show its effect on traffic; changes nothing", "check", JSON),
    _row(("commit", "comment", TEXT), "commit with a comment", "commit"),
    _row(
        ("commit", "confirmed", SECONDS, UNIT),
        "commit; roll back unless confirmed within SECONDS",
        "commit",
        ALONE,
        JSON,
    ),
    _row(("commit", "confirmed", SECONDS, UNIT, "comment", TEXT), "the same, with a comment", "commit"),
    _row(("confirm",), "keep the commit that is awaiting confirmation", "confirm"),
    _row(("revert",), "roll back the commit that is awaiting confirmation, immediately", "revert"),
    _row(
        ("rollback", Arg("NUMBER", "number of commits to go back; 0: the running configuration", number=True)),
        "load an earlier configuration into the candidate",
        "rollback",
    ),
    _row(("discard",), "discard all uncommitted changes", "discard"),
    _row(("load", SOURCE), "replace the candidate with a file", "load"),
    _row(("load", "merge", SOURCE), "merge a file into the candidate", "load"),
    _row(("save", TARGET), "write the candidate to a file, including secrets", "save"),
    _row(("export", TARGET), "write the candidate to a file to pass on, secrets hidden; `load` reads both", "save"),
    _row(("history",), "commit history: who, when and why", "history", JSON),
    _row(("status",), "who is editing, uncommitted changes, and a commit awaiting confirmation", "status", JSON),
    _row(("run", Arg("COMMAND", "a command of the shell", rest=True)), "run a shell command", "run"),
    Command(("help",), "show this help", local="configure:help"),
    _row(("exit",), "leave this level, or configure; uncommitted changes are kept", "leave"),
    _row(("quit",), "same as `exit`", "leave"),
)
