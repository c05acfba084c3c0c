# SPDX-License-Identifier: GPL-2.0-only
"""Shared by the views: tables of selected columns, lines, the alarm block. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from appliance.errors import cells
from console.render import BOLD, PLAIN, RED, Row, Style, cell, duration, fold, generic, paint, table, to_json, visible

View = Callable[[Any, Style], str]


def rows_of(data: Any, key: str = "") -> list[Row]:
    """The list of objects in `data`: a list, a list below `key`, or an object of objects by name."""
    if isinstance(data, dict):
        inner = data.get(key)
        if isinstance(inner, list):
            data = inner
        else:
            data = [{"name": name, **item} for name, item in data.items() if isinstance(item, dict)]
    return [row for row in data if isinstance(row, dict)] if isinstance(data, list) else []


def columns_of(key: str, empty: str, columns: Sequence[tuple[str, str]], change: Callable[[Row], Row] = dict) -> View:
    """A table of selected columns; a column that is empty in every row is omitted."""

    def show(data: Any, style: Style = PLAIN) -> str:
        found = [change(row) for row in rows_of(data, key)]
        if not found:
            return empty if data in ([], {}, None) or isinstance(data, dict | list) else generic(data, style)
        used = [(name, title) for name, title in columns if any(row.get(name) not in (None, "", []) for row in found)]
        return table(found, used, style) if used else generic(list(found), style)

    return show


def by_cause(counted: Any) -> str:
    """`12 (full), 3 (down)`: frames by the cause of their loss."""
    items = counted.items() if isinstance(counted, dict) else ()
    return ", ".join(f"{cell(frames)} ({cell(cause).replace('_', ' ')})" for cause, frames in items)


def alarm(reasons: Iterable[str], style: Style = PLAIN, word: str = "BYPASS") -> str:
    """The block that says that a relay is not inline."""
    head = f"*** {word} *** "
    room = style.width - len(head)
    folded = [line for text in reasons for line in fold(text, room if style.width else 0)]
    begun = [f"{head if index == 0 else ' ' * len(head)}{line}" for index, line in enumerate(folded)]
    return "\n".join(paint(line, RED, style) for line in begun)


def about(key: str, value: Any, style: Style) -> str:
    """`watchdog: armed, timeout 2000 ms`: a line for data without a view of its own; --json shows all of it."""
    if isinstance(value, dict):
        flat = ((name, item) for name, item in value.items() if not isinstance(item, list | dict))
        value = ", ".join(fact(name, item) for name, item in flat if item not in (None, ""))
    name = key.replace("_", " ")
    first, *more = hang(f"{name}: {cell(value)}", style)
    head = paint(name, BOLD, style) + first[len(name) :] if first.startswith(name) else first
    return "\n".join([head, *more])


def caret(pointer: str, style: Style) -> list[str]:
    """A filter with a caret below the error; on a terminal, only the surroundings of the error if it is long."""
    text, _, below = pointer.partition("\n")
    if not style.width or not below:
        return []
    room, at = max(style.width - 4, 16), cells(below) - 1
    if cells(text) > room and at > room // 2:
        cut = next(i for i in range(len(text)) if at - cells(text[:i]) <= room // 2)
        text, at = f"...{text[cut:]}", at - cells(text[:cut]) + 3
    while cells(text) > room:
        text = text[:-1]
    return [f"    {text}", f"    {' ' * at}^"]


def hang(text: str, style: Style) -> list[str]:
    """Fold a line, which may begin with blanks, to the style's width; continuation lines are indented by four."""
    inner = text.lstrip(" ")
    indent = len(text) - len(inner)
    return [" " * indent + line for line in fold(inner, style.width and max(style.width - indent, 16), 4)]


def prose(text: str, style: Style) -> list[str]:
    """Fold a sentence to the style's width; a line that begins with blanks is a list item with hanging indent."""
    return hang(text, style) if text.startswith(" ") else fold(text, style.width)


_CONTROL = re.compile(r"[\x1b\ufffd]\[[0-9;?]*[@-~]")


def printed(lines: Iterable[Any]) -> list[str]:
    """Output of a guest without control sequences, and with at most one empty line in a row."""
    shown: list[str] = []
    for line in lines:
        text = _CONTROL.sub("", str(line)).rstrip()
        if text or (shown and shown[-1]):
            shown.append(cell(text) if text else "")
    return shown if not shown or shown[-1] else shown[:-1]


def known(data: Row) -> Row:
    """Facts for `pairs`: units follow the values, and times have the common format."""
    said: dict[str, Any] = {}
    for key, value in data.items():
        if key in ("when", "at") and isinstance(value, str):
            said[key] = clock(value)
        elif key.endswith("_ms") and isinstance(value, int | float):
            said[key.removesuffix("_ms")] = f"{cell(value)} ms"
        elif key.endswith("_s") and isinstance(value, int | float):
            said[key.removesuffix("_s")] = duration(value)
        else:
            said[key] = value
    return said


_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d(?:\.\d{1,3})?)\d*(Z|[+-]\d\d:\d\d)?")


def clock(when: Any) -> str:
    """A time in the common format of all tables: date and time to the millisecond, and its zone, Z being UTC."""
    found = _TIME.fullmatch(str(when))
    if found is None:
        return str(when if when is not None else "-")
    return f"{found[1]} {found[2]}{(found[3] or '').replace('+00:00', 'Z')}"


def fact(key: str, value: Any) -> str:
    """`timeout_ms` 2000 as `timeout 2000 ms`; states and texts are shown without their key. Sizes are large: in MiB."""
    if key in ("state", "kind", "detail", "text"):
        return cell(value)
    if isinstance(value, bool):
        return f"{key.replace('_', ' ')}: {cell(value)}"
    key = key.replace("asked", "requested")
    if key.endswith("_ms"):
        return f"{key.removesuffix('_ms').replace('_', ' ')} {cell(value)} ms"
    if key.endswith("_s"):
        return f"{key.removesuffix('_s').replace('_', ' ')} {duration(value)}"
    if key.endswith("_bytes") and isinstance(value, int):
        return f"{key.removesuffix('_bytes').replace('_', ' ')} {value >> 20} MiB"
    return f"{key.replace('_', ' ')} {cell(value)}"


def done(data: Any, style: Style = PLAIN) -> str:
    """The answer of a command that changes something."""
    if isinstance(data, dict) and isinstance(data.get("message"), str):
        return cell(data["message"])
    return "done" if data in (None, {}, [], True) else generic(data, style)


def as_json(data: Any, style: Style = PLAIN) -> str:
    """Data that is for programs, on a terminal too."""
    del style
    return to_json(data)


def log_lines(data: Any, style: Style = PLAIN) -> str:
    """Lines of a log, as `lines`; on a terminal long ones are folded, because a log has no form of its own to lose."""
    if not style.width:
        return lines(data)
    return "\n".join(part for line in data for part in hang(visible(line.expandtabs()), style))


def lines(data: Any, style: Style = PLAIN) -> str:
    """Lines of text. On a terminal unprintable characters are replaced; a file or pipe gets the text unchanged."""
    return "\n".join(visible(line.expandtabs()) for line in data) if style.width else "\n".join(data)
