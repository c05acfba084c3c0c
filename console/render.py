# SPDX-License-Identifier: GPL-2.0-only
"""Make text from data: aligned tables, pairs, or JSON; views/ decides on their content. Pure.

Handlers return data; its appearance is decided only here. Colour is a layer on top that changes no width and carries
no meaning of its own: a monochrome serial terminal shows the same text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class Style(NamedTuple):
    """What the output supports. `width` 0: unlimited (a file or pipe)."""

    colour: bool = False
    width: int = 0


PLAIN = Style()
_PROSE = ("DETAIL", "WHAT", "WHY", "COMMENT")  # table columns of prose, which need no title
FOLDED = 24  # minimum width of the last column of a table
_NOT_ASCII = re.compile(r"[^\n -~]+")
GREEN, YELLOW, RED, BOLD = "32", "33", "1;31", "1"
_WORDS = {
    "inline": GREEN, "available": GREEN, "running": GREEN, "up": GREEN, "healthy": GREEN, "valid": GREEN,
    "starting": YELLOW, "rearming": YELLOW, "draining": YELLOW, "stopped": YELLOW, "waiting": YELLOW,
    "overloaded": YELLOW,
    "BYPASS": RED, "DISCONNECT": RED, "down": RED, "failed": RED, "unavailable": RED, "invalid": RED,
    "crashed": RED, "exited": RED, "missing": RED,
}  # fmt: skip


def to_json(data: Any, indent: int | None = 2) -> str:
    """As JSON. Printable non-ASCII characters are kept, all others escaped: C1 controls could drive the terminal."""
    return _NOT_ASCII.sub(_escaped, json.dumps(data, indent=indent, ensure_ascii=False))


def _escaped(found: re.Match[str]) -> str:
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in found[0])


def paint(text: str, code: str, style: Style) -> str:
    """`text` in colour if the style has colour."""
    return f"\x1b[{code}m{text}\x1b[0m" if style.colour and code else text


def cell(value: Any) -> str:
    """One value in a table. Control characters are replaced: they could drive the terminal."""
    if value is None or value == "" or value in ([], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{key}={cell(item)}" for key, item in value.items())
    return visible(str(value))


def visible(text: str) -> str:
    """`text` with each control or other unprintable character replaced: they could drive the terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def duration(seconds: Any) -> str:
    """Seconds in readable form: 42 s, 3 min 20 s, 5 h 2 min, 3 d 4 h."""
    if not isinstance(seconds, int | float):
        return cell(seconds)
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def table(rows: Sequence[Row], columns: Sequence[tuple[str, str]], style: Style = PLAIN) -> str:
    """Aligned columns (key, title); numbers to the right.

    If the terminal is too narrow, the last column is folded; if even that does not fit, the last columns of a row are
    printed below it as text, so that the first ones stay a table and nothing is lost.
    """
    if not columns:
        return "-"
    titles = [title for _, title in columns]
    cells = [[cell(row.get(key)) for key, _ in columns] for row in rows]
    right = [_is_numeric([row.get(key) for row in rows]) for key, _ in columns]
    widths = [max(len(line[i]) for line in [titles, *cells]) for i in range(len(columns))]
    kept = _kept(widths, style.width)
    lines = [_line(titles[:kept], widths[:kept], right[:kept], style, head=True)]
    for line in cells:
        lines += _fold(line[:kept], widths[:kept], right[:kept], style)
        lines += _below(titles[kept:], line[kept:], style)
    return "\n".join(lines)


def _kept(widths: list[int], width: int) -> int:
    """How many columns stay a table: all if the last one can be folded, else as many as fit."""
    before = sum(widths[:-1]) + 2 * (len(widths) - 1)
    if not width or before + min(widths[-1], FOLDED) <= width:
        return len(widths)
    kept, used = 1, widths[0]
    while used + 2 + widths[kept] <= width:
        used += 2 + widths[kept]
        kept += 1
    return kept


def _below(titles: list[str], cells: list[str], style: Style) -> list[str]:
    """The columns that did not fit into a row, as text; empty ones are omitted."""
    named = ((c if t in _PROSE else f"{t.lower()} {c}") for t, c in zip(titles, cells, strict=True) if c != "-")
    said = ", ".join(named)
    return [f"    {line}" for line in fold(said, max(style.width - 4, 16))] if said else []


def _is_numeric(values: Sequence[Any]) -> bool:
    there = [value for value in values if value is not None]
    return bool(there) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in there)


def _line(cells: list[str], widths: list[int], right: list[bool], style: Style, head: bool = False) -> str:
    padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
    padded[-1] = padded[-1].rstrip()
    painted = [paint(p, BOLD if head else _WORDS.get(c, ""), style) for p, c in zip(padded, cells, strict=True)]
    return "  ".join(painted).rstrip()


def fold(text: str, width: int, hanging: int = 0) -> list[str]:
    """`text` in lines of at most `width`, broken at blanks, all but the first indented by `hanging`; 0: unchanged."""
    if not width or len(text) <= width:
        return [text]
    import textwrap

    lines = textwrap.wrap(
        text, max(width, 16), subsequent_indent=" " * hanging, break_on_hyphens=False, break_long_words=False
    )
    return lines or [""]


def _fold(cells: list[str], widths: list[int], right: list[bool], style: Style) -> list[str]:
    """One row as one or more lines."""
    before = sum(widths[:-1]) + 2 * (len(widths) - 1)
    room = style.width - before
    if not style.width or room < min(widths[-1], FOLDED):
        return [_line(cells, widths, right, style)]
    first, *more = fold(cells[-1], room)
    return [_line([*cells[:-1], first], widths, right, style), *(" " * before + line for line in more)]


def pairs(data: Row, style: Style = PLAIN) -> str:
    """`key  value`, one per line; a long value is folded beside its key."""
    width = max((len(str(key)) for key in data), default=0)
    lines = []
    for key, value in data.items():
        first, *more = fold(cell(value), max(style.width - width - 2, 16) if style.width else 0)
        lines.append(f"{paint(str(key).replace('_', ' ').ljust(width), BOLD, style)}  {first}".rstrip())
        lines += [" " * (width + 2) + line for line in more]
    return "\n".join(lines)


def generic(data: Any, style: Style = PLAIN) -> str:
    """Any data: lists of objects as tables, objects as pairs, nested data below its own title."""
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        keys = list(dict.fromkeys(key for row in data for key in row))
        return table(data, [(key, key.upper().replace("_", " ")) for key in keys], style)
    if isinstance(data, list):
        return "\n".join(cell(item) for item in data) or "no data"
    if isinstance(data, dict):
        nested = {key: value for key, value in data.items() if _is_nested(value)}
        flat = {key: value for key, value in data.items() if key not in nested}
        blocks = [pairs(flat, style)] if flat else []
        blocks += [f"{paint(key.replace('_', ' '), BOLD, style)}:\n{generic(v, style)}" for key, v in nested.items()]
        return "\n\n".join(blocks) or "no data"
    return cell(data)


def _is_nested(value: Any) -> bool:
    if isinstance(value, dict):
        return any(isinstance(item, dict | list) for item in value.values()) or len(value) > 6
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)
