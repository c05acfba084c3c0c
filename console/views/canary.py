# SPDX-License-Identifier: GPL-2.0-only
"""How a mirror compares with the hop beside it. Pure."""

from __future__ import annotations

from typing import Any

from console.render import GREEN, PLAIN, YELLOW, Style, cell, generic, paint
from console.views.common import columns_of, hang

_verdicts = columns_of("verdicts", "", [
    ("frames", "FRAMES"), ("share", "SHARE"), ("hop", "THE HOP"), ("mirror", "THE MIRROR"), ("example", "FOR EXAMPLE"),
], lambda row: {**row, "share": f"{100 * row.get('share', 0):.1f} %",
                "mirror": row.get("mirror") if row.get("alike") or row.get("hop") != row.get("mirror")
                else f"{cell(row.get('mirror'))} otherwise"})  # fmt: skip
_latency = columns_of("latency", "", [
    ("hop", "HOP"), ("p50_ms", "MEDIAN ms"), ("p99_ms", "99 % ms"), ("made_frames", "OTHER FRAMES OUT"),
])  # fmt: skip


def compared(data: Any, style: Style = PLAIN) -> str:
    """`canary NAME compare`: as before, or where it differs, and how much that says."""
    if not isinstance(data, dict):
        return generic(data, style)
    head = paint(cell(data.get("message")), GREEN if data.get("as_before") else YELLOW, style)
    notes = [f"compared {data.get('compared_frames')} frames in {data.get('seconds')} s"]
    if data.get("one_of", 1) > 1:
        notes.append(f"one of {data['one_of']} TCP and UDP frames was taken at last, because there were more to read")
    if data.get("discarded_rounds"):
        notes.append(f"{data['discarded_rounds']} times too many frames passed, and none of those was compared")
    if data.get("uncopied_frames"):
        notes.append(f"of {data['uncopied_frames']} frames the mirror got no copy: `show mirrors` says why")
    lines = [line for note in notes for line in hang(f"note: {note}", style)]
    blocks = (head, _verdicts(data, style), _latency(data, style), "\n".join(lines))
    return "\n\n".join(block for block in blocks if block)
