# SPDX-License-Identifier: GPL-2.0-only
"""Relays: where they are, and what becomes of the link when nobody drives them; the test of a board. Pure."""

from __future__ import annotations

from typing import Any

from console.render import PLAIN, Row, Style, cell, generic
from console.views.common import clock, columns_of, hang, rows_of


def _word(value: Any) -> str:
    return "not known" if value is None else cell(value)


def _change(row: Row) -> Row:
    word = cell(row.get("relay"))
    return {
        **row,
        "relay": word if word == "inline" else word.upper(),
        **{key: _word(row.get(key)) for key in ("power_up", "unpowered", "on_watchdog")},
        "hang": _hang(row),
    }


def _hang(row: Row) -> str:
    milliseconds = row.get("hang_ms")
    return f"{milliseconds:.0f} ms" if isinstance(milliseconds, int | float) else "no limit known"


_table = columns_of("relays", "the board has no relay", [
    ("name", "RELAY"), ("segment", "SEGMENT"), ("kind", "KIND"), ("relay", "NOW"), ("power_up", "POWER-UP"),
    ("unpowered", "NO POWER"), ("on_watchdog", "WATCHDOG"), ("released", "KEEPER DIES"), ("hang", "DEAD IF HUNG"),
], _change)  # fmt: skip


def table_of_all(data: Any, style: Style = PLAIN) -> str:
    """The table, and below it why each relay does what it does."""
    lines = [line for row in rows_of(data, "relays") for line in _why(row)]
    below = "\n".join(part for line in lines for part in hang(line, style))
    return "\n\n".join(filter(None, (_table(data, style), below)))


def when_nobody_drives(data: Any, style: Style = PLAIN) -> str:
    """One line for each relay on the status page."""
    lines = [
        f"relay {cell(row.get('name'))}: link dead if the computer hangs: {_hang(row)}; "
        f"joined without power: {_word(row.get('unpowered'))}"
        for row in rows_of(data)
    ]
    return "\n".join(part for line in lines for part in hang(line, style))


def _why(row: Row) -> list[str]:
    name = cell(row.get("name"))
    found = [f"{name}: {cell(row['detail'])}"] if row.get("detail") else []
    return [
        *found,
        f"{name}: if the computer hangs, the link is dead for: {_hang(row)} ({cell(row.get('hang_detail'))})",
        f"{name}: joined without power: {_word(row.get('unpowered'))} ({cell(row.get('unpowered_detail'))})",
    ]


def _loud(row: Row) -> Row:
    result = cell(row.get("result"))
    return {**row, "result": result.upper() if result == "failed" else result}


_items = columns_of("items", "the board has nothing to test", [
    ("what", "WHAT"), ("result", "RESULT"), ("detail", "DETAIL"),
], _loud)  # fmt: skip


def board_test(data: Any, style: Style = PLAIN) -> str:
    """A table of everything that was tried, below the board's name."""
    if not isinstance(data, dict):
        return generic(data, style)
    word = "nothing failed" if data.get("passed") else "FAILED"
    about = f"board {cell(data.get('board'))}, version {cell(data.get('version'))}, {clock(data.get('when'))}: {word}"
    return f"{about}\n\n{_items(data, style)}"


def report(data: Any) -> str:
    """The same for a file: one line for each thing, whatever the terminal is."""
    lines = [board_test({**data, "items": []}).partition("\n")[0]]
    for row in rows_of(data, "items"):
        lines.append(f"{cell(row.get('result')):10} {cell(row.get('what'))}: {cell(row.get('detail'))}")
    return "\n".join(lines) + "\n"
