# SPDX-License-Identifier: GPL-2.0-only
"""The list of commands, for `help` and for COMMANDS.md: made from the table. Pure.

`python -m console.manual > console/COMMANDS.md` writes the file.
"""

from __future__ import annotations

from collections.abc import Sequence

from console.commands import PIPES, TOPICS
from console.configure_rows import ROWS
from console.outcome import EXIT_CODES
from console.table import Command

_WIDE = 44  # columns; a longer syntax has a line of its own


def rows(table: Sequence[Command]) -> list[str]:
    """Every command of a table, aligned."""
    width = max((len(row.syntax) for row in table if len(row.syntax) < _WIDE), default=0)
    return [line for row in table for line in _row(row, width)]


def commands(words: str = "") -> list[str]:
    """Every command that begins with `words`, aligned, by topic."""
    topics = {topic: [row for row in rows if row.syntax.startswith(words)] for topic, rows in TOPICS.items()}
    width = max((len(row.syntax) for rows in topics.values() for row in rows if len(row.syntax) < _WIDE), default=0)
    lines: list[str] = []
    for topic, rows in topics.items():
        if rows and not words:
            lines += [*([""] if lines else []), topic]
        for row in rows:
            lines += _row(row, width)
    return lines


def _row(row: Command, width: int) -> list[str]:
    if len(row.syntax) > width:
        return [f"  {row.syntax}", f"  {' ' * width}  {row.help}"]
    return [f"  {row.syntax.ljust(width)}  {row.help}"]


def around() -> list[str]:
    """What holds for every command: abbreviations, pipes, exit codes."""
    pipes: Sequence[str] = [f"| {pipe.syntax}" for pipe in PIPES]
    return [
        "Words may be abbreviated. ? shows what may come next, Tab completes.",
        f"Behind a command: --json, {', '.join(pipes)}",
        *(f"Exit code {code}: {text}" for code, text in EXIT_CODES.items()),
    ]


def manual() -> str:
    """COMMANDS.md."""
    text = "\n".join(commands())
    about = "\n".join(f"- {line}" for line in around())
    mode = "\n".join(rows(ROWS))
    made = "Made from the table in `commands.py` by `python -m console.manual`."
    return f"# Commands\n\n{made}\n\n```\n{text}\n```\n\n{about}\n\n## In `configure`\n\n```\n{mode}\n```\n"


if __name__ == "__main__":
    print(manual(), end="")
