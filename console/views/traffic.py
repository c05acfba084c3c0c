# SPDX-License-Identifier: GPL-2.0-only
"""What becomes of frames: rules, counters, explain. Pure."""

from __future__ import annotations

from typing import Any

from console.render import BOLD, PLAIN, Row, Style, cell, generic, paint, table
from console.views.common import about, columns_of, rows_of


def _path(row: Row) -> Row:
    path = row.get("path")
    shown = " > ".join(cell(hop) for hop in path) if isinstance(path, list) else path
    return {**row, "segment": row.get("segment") or "every", "match": row.get("match") or "every frame",
            "path": shown or "straight"}  # fmt: skip


rules = columns_of("rules", "no rules: every frame goes straight to the other port", [
    ("name", "RULE"), ("segment", "SEGMENT"), ("frames", "FRAMES"), ("bytes", "BYTES"), ("path", "PATH"),
    ("on_unavailable", "ELSE"), ("match", "MATCH"),
], _path)  # fmt: skip


def counters(data: Any, style: Style = PLAIN) -> str:
    """A table for ports, one for hops, one for rules; what became of the frames stands beside how many came."""
    if not isinstance(data, dict):
        return generic(data, style)
    blocks = []
    for kind in ("ports", "rules", "hops"):
        rows = [_count(row) for row in rows_of(data.get(kind))]
        if rows:
            keys = list(dict.fromkeys(key for row in rows for key in row if key != "taps"))
            titles = [kind.removesuffix("s") if key == "name" else key for key in keys]
            filled = [{key: row.get(key, 0) for key in keys} for row in rows]
            columns = [(key, title.upper().replace("_", " ")) for key, title in zip(keys, titles, strict=True)]
            blocks.append(table(filled, columns, style))
    unknown = data.get("unknown")
    if isinstance(unknown, dict) and unknown.get("frames"):
        blocks.append(about("frames of devices that are not ours", unknown["frames"], style))
    return "\n\n".join(blocks) or generic(data, style)


def _count(row: Row) -> Row:
    """A row of counters with its nested outcomes and reasons as columns of their own."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict) and key != "taps":
            for name, item in value.items():
                frames = item.get("frames") if isinstance(item, dict) else item
                flat[f"{key}_{name}" if key == "skipped" else str(name)] = frames
        else:
            flat[key] = value
    return flat


def explain(data: Any, style: Style = PLAIN) -> str:
    lines = []
    for row in rows_of(data):
        way = " > ".join(row.get("hops") or ["straight"])
        rule = row.get("rule") or "no rule"
        lines.append(f"frame {cell(row.get('frame'))}: {paint(cell(row.get('verdict')), BOLD, style)}  {rule}: {way}")
        lines += [f"    {cell(line)}" for line in row.get("why", [])]
    return "\n".join(lines) or "no frames"


def packets(data: Any, _: Style = PLAIN) -> str:
    """Captured frames, one a line: when, where, which way, how long, in words."""
    found = rows_of(data)
    width = max((len(cell(row.get("place"))) for row in found), default=0)
    return "\n".join(packet(row, width) for row in found) or "no frames"


def packet(row: Row, width: int) -> str:
    """One captured frame."""
    when, place = str(row.get("when"))[11:26], cell(row.get("place")).ljust(width)
    return (
        f"{when}  {place} {cell(row.get('way')).ljust(3)} {cell(row.get('length')).rjust(5)}  {cell(row.get('text'))}"
    )
