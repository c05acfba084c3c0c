# SPDX-License-Identifier: GPL-2.0-only
"""What happens to frames: rules, counters, explain, decoded frames. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from appliance.counted import counted
from console.render import BOLD, PLAIN, Row, Style, cell, generic, paint, table
from console.views.common import about, columns_of, hang, rows_of


def _mirror_word(mirror: Row, path: Any) -> str:
    """A mirror of a rule; a path of several hops needs to say whose frames it gets."""
    several = isinstance(path, list) and len(path) > 1
    return cell(mirror.get("hop")) + (f" beside {cell(mirror.get('beside'))}" if several else "")


def _path(row: Row) -> Row:
    path = row.get("path")
    shown = " > ".join(cell(hop) for hop in path) if isinstance(path, list) else path
    copies = ", ".join(_mirror_word(mirror, path) for mirror in rows_of(row.get("mirrors")))
    if copies:
        shown = f"{shown or 'straight'} (copies: {copies})"
    unavailable = row.get("on_unavailable")
    if unavailable is not None and row.get("require") == "all":
        unavailable = f"{cell(unavailable)}, all required"
    if row.get("keep_shunts"):
        unavailable = f"{cell(unavailable)}, but shunted flows"
    match, through = row.get("match") or "every frame", row.get("through")
    if isinstance(through, list) and through:
        match = f"{cell(match)} (through {', '.join(cell(way) for way in through)})"
    return {**row, "segment": row.get("segment") or "every", "match": match, "shunted": row.get("shunted") or None,
            "path": shown or "straight", "on_unavailable": unavailable}  # fmt: skip


_rules = columns_of("rules", "no rules: every frame passes straight to the other port", [
    ("name", "RULE"), ("segment", "SEGMENT"), ("frames", "FRAMES"), ("bytes", "BYTES"), ("path", "PATH"),
    ("on_unavailable", "IF UNAVAILABLE"), ("on_overload", "IF OVERLOADED"), ("excess", "EXCESS"),
    ("shunted", "SHUNTED"), ("match", "MATCH"),
], _path)  # fmt: skip


def _group(row: Row) -> Row:
    members = rows_of(row.get("members"))
    known = row.get("available") is not None
    there = sum(member.get("available") is True for member in members)
    words = []
    for member in members:
        notes = ["spare"] if member.get("spare") else []
        if known and not member.get("available"):
            notes.append("not available")
        elif member.get("draining"):
            notes.append("draining")
        words.append(cell(member.get("name")) + (f" ({', '.join(notes)})" if notes else ""))
    state = "available" if row.get("available") is True else "not available"
    return {**row, "state": state if known else None, "members": ", ".join(words),
            "there": f"{there} of {len(members)}" if known else None,
            "rules": ", ".join(cell(rule) for rule in row.get("rules") or []) or "none"}  # fmt: skip


groups = columns_of("groups", "no groups are configured", [
    ("name", "GROUP"), ("state", "STATE"), ("kind", "KIND"), ("there", "AVAILABLE"), ("minimum", "MINIMUM"),
    ("hash", "FLOWS BY"), ("on_member_failure", "FLOWS OF A FAILED MEMBER"), ("members", "MEMBERS"), ("rules", "RULES"),
], _group)  # fmt: skip


def _mirror(row: Row) -> Row:
    lost, known = row.get("lost"), row.get("available") is not None
    state = "available" if row.get("available") else "not available"
    return {
        **row,
        "state": state if known else None,
        "lost": sum(lost.values()) if isinstance(lost, dict) else None,
        **{key: ", ".join(cell(one) for one in row.get(key) or []) for key in ("segments", "rules", "beside")},
    }


mirrors = columns_of("mirrors", "no hop is a mirror (rule NAME mirrors)", [
    ("name", "MIRROR"), ("state", "STATE"), ("segments", "SEGMENTS"), ("beside", "BESIDE"),
    ("copied_frames", "COPIES"), ("copied_bytes", "BYTES"), ("lost", "LOST"), ("returned_frames", "SENT, DROPPED"),
    ("rules", "RULES"),
], _mirror)  # fmt: skip


def _since(data: Any) -> str:
    """When the counters were cleared, as a line; empty when they were not."""
    when = data.get("cleared") if isinstance(data, dict) else None
    return f"since {str(when)[:19].replace('T', ' ')} UTC, when they were cleared\n" if when else ""


def rules(data: Any, style: Style = PLAIN) -> str:
    """The rules in order, and below them those that are never reached."""
    lines = [line for row in _filters(data) for text in _hidden(row) for line in hang(text.strip(), style)]
    return "\n".join([_since(data) + _rules(data, style), *([""] if lines else []), *lines])


def rules_detail(data: Any, style: Style = PLAIN) -> str:
    """The rules in order, and below them how their filters were compiled."""
    lines = [line for row in _filters(data) for line in _compiled_lines(row, style)]
    return "\n".join([_since(data) + _rules(data, style), *([""] if lines else []), *lines])


def _filters(data: Any) -> list[Row]:
    filters = data.get("filters") if isinstance(data, dict) else None
    return rows_of(filters or [])


def _compiled_lines(row: Row, style: Style) -> list[str]:
    lines = [line for text in _compiled(row) for line in hang(text, style)]
    head, colon, rest = lines[0].partition(":")
    return [f"{paint(head + colon, BOLD, style)}{rest}", *lines[1:]]


def _compiled(row: Row) -> Iterator[str]:
    """How one set of filters was compiled, and what that costs."""
    segments = row.get("segments")
    of = (
        f"segment {', '.join(cell(name) for name in segments)}" if isinstance(segments, list) and segments else "accept"
    )
    head = f"filters of {of} by {cell(row.get('by'))}:"
    size = f"{counted(cell(row.get('instructions')), 'instruction')}, {counted(cell(row.get('programs')), 'program')}"
    tables = f", {counted(cell(row.get('table_bytes')), 'byte')} of tables" if row.get("table_bytes") else ""
    took = f"generated in {cell(row.get('generate_ms'))} ms, loaded in {cell(row.get('load_ms'))} ms"
    yield f"{head} {_METHODS.get(str(row.get('method')), cell(row.get('method')))}, {size}{tables}"
    yield f"  {took}"
    if row.get("why"):
        yield f"  reason: {cell(row['why'])}"
    if row.get("why_flow_cache"):
        yield f"  flow cache: {'yes' if row.get('flow_cache') else 'no'}, {cell(row['why_flow_cache'])}"
    if row.get("flow_cache"):
        yield f"  flow cache: {cell(row.get('cache_hits'))} hits, {cell(row.get('cache_misses'))} misses"
    straight = row.get("straight")
    reasons: dict[str, list[str]] = {}
    for name, reason in straight.items() if isinstance(straight, dict) else ():
        reasons.setdefault(str(reason), []).append(cell(name))
    for reason, names in reasons.items():
        yield f"  compiled separately ({cell(reason)}): {_few(names)}"
    yield from _hidden(row)


def _hidden(row: Row) -> Iterator[str]:
    hidden = row.get("hidden")
    if isinstance(hidden, list) and hidden:
        yield f"  never reached, because an earlier rule matches their frames: {_few([cell(name) for name in hidden])}"


_METHODS = {"chain": "rule by rule", "merged": "merged into one graph", "several graphs": "merged into several graphs"}


def _few(names: list[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def counters(data: Any, style: Style = PLAIN) -> str:
    """One table each for ports, rules and hops; outcomes are columns beside the number of frames."""
    if not isinstance(data, dict):
        return generic(data, style)
    blocks = [since] if (since := _since(data).rstrip()) else []
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
        blocks.append(about("frames from unknown devices", unknown["frames"], style))
    return "\n\n".join(blocks) or generic(data, style)


def _count(row: Row) -> Row:
    """A row of counters, with nested outcomes and reasons as separate columns."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict) and key != "taps":
            for name, item in value.items():
                frames = item.get("frames") if isinstance(item, dict) else item
                flat[str(name) if key == "outcomes" else f"{key}_{name}"] = frames
        else:
            flat[key] = value
    return flat


def explain(data: Any, style: Style = PLAIN) -> str:
    lines = []
    for row in rows_of(data):
        way = " > ".join(row.get("hops") or ["straight"])
        rule = cell(row.get("rule") or "no rule")
        by = f"  (by {cell(row['by'])})" if row.get("by") else ""
        verdict = paint(cell(row.get("verdict")), BOLD, style)
        lines.append(f"frame {cell(row.get('frame'))}: {verdict}  {rule}: {way}{by}")
        lines += [line for text in row.get("why", []) for line in hang(f"    {cell(text)}", style)]
    return "\n".join(lines) or "no frames"


def packets(data: Any, _: Style = PLAIN) -> str:
    """Captured frames, one per line: time, place, direction, length, decoded text."""
    found = rows_of(data)
    width = max((len(cell(row.get("place"))) for row in found), default=0)
    return "\n".join(packet(row, width) for row in found) or "no frames"


def packet(row: Row, width: int) -> str:
    """One captured frame."""
    when, place = str(row.get("when"))[11:26], cell(row.get("place")).ljust(width)
    return (
        f"{when}  {place} {cell(row.get('way')).ljust(3)} {cell(row.get('length')).rjust(5)}  {cell(row.get('text'))}"
    )
