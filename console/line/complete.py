# SPDX-License-Identifier: GPL-2.0-only
"""Tab completion: insert the unambiguous part, or list the possibilities. Pure except for `names`.

No menu is painted, so it works on every terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from console.line.command import Arg
from console.line.commands import COMMANDS
from console.line.parse import Table, complete
from console.render import fold

# (argument, its text so far, the words before it) -> (name, meaning)
NamesOf = Callable[[Arg, str, tuple[str, ...]], list[tuple[str, str]]]


class Completion(NamedTuple):
    """Text to insert at the cursor, or rows (what, meaning) to show."""

    insert: str
    rows: list[tuple[str, str]]

    def text(self, width: int = 0) -> str:
        """The rows, aligned, in `width` columns."""
        return listed(self.rows, width)


def listed(rows: Sequence[tuple[str, str]], width: int = 0) -> str:
    """What may be typed and what it means, aligned; folded to `width` columns if that is known."""
    first = max((len(name) for name, _ in rows), default=0)
    room = width - first - 5 if width else 0
    lines, above = [], ""
    for name, meaning in rows:
        begin, *more = fold(meaning, room) if room >= 16 else [meaning]
        if more and meaning == above:  # that of several choices, which is said once
            begin, more = "", []
        above = meaning
        lines.append(f"  {name.ljust(first)}  {begin}".rstrip())
        lines += [f"  {' ' * first}  {line}" for line in more]
    return "\n".join(lines)


def completion(line: str, names: NamesOf, table: Table = COMMANDS) -> Completion:
    """What Tab at the end of `line` does."""
    _, partial, items = complete(line, table)
    rows: list[tuple[str, str]] = []
    hints: list[tuple[str, str]] = []
    for item in items:
        if item.arg is None:
            rows.append((item.text, item.help))
        else:
            rows += names(item.arg, partial, item.before)
            hints.append((item.text, item.help))
    if not rows:
        return Completion("", hints)
    common = _common([name for name, _ in rows])
    rest = common[len(partial) :]
    if len(rows) == 1:
        end = "" if common.endswith("/") else " "
        return Completion(_escaped(rest) + end, [])
    return Completion(_escaped(rest), [] if rest else rows)


def _common(words: list[str]) -> str:
    """The longest common prefix of all words."""
    low, high = min(words), max(words)
    length = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return low[:length]


def _escaped(text: str) -> str:
    """With a backslash before characters that would end the word or begin a quotation."""
    return "".join(f"\\{char}" if char in " \t|\"'\\" else char for char in text)
