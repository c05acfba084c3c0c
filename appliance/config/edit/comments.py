# SPDX-License-Identifier: GPL-2.0-only
"""Comments that belong to a table: they stand directly above its header, and go and stay with it.

tomlkit counts whatever stands behind a table's last key as part of that table, so a comment above `[[rule]]` would go
with the rule before. `parse` takes such comments out of the text first and gives them to the header that they stand
above. A comment with an empty line between it and the next header belongs to no table: `loosen` takes it from one that
goes, and `keep` puts it where it stays.
"""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

_HEADER: Final = re.compile(r"\s*(?:\[\s*([A-Za-z0-9_-]+)\s*\]|\[\[\s*([A-Za-z0-9_-]+)\s*\]\])\s*(?:#.*)?")
_QUOTES: Final = re.compile(r"\"\"\"|'''")


class _Header(NamedTuple):
    """A header at the top level: the table's name, and the comment lines above it."""

    name: str
    comments: str


def parse(text: str) -> TOMLDocument:
    """The document of a text, each comment above a header with its table. Raises what tomlkit raises."""
    import tomlkit

    bare, headers = _lift(text)
    try:
        if tomllib.loads(bare) == tomllib.loads(text):
            doc = tomlkit.parse(bare)
            if _give(doc, headers):
                return doc
    except (ValueError, RecursionError):
        pass  # it has a form that the scan does not know: comments are where tomlkit sees them
    return tomlkit.parse(text)


def _lift(text: str) -> tuple[str, list[_Header]]:
    """The text without the comments above headers, and those headers in order."""
    kept: list[str] = []
    headers: list[_Header] = []
    inside = ""  # the quotes of a multi-line string that is open
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        found = None if inside else _HEADER.fullmatch(line.rstrip("\r\n"))
        if found:
            begin = len(kept)
            while begin and kept[begin - 1].lstrip().startswith("#"):
                begin -= 1
            headers.append(_Header(found[1] or found[2], "".join(kept[begin:])))
            del kept[begin:]
        kept.append(line)
        if inside or not line.lstrip().startswith("#"):
            for quotes in _QUOTES.findall(line):
                inside = quotes if not inside else "" if inside == quotes else inside
    return "".join(kept), headers


def _give(doc: TOMLDocument, headers: list[_Header]) -> bool:
    """Put the comments before the headers; False when the document has other headers than the scan."""
    from tomlkit.items import AoT, Table

    number: dict[str, int] = {}
    for name, comments in headers:
        item: Any = doc.get(name)
        index = number[name] = number.get(name, -1) + 1
        if isinstance(item, AoT) and index < len(item.body):
            item = item.body[index]
        elif index:
            return False
        if comments:
            if not isinstance(item, Table) or item.is_super_table():
                return False
            item.trivia.indent = comments + item.trivia.indent
    return all(number.get(name, -1) + 1 == len(item.body) for name, item in doc.items() if isinstance(item, AoT))


def loosen(table: Any) -> str:
    """Take what stands behind a table and belongs to none out of it: from an empty line on, where comments follow."""
    from tomlkit.items import Comment, Table, Whitespace

    while (last := _last(table)) is not None:
        table = last
    if not isinstance(table, Table):
        return ""
    body = table.value.body
    begin = len(body)
    while begin and body[begin - 1][0] is None and isinstance(body[begin - 1][1], Comment | Whitespace):
        begin -= 1
    tail = body[begin:]
    first = next((at for at, (_, item) in enumerate(tail) if isinstance(item, Whitespace) and "\n" in item.s), None)
    if first is None or not any(isinstance(item, Comment) for _, item in tail[first:]):
        return ""
    text = "".join(item.as_string() for _, item in tail[first:])
    del body[begin + first :]
    return text


def _last(table: Any) -> Any:
    """The table that ends this one, if there is one inside it."""
    from tomlkit.items import AoT, Table

    if isinstance(table, AoT):
        return table.body[-1] if table.body else None
    body = table.value.body if isinstance(table, Table) else []
    inner = body[-1][1] if body else None
    return inner if isinstance(inner, AoT | Table) else None


def keep(doc: TOMLDocument, text: str, before: Any = None) -> None:
    """Put what belonged to no table before another table, or at the end."""
    from tomlkit.items import Table, Whitespace

    if not text:
        return
    if isinstance(before, Table):
        before.trivia.indent = text.removeprefix("\n") + before.trivia.indent
    else:
        doc.body.append((None, Whitespace(text)))


def part(table: Any, following: Any) -> None:
    """Have an empty line between two tables, as the last one of a text has none behind it."""
    from tomlkit.items import Table

    if isinstance(table, Table) and isinstance(following, Table) and not table.as_string().endswith("\n\n"):
        following.trivia.indent = "\n" + following.trivia.indent.removeprefix("\n")
