# SPDX-License-Identifier: GPL-2.0-only
"""Crash reports and boots of the machine. Pure."""

from __future__ import annotations

from typing import Any

from console.render import PLAIN, Row, Style, cell, duration, generic, visible
from console.views.common import clock, columns_of, rows_of


def _change(row: Row) -> Row:
    return {
        **row,
        "when": clock(row.get("when")) if row.get("when") else "clock not set",
        "ran": duration(row["ran_s"]) if row.get("ran_s") is not None else None,
    }


_reports = columns_of("reports", "no crash reports: the machine has not crashed", [
    ("number", "REPORT"), ("when", "FOUND"), ("kind", "KIND"), ("version", "VERSION"), ("ran", "RAN FOR"),
    ("cause", "CAUSE"),
], _change)  # fmt: skip

_boots = columns_of("boots", "no boots are recorded", [
    ("number", "BOOT"), ("when", "WHEN"), ("kind", "RESET"), ("version", "VERSION"), ("ran", "AFTER"),
    ("report", "REPORT"), ("cause", "CAUSE"),
], _change)  # fmt: skip


def reports(data: Any, style: Style = PLAIN) -> str:
    """The list, or the whole text of one."""
    rows = rows_of(data, "reports")
    if len(rows) == 1 and rows[0].get("text"):
        return "\n".join(visible(line) for line in str(rows[0]["text"]).splitlines())
    return _reports(data, style)


def boots(data: Any, style: Style = PLAIN) -> str:
    """How many, and the newest."""
    if not isinstance(data, dict) or "count" not in data:
        return generic(data, style)
    kinds = data.get("by_kind")
    by_kind = ", ".join(
        f"{cell(kind)} {cell(count)}" for kind, count in (kinds if isinstance(kinds, dict) else {}).items()
    )
    return f"boots: {cell(data['count'])}" + (f" ({by_kind})" if by_kind else "") + "\n\n" + _boots(data, style)
