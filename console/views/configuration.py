# SPDX-License-Identifier: GPL-2.0-only
"""Configurations: differences, errors, the result of a commit. Pure."""

from __future__ import annotations

import time
from typing import Any

from appliance.counted import counted
from console.render import BOLD, GREEN, PLAIN, RED, YELLOW, Row, Style, cell, duration, generic, paint, table
from console.views.common import caret, clock, columns_of, hang, rows_of

_DIFF = {"+": GREEN, "-": RED, "@": BOLD}


def compare(data: Any, style: Style = PLAIN) -> str:
    """The difference line by line, then its effect on the running system."""
    if not isinstance(data, dict):
        return generic(data, style)
    lines = [cell(line) if line else "" for line in str(data.get("text", "")).splitlines()]
    if not lines:
        return "no differences"
    painted = "\n".join(paint(line, _DIFF.get(line[:1], ""), style) for line in lines)
    effects = _changes(data, style)
    return f"{painted}\n\n{effects}" if effects else painted


def _changes(data: Row, style: Style) -> str:
    """What changes, and when it takes effect."""
    found = [
        {**row, "old": _value(row.get("old")), "new": _value(row.get("new"))} for row in rows_of(data.get("changes"))
    ]
    columns = [("where", "CHANGE"), ("old", "OLD"), ("new", "NEW"), ("effect", "EFFECT")]
    return table(found, columns, style) if found else ""


def _value(value: Any) -> str:
    """At most 30 characters, and no half words where there are whole ones."""
    text = cell(value)
    if len(text) <= 30:
        return text
    words = text[:27].rpartition(" ")[0]
    return f"{words} ..." if len(words) > 15 else f"{text[:27]}..."


_changes_of_traffic = columns_of("changes", "", [
    ("frames", "FRAMES"), ("share", "SHARE"), ("segment", "SEGMENT"), ("in", "IN"), ("old_rule", "RULE NOW"),
    ("old_way", "GOES NOW"), ("new_rule", "RULE THEN"), ("new_way", "GOES THEN"), ("example", "FOR EXAMPLE"),
], lambda row: {**row, "share": f"{100 * row.get('share', 0):.1f} %", "old_rule": row.get("old_rule") or "none",
                "new_rule": row.get("new_rule") or "none",
                "new_way": row.get("new_way") if row.get("elsewhere") else "as now"})  # fmt: skip


def traffic(data: Any, style: Style = PLAIN) -> str:
    """`compare traffic`: how many frames go another way, by rule, and how much that says."""
    if not isinstance(data, dict):
        return generic(data, style)
    head = paint(cell(data.get("message")), YELLOW if data.get("elsewhere_frames") else GREEN, style)
    compared, passed = data.get("compared_frames", 0), data.get("passed_frames", 0)
    notes = [
        f"compared {compared} frames, of {passed} that passed while frames were copied, in {data.get('seconds')} s"
    ]
    for key, says in (("down", "not available, in both"), ("assumed_available", "new, so taken for available")):
        if names := data.get(key):
            notes.append(f"{says}: {', '.join(cell(name) for name in names)}")
    notes.append("not considered: flows that are drained, shunted or in quarantine, overload, filters of guests")
    lines = [line for note in notes for line in hang(f"note: {note}", style)]
    return "\n\n".join(block for block in (head, _changes_of_traffic(data, style), "\n".join(lines)) if block)


def check(data: Any, style: Style = PLAIN) -> str:
    """`commit check`: errors, the effect on traffic, and the changes."""
    if not isinstance(data, dict):
        return generic(data, style)
    head = paint(cell(data.get("message")), GREEN if data.get("good") else RED, style)
    errors = [_problem("error", row, RED, style) for row in rows_of(data.get("errors"))]
    blocks = ["\n".join([*errors, *_findings(data, style)]), _changes(data, style)]
    return "\n\n".join(block for block in (head, *blocks) if block)


def commit(data: Any, style: Style = PLAIN) -> str:
    """What was committed, its effect on traffic, and how long it awaits confirmation."""
    if not isinstance(data, dict):
        return generic(data, style)
    lines = _findings(data, style)
    changes = rows_of(data.get("changes"))
    effects = [row for row in changes if not str(row.get("effect", "immediately")).startswith("immediately")]
    lines += [f"{cell(row.get('where'))}: {cell(row.get('effect'))}" for row in effects]
    lines.append(paint(cell(data.get("message")), YELLOW if data.get("confirm") else "", style))
    return "\n".join(lines)


def found(data: Any, style: Style = PLAIN) -> str:
    """A summary of a file, and its effect on traffic."""
    return "\n".join([cell(data.get("message")), *_findings(data, style)]) if isinstance(data, dict) else ""


def _findings(data: Row, style: Style) -> list[str]:
    """The effect of a change on traffic."""
    return [
        _problem(cell(row.get("severity")), row, YELLOW if row.get("severity") == "warning" else "", style)
        for row in rows_of(data.get("lint"))
    ]


def _problem(kind: str, row: Row, colour: str, style: Style) -> str:
    first, *more = hang(f"{kind}: {cell(row.get('where'))}: {cell(row.get('what'))}", style)
    below = caret(str(row.get("pointer") or ""), style)
    return "\n".join([paint(first, colour, style), *more, *below])


history = columns_of("history", "no commits yet", [
    ("n", "ROLLBACK"), ("number", "COMMIT"), ("when", "WHEN"), ("user", "USER"), ("how", "HOW"), ("comment", "COMMENT"),
], lambda row: {**row, "when": clock(row.get("when"))})  # fmt: skip


def _clock(seconds: Any) -> str:
    """Seconds since 1970 as local time."""
    if not isinstance(seconds, int | float):
        return cell(seconds)
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


def changed(data: Any, style: Style = PLAIN) -> str:
    """The result of `set`, `delete` or `move`: old and new value, or what became of it; else the message alone."""
    if not isinstance(data, dict) or not isinstance(data.get("message"), str):
        return generic(data, style)
    said = cell(data["message"])
    if "path" not in data:
        return said
    if "new" not in data:
        place = data.get("index")
        return f"{said}: moved to place {place + 1}" if isinstance(place, int) else f"{said}: deleted"
    old, new = (_value(data.get(key)) for key in ("old", "new"))
    return f"{said}: {new}" if old == "-" else f"{said}: {old} -> {new}"


def status(data: Any, style: Style = PLAIN) -> str:
    """Who is editing, uncommitted changes, and a commit awaiting confirmation."""
    if not isinstance(data, dict):
        return generic(data, style)
    holder, pending = data.get("held_by"), data.get("confirm")
    changes = data.get("changes") or 0
    lines = [f"running: commit {cell(data.get('number'))}; startup: {cell(data.get('startup'))}"]
    held = "nobody"
    if isinstance(holder, dict):
        mine = " (this session)" if data.get("mine") else ""
        place = f" on {cell(holder['tty'])}" if holder.get("tty") else ""
        held = f"{cell(holder.get('user'))}{place} since {_clock(holder.get('since'))}{mine}"
    lines.append(f"candidate: {counted(changes or 'no', 'uncommitted change')}; edited by {held}")
    if isinstance(pending, dict):
        left = duration(pending.get("seconds_left"))
        text = f"commit {cell(pending.get('number'))} by {cell(pending.get('user'))} is awaiting confirmation"
        lines.append(f"{text}; it will be rolled back in {left} unless confirmed")
    folded = ["\n".join(hang(line, style)) for line in lines]
    if isinstance(pending, dict):
        folded[-1] = paint(folded[-1], YELLOW, style)
    return "\n".join(folded)
