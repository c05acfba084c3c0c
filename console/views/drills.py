# SPDX-License-Identifier: GPL-2.0-only
"""Bypass drills: what they prove, their results, what one means. Pure."""

from __future__ import annotations

from typing import Any

from console.render import PLAIN, Row, Style, cell, generic
from console.views.common import clock, columns_of, hang


def _milliseconds(value: Any) -> str | None:
    return f"{value:.0f} ms" if isinstance(value, int | float) else None


def _change(row: Row) -> Row:
    times = ("to_bypass_ms", "to_inline_ms", "first_frame_ms", "reset_ms")
    return {
        **row,
        **{name: _milliseconds(row.get(name)) for name in times},
        "when": clock(row.get("when")),
        "passed": "passed" if row.get("passed") else "FAILED",
    }


_NONE = "no drill yet: `drill run relay` makes one"
_table = columns_of("results", _NONE, [
    ("kind", "DRILL"), ("segment", "SEGMENT"), ("when", "WHEN"), ("by", "BY"), ("passed", "RESULT"),
    ("to_bypass_ms", "TO BYPASS"), ("to_inline_ms", "TO INLINE"), ("first_frame_ms", "FIRST FRAME"),
    ("reset_ms", "RESET AFTER"), ("detail", "DETAIL"),
], _change)  # fmt: skip


def drills(data: Any, style: Style = PLAIN) -> str:
    """What is proven, what is under way, and the newest result of each."""
    if not isinstance(data, dict) or not isinstance(data.get("protection"), dict):
        return generic(data, style)
    proven = data["protection"]
    lines = [f"{cell(proven.get('state'))}: {cell(proven.get('detail'))}"]
    if data.get("running"):
        lines.append(f"under way: {cell(data['running'])}")
    if data.get("window"):
        lines.append(f"maintenance window: {cell(data['window'])}")
    lines = [part for line in lines for part in hang(line, style)]
    if not data.get("results") and proven.get("state") == "unproven":
        return "\n".join(lines)  # the first line says which drills are missing, and what makes them
    return "\n".join(lines) + "\n\n" + _table(data, style)


def plan(data: Any) -> str:
    """What a drill means, for who decides on it."""
    said = data.get("meaning") if isinstance(data, dict) else None
    return "\n".join(f"- {cell(line)}" for line in said) if isinstance(said, list) else ""
