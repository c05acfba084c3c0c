# SPDX-License-Identifier: GPL-2.0-only
"""The list of commands, for `help` and for COMMANDS.md, generated from the table. Pure.

`python -m console.line.manual > console/COMMANDS.md` writes the file.
"""

from __future__ import annotations

from collections.abc import Sequence

from console.line.command import Arg, Command
from console.line.commands import PIPES, TOPICS
from console.line.configure_commands import ROWS
from console.line.outcome import EXIT_CODES
from console.render import fold

_WIDE = 44  # columns; a longer syntax gets a line of its own
_MEANING = 36  # minimum columns for the meaning beside the syntax


def rows(table: Sequence[Command], columns: int = 0) -> list[str]:
    """Every command of a table, aligned, for a terminal of `columns`; 0: no limit."""
    width = max((len(row.syntax) for row in table if len(row.syntax) < _WIDE), default=0)
    return [line for row in table for line in _row(row, width, columns)]


def commands(words: str = "", columns: int = 0) -> list[str]:
    """Every command that begins with `words`, aligned, by topic; `columns` as for `rows`."""
    topics = _matching(words.split(), named=False) or _matching(words.split(), named=True)
    width = max((len(row.syntax) for rows in topics.values() for row in rows if len(row.syntax) < _WIDE), default=0)
    lines: list[str] = []
    for topic, rows in topics.items():
        if rows and not words:
            lines += [*([""] if lines else []), topic]
        for row in rows:
            lines += _row(row, width, columns)
    return lines


def _matching(words: Sequence[str], *, named: bool) -> dict[str, list[Command]]:
    """The commands that begin with these words, by topic."""
    found = {topic: [row for row in rows if _begins(row, words, named=named)] for topic, rows in TOPICS.items()}
    return found if any(found.values()) else {}


def _begins(row: Command, words: Sequence[str], *, named: bool) -> bool:
    """Whether a command begins with these words, abbreviated or not; `named`: they contain values of arguments."""
    if not words:
        return True
    known = list(row.words)
    for word in words:
        literal = next((each for each in known if isinstance(each, str)), None)
        if literal is not None and literal.startswith(word):
            known = known[known.index(literal) + 1 :]  # with the arguments before it, which may be left out
        elif named and known and isinstance(known[0], Arg):
            known = known[not known[0].rest :]
        else:
            return False
    return True


def _row(row: Command, width: int, columns: int) -> list[str]:
    beside = " " * (width + 4 if not columns or columns - width - 4 >= _MEANING else 6)
    first, *more = fold(row.help, columns - len(beside) if columns else 0)
    below = [beside + line for line in more]
    if len(row.syntax) + 4 > len(beside):
        syntax, *rest = fold(row.syntax, columns - 4 if columns else 0)
        return [f"  {syntax}", *(f"    {line}" for line in rest), beside + first, *below]
    return [f"  {row.syntax.ljust(len(beside) - 4)}  {first}", *below]


def around(columns: int = 0) -> list[str]:
    """What applies to every command: abbreviations, pipes, exit codes; `columns` as for `rows`."""
    return [line for text in _around() for line in fold(text, columns)]


def _around() -> list[str]:
    pipes: Sequence[str] = [f"| {pipe.syntax}" for pipe in PIPES]
    return [
        "Words may be abbreviated. ? shows what may follow, Tab completes.",
        f"After a command: --json, {', '.join(pipes)}",
        *(f"Exit code {code}: {text}" for code, text in EXIT_CODES.items()),
    ]


def manual() -> str:
    """COMMANDS.md."""
    text = "\n".join(commands())
    about = "\n".join(f"- {line}" for line in around())
    mode = "\n".join(rows(ROWS))
    made = "Generated from the table in `line/commands.py` by `python -m console.line.manual`."
    return f"# Commands\n\n{made}\n\n```\n{text}\n```\n\n{about}\n\n## In `configure`\n\n```\n{mode}\n```\n"


if __name__ == "__main__":
    print(manual(), end="")
