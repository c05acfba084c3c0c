# SPDX-License-Identifier: GPL-2.0-only
"""The line of a table or key in a TOML text (a configuration, board.toml), for error messages.

tomllib keeps no positions. This scan knows only the usual forms (`[table]`, `[[table]]`, `key =`), and gives no line
where it is not certain.
"""

from __future__ import annotations

import re

Path = tuple[str | int, ...]  # ("rule", 2, "match"): the key `match` of the third [[rule]]

_HEADER = re.compile(r"^\s*(\[\[?)\s*([A-Za-z0-9_-]+)\s*(\]\]?)")
_KEY = re.compile(r"^\s*([A-Za-z0-9_-]+)\s*(?:\.[^=]*)?=")
_QUOTES = re.compile(r'"""|\'\'\'')


class Lines:
    """Line numbers (from 1) of the tables and keys of one text; lives as long as one check."""

    def __init__(self, text: str) -> None:
        self._at: dict[Path, int] = {}
        counts: dict[str, int] = {}
        table: Path = ()
        inside = ""  # the quotes of a multi-line string that is open
        for number, line in enumerate(text.split("\n"), 1):
            was_inside = inside
            for quotes in _QUOTES.findall(line):
                inside = quotes if not inside else ("" if inside == quotes else inside)
            if was_inside:
                continue
            if header := _HEADER.match(line):
                name = header[2]
                if header[1] == "[[":
                    table = (name, counts.get(name, 0))
                    counts[name] = counts.get(name, 0) + 1
                else:
                    table = (name,)
                self._at.setdefault(table, number)
                self._at.setdefault((name,), number)
            elif key := _KEY.match(line):
                self._at.setdefault((*table, key[1]), number)

    def find(self, path: Path) -> int | None:
        """The line of `path`, else of the nearest thing around it, else None."""
        while path:
            if path in self._at:
                return self._at[path]
            path = path[:-1]
        return None
