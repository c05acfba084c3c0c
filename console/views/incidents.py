# SPDX-License-Identifier: GPL-2.0-only
"""Guest crashes and failures, and flows in quarantine. Pure."""

from __future__ import annotations

from typing import Any

from console.render import BOLD, PLAIN, Row, Style, duration, generic, paint, pairs
from console.views.common import clock, columns_of, known, printed


def _when(row: Row) -> Row:
    bypass = row.get("bypass_at_most_ms")
    names = row.get("quarantined")
    return {
        **row,
        "when": clock(row.get("when")),
        "times": row.get("times") if row.get("times") != 1 else None,
        "last": clock(row.get("last")) if row.get("times", 1) != 1 else None,
        "bypass": f"{bypass} ms" if isinstance(bypass, int | float) else None,
        "quarantined": ", ".join(map(str, names)) if isinstance(names, list) else names,
    }


def _left(row: Row) -> Row:
    guests = row.get("guests")
    return {
        **row,
        "left": duration(row.get("left_s")),
        "guests": ", ".join(map(str, guests)) if isinstance(guests, list) else guests,
    }


table_of_all = columns_of("incidents", "no incidents: no guest has crashed or failed", [
    ("number", "INCIDENT"), ("when", "WHEN"), ("guest", "GUEST"), ("kind", "KIND"), ("cause", "CAUSE"),
    ("times", "TIMES"), ("last", "LAST"), ("frames", "FRAMES"), ("flows", "FLOWS"), ("bypass", "BYPASSED WITHIN"),
    ("quarantined", "QUARANTINED"),
    ("detail", "DETAIL"),
], _when)  # fmt: skip

quarantine = columns_of("quarantine", "no flow is in quarantine", [
    ("name", "NAME"), ("flow", "FLOW"), ("guests", "BYPASSES"), ("left", "TIME LEFT"), ("rules", "RULES"),
    ("why", "WHY"),
], _left)  # fmt: skip


def one(data: Any, style: Style = PLAIN) -> str:
    """The facts, then the flows, then the guest's console output before the failure."""
    if not isinstance(data, dict):
        return generic(data, style)
    head = {
        key: value
        for key, value in data.items()
        if key not in ("flows", "console", "at") and value not in (None, "", [])
        if not (key in ("times", "last") and data.get("times", 1) == 1)
    }
    blocks = [pairs(known(head), style)]
    for key, title in (("flows", "flows, newest first"), ("console", "console output before the failure")):
        value = data.get(key)
        lines = value if isinstance(value, list) else str(value or "").splitlines()
        if lines:
            said = (f"  {line}".rstrip() for line in printed(lines))
            blocks.append("\n".join([paint(title, BOLD, style), *said]))
    return "\n\n".join(blocks)
