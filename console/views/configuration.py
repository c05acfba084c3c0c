# SPDX-License-Identifier: GPL-2.0-only
"""Configurations: what is different, what is wrong, what a commit came to. Pure."""

from __future__ import annotations

import time
from typing import Any

from appliance.counted import counted
from console.render import BOLD, GREEN, PLAIN, RED, YELLOW, Row, Style, cell, duration, fold, generic, paint, table
from console.views.common import columns_of, rows_of

_DIFF = {"+": GREEN, "-": RED, "@": BOLD}


def compare(data: Any, style: Style = PLAIN) -> str:
    """A difference line by line, then what it means for what runs."""
    if not isinstance(data, dict):
        return generic(data, style)
    lines = [cell(line) if line else "" for line in str(data.get("text", "")).splitlines()]
    if not lines:
        return "no difference"
    painted = "\n".join(paint(line, _DIFF.get(line[:1], ""), style) for line in lines)
    effects = _changes(data, style)
    return f"{painted}\n\n{effects}" if effects else painted


def _changes(data: Row, style: Style) -> str:
    """What changes, and from when on."""
    found = [
        {**row, "old": _value(row.get("old")), "new": _value(row.get("new"))} for row in rows_of(data.get("changes"))
    ]
    columns = [("where", "CHANGE"), ("old", "OLD"), ("new", "NEW"), ("effect", "EFFECT")]
    return table(found, columns, style) if found else ""


def _value(value: Any) -> str:
    text = cell(value)
    return text if len(text) <= 30 else f"{text[:27]}..."


def check(data: Any, style: Style = PLAIN) -> str:
    """`commit check`: errors, what the change means for traffic, and what it changes."""
    if not isinstance(data, dict):
        return generic(data, style)
    head = paint(cell(data.get("message")), GREEN if data.get("good") else RED, style)
    errors = [_problem("error", row, RED, style) for row in rows_of(data.get("errors"))]
    blocks = ["\n".join([*errors, *_findings(data, style)]), _changes(data, style)]
    return "\n\n".join(block for block in (head, *blocks) if block)


def commit(data: Any, style: Style = PLAIN) -> str:
    """What was committed, what it means, and until when it must be confirmed."""
    if not isinstance(data, dict):
        return generic(data, style)
    lines = _findings(data, style)
    changes = rows_of(data.get("changes"))
    effects = [row for row in changes if not str(row.get("effect", "immediately")).startswith("immediately")]
    lines += [f"{cell(row.get('where'))}: {cell(row.get('effect'))}" for row in effects]
    lines.append(paint(cell(data.get("message")), YELLOW if data.get("confirm") else "", style))
    return "\n".join(lines)


def found(data: Any, style: Style = PLAIN) -> str:
    """What a file holds, and what it means for traffic."""
    return "\n".join([cell(data.get("message")), *_findings(data, style)]) if isinstance(data, dict) else ""


def _findings(data: Row, style: Style) -> list[str]:
    """What a change means for traffic."""
    return [
        _problem(cell(row.get("severity")), row, YELLOW if row.get("severity") == "warning" else "", style)
        for row in rows_of(data.get("lint"))
    ]


def _problem(kind: str, row: Row, colour: str, style: Style) -> str:
    first, *more = fold(f"{kind}: {cell(row.get('where'))}: {cell(row.get('what'))}", style.width)
    return "\n".join([paint(first, colour, style), *(f"    {line}" for line in more)])


history = columns_of("history", "nothing was committed yet", [
    ("n", "ROLLBACK"), ("when", "WHEN"), ("user", "USER"), ("how", "HOW"), ("comment", "COMMENT"),
], lambda row: {**row, "when": str(row.get("when", "-")).replace("T", " ")[:19]})  # fmt: skip


def _clock(seconds: Any) -> str:
    """Seconds since 1970 as a time of day here."""
    if not isinstance(seconds, int | float):
        return cell(seconds)
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def changed(data: Any, style: Style = PLAIN) -> str:
    """What `set`, `delete` and the like did: from what, to what."""
    if not isinstance(data, dict) or not isinstance(data.get("message"), str):
        return generic(data, style)
    said = cell(data["message"])
    if "new" not in data:
        return said
    old, new = (_value(data.get(key)) for key in ("old", "new"))
    return f"{said}: {new}" if old == "-" else f"{said}: {old} -> {new}"


def status(data: Any, style: Style = PLAIN) -> str:
    """Who edits, what is uncommitted, what is on probation."""
    if not isinstance(data, dict):
        return generic(data, style)
    holder, pending = data.get("held_by"), data.get("confirm")
    changes = data.get("changes") or 0
    lines = [f"running: commit {cell(data.get('number'))}; startup: {cell(data.get('startup'))}"]
    held = "nobody"
    if isinstance(holder, dict):
        mine = " (this session)" if data.get("mine") else ""
        held = f"{cell(holder.get('user'))} at {cell(holder.get('tty'))} since {_clock(holder.get('since'))}{mine}"
    lines.append(f"candidate: {counted(changes or 'no', 'uncommitted change')}; edited by {held}")
    if isinstance(pending, dict):
        left = duration(pending.get("seconds_left"))
        text = f"commit {cell(pending.get('number'))} by {cell(pending.get('user'))} is taken back in {left}"
        lines.append(paint(f"{text} unless it is confirmed", YELLOW, style))
    return "\n".join(lines)
