# SPDX-License-Identifier: GPL-2.0-only
"""Data of a command to text: aligned tables, or JSON. Pure.

Handlers return data; how it looks is decided here alone. Colour is a layer on top that changes no width, and never
carries the meaning alone: a monochrome serial terminal shows the same text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class Style(NamedTuple):
    """What the output can do. `width` 0: as wide as it likes (a file or pipe)."""

    colour: bool = False
    width: int = 0


PLAIN = Style()
_GREEN, _YELLOW, _RED, _BOLD = "32", "33", "1;31", "1"
_WORDS = {
    "inline": _GREEN, "available": _GREEN, "running": _GREEN, "up": _GREEN, "healthy": _GREEN, "valid": _GREEN,
    "starting": _YELLOW, "rearming": _YELLOW, "draining": _YELLOW, "stopped": _YELLOW, "waiting": _YELLOW,
    "BYPASS": _RED, "DISCONNECT": _RED, "down": _RED, "failed": _RED, "unavailable": _RED, "invalid": _RED,
    "crashed": _RED, "exited": _RED, "missing": _RED,
}  # fmt: skip


def to_json(data: Any) -> str:
    """As indented JSON, non-ASCII kept."""
    return json.dumps(data, indent=2, ensure_ascii=False)


def render(view: str, data: Any, style: Style = PLAIN) -> str:
    """`data` as the view shows it, without a newline at the end."""
    return _VIEWS.get(view, generic)(data, style)


def paint(text: str, code: str, style: Style) -> str:
    """Coloured where the style has colour."""
    return f"\x1b[{code}m{text}\x1b[0m" if style.colour and code else text


def relay_word(relay: Any) -> str:
    """A relay's position; what is not inline is written so that nobody overlooks it."""
    word = cell(relay)
    return word if word == "inline" or not word.strip("-") else word.upper()


def cell(value: Any) -> str:
    """One value in a table. No control characters get through: they could drive the terminal."""
    if value is None or value == "" or value in ([], {}):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{key}={cell(item)}" for key, item in value.items())
    return "".join(char if char.isprintable() else "?" for char in str(value))


def duration(seconds: Any) -> str:
    """Seconds as a person says them: 42 s, 3 min 20 s, 5 h 2 min, 3 d 4 h."""
    if not isinstance(seconds, int | float):
        return cell(seconds)
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def table(rows: Sequence[Row], columns: Sequence[tuple[str, str]], style: Style = PLAIN) -> str:
    """Aligned columns (key, title); numbers to the right; the last column is folded when the line is too long."""
    if not columns:
        return "-"
    titles = [title for _, title in columns]
    cells = [[cell(row.get(key)) for key, _ in columns] for row in rows]
    right = [bool(rows) and all(_is_number(row.get(key)) for row in rows) for key, _ in columns]
    widths = [max(len(line[i]) for line in [titles, *cells]) for i in range(len(columns))]
    lines = [_line(titles, widths, right, style, head=True)]
    for line in cells:
        lines += _fold(line, widths, right, style)
    return "\n".join(lines)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _line(cells: list[str], widths: list[int], right: list[bool], style: Style, head: bool = False) -> str:
    padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
    padded[-1] = padded[-1].rstrip()
    painted = [paint(p, _BOLD if head else _WORDS.get(c, ""), style) for p, c in zip(padded, cells, strict=True)]
    return "  ".join(painted).rstrip()


def _fold(cells: list[str], widths: list[int], right: list[bool], style: Style) -> list[str]:
    """One row as one or more lines."""
    before = sum(widths[:-1]) + 2 * (len(widths) - 1)
    room = style.width - before
    if not style.width or len(cells[-1]) <= room or room < 16:
        return [_line(cells, widths, right, style)]
    import textwrap

    first, *more = textwrap.wrap(cells[-1], room) or [""]
    return [_line([*cells[:-1], first], widths, right, style), *(" " * before + line for line in more)]


def pairs(data: Row, style: Style = PLAIN) -> str:
    """`key  value`, one a line."""
    width = max((len(str(key)) for key in data), default=0)
    rows = ((str(key).replace("_", " "), value) for key, value in data.items())
    return "\n".join(f"{paint(key.ljust(width), _BOLD, style)}  {cell(value)}".rstrip() for key, value in rows)


def generic(data: Any, style: Style = PLAIN) -> str:
    """Any data: lists of objects as tables, objects as pairs, what is nested below its own title."""
    if isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        keys = list(dict.fromkeys(key for row in data for key in row))
        return table(data, [(key, key.upper().replace("_", " ")) for key in keys], style)
    if isinstance(data, list):
        return "\n".join(cell(item) for item in data) or "nothing there"
    if isinstance(data, dict):
        nested = {key: value for key, value in data.items() if _is_nested(value)}
        flat = {key: value for key, value in data.items() if key not in nested}
        blocks = [pairs(flat, style)] if flat else []
        blocks += [f"{paint(key.replace('_', ' '), _BOLD, style)}:\n{generic(v, style)}" for key, v in nested.items()]
        return "\n\n".join(blocks) or "nothing there"
    return cell(data)


def _is_nested(value: Any) -> bool:
    if isinstance(value, dict):
        return any(isinstance(item, dict | list) for item in value.values()) or len(value) > 6
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _rows(data: Any, key: str = "") -> list[Row]:
    """The list of objects in `data`, wherever it was put."""
    if isinstance(data, dict):
        inner = data.get(key)
        if isinstance(inner, list):
            data = inner
        else:
            data = [{"name": name, **item} for name, item in data.items() if isinstance(item, dict)]
    return [row for row in data if isinstance(row, dict)] if isinstance(data, list) else []


def _view(
    key: str, empty: str, columns: Sequence[tuple[str, str]], change: Callable[[Row], Row] = dict
) -> Callable[[Any, Style], str]:
    """A table of chosen columns; a column that no row fills is left out."""

    def show(data: Any, style: Style = PLAIN) -> str:
        rows = [change(row) for row in _rows(data, key)]
        if not rows:
            return empty if data in ([], {}, None) or isinstance(data, dict | list) else generic(data, style)
        used = [(name, title) for name, title in columns if any(row.get(name) not in (None, "", []) for row in rows)]
        return table(rows, used, style) if used else generic(list(rows), style)

    return show


def _with_relay(row: Row) -> Row:
    return {**row, "relay": relay_word(row.get("relay"))}


def _when(row: Row) -> Row:
    """A transition's time without the day's noise: date and time to the millisecond."""
    return {**row, "when": str(row.get("when", "-")).replace("T", " ")[:23]}


def _path(row: Row) -> Row:
    path = row.get("path")
    shown = " > ".join(cell(hop) for hop in path) if isinstance(path, list) else path
    return {**row, "segment": row.get("segment") or "every", "match": row.get("match") or "every frame",
            "path": shown or "straight"}  # fmt: skip


_segments = _view("segments", "no segments are configured", [
    ("name", "SEGMENT"), ("relay", "RELAY"), ("mode", "MODE"), ("want", "WANT"), ("lan", "LAN"), ("lan_link", "LINK"),
    ("wan", "WAN"), ("wan_link", "LINK"), ("attach", "ATTACH"), ("cause", "CAUSE"), ("detail", "DETAIL"),
    ("also", "ALSO"),
], _with_relay)  # fmt: skip
_guests = _view("guests", "no guests are configured", [
    ("name", "GUEST"), ("hop", "HOP"), ("state", "STATE"), ("cause", "CAUSE"), ("lease", "LEASE"),
    ("pid", "PID"), ("accel", "ACCEL"), ("restarts", "RESTARTS"), ("application", "APPLICATION"), ("detail", "DETAIL"),
])  # fmt: skip
_rules = _view("rules", "no rules: every frame goes straight to the other port", [
    ("name", "RULE"), ("segment", "SEGMENT"), ("frames", "FRAMES"), ("bytes", "BYTES"), ("path", "PATH"),
    ("on_unavailable", "ELSE"), ("match", "MATCH"),
], _path)  # fmt: skip
_transitions = _view("transitions", "no transitions yet", [
    ("when", "WHEN"), ("what", "WHAT"), ("from", "FROM"), ("to", "TO"), ("cause", "CAUSE"), ("detail", "DETAIL"),
], _when)  # fmt: skip
_parts = _view("parts", "", [
    ("name", "PART"), ("state", "STATE"), ("checked_in_ms", "SILENT MS"), ("detail", "DETAIL"),
])  # fmt: skip


def banner(status: Row, style: Style = PLAIN) -> str:
    """Name, version and, impossible to miss, whether the link is inspected."""
    rows = _rows(status.get("segments"))
    about = [f"Throughwire {cell(status.get('version'))}"]
    if "uptime_s" in status:
        about.append(f"up {duration(status['uptime_s'])}")
    lines = [f"{paint(cell(status.get('hostname')), _BOLD, style)}  {'  '.join(about)}"]
    if not rows:
        lines.append(alarm(["no segment is in service: the relays are closed, traffic is not inspected"], style))
    bypassed = [row for row in rows if cell(row.get("relay")) != "inline"]
    if bypassed:
        lines.append(alarm([f"segment {cell(row.get('name'))}: {reason(row)}" for row in bypassed], style))
    inline = ", ".join(cell(row.get("name")) for row in rows if row not in bypassed)
    if inline:
        lines.append(f"{paint('inline', _GREEN, style)}: {inline}")
    return "\n".join(lines)


def alarm(reasons: Iterable[str], style: Style = PLAIN, word: str = "BYPASS") -> str:
    """The block that says that a relay is not inline."""
    head = f"*** {word} *** "
    return "\n".join(paint(f"{head if index == 0 else ' ' * len(head)}{text}", _RED, style)
                     for index, text in enumerate(reasons))  # fmt: skip


def reason(row: Row) -> str:
    """A cause by name and in words."""
    from appliance.causes import DESCRIPTION, Cause

    cause, detail = cell(row.get("cause")), cell(row.get("detail"))
    try:
        text = DESCRIPTION.get(Cause(cause), "")
    except ValueError:
        text = ""
    if detail != "-":
        text = detail
    return f"{cause} ({text})" if text else cause


def _status(data: Any, style: Style = PLAIN) -> str:
    if not isinstance(data, dict):
        return generic(data, style)
    blocks = [banner(data, style)]
    shown = {"hostname", "version", "uptime_s", "state", "segments", "guests", "parts", "config"}
    config = data.get("config")
    if isinstance(config, dict) and config.get("errors"):
        said = [cell(error) for error in config["errors"]]
        blocks.append(alarm(said, style, "CONFIGURATION INVALID"))
    for key, view in (("segments", _segments), ("guests", _guests), ("parts", _parts)):
        if _rows(data.get(key)):
            blocks.append(view(data[key], style))
    rest = {key: value for key, value in data.items() if key not in shown}
    if rest:
        blocks.append("\n".join(_about(key, value, style) for key, value in rest.items()))
    return "\n\n".join(blocks)


def _about(key: str, value: Any, style: Style) -> str:
    """`watchdog: armed, timeout 2000 ms`: a line for what has no view of its own. --json has all of it."""
    if isinstance(value, dict):
        said = ((name, item) for name, item in value.items() if not isinstance(item, list | dict))
        value = ", ".join(_fact(name, item) for name, item in said if item not in (None, ""))
    return f"{paint(key.replace('_', ' '), _BOLD, style)}: {cell(value)}"


def _fact(key: str, value: Any) -> str:
    """`timeout_ms` 2000 as `timeout 2000 ms`; states and texts speak for themselves."""
    if key in ("state", "kind", "detail", "text"):
        return cell(value)
    if key.endswith("_ms"):
        return f"{key.removesuffix('_ms').replace('_', ' ')} {cell(value)} ms"
    if key.endswith("_s"):
        return f"{key.removesuffix('_s').replace('_', ' ')} {duration(value)}"
    return f"{key.replace('_', ' ')} {cell(value)}"


def _counters(data: Any, style: Style = PLAIN) -> str:
    """A table for ports, one for hops, one for rules; what became of the frames stands beside how many came."""
    if not isinstance(data, dict):
        return generic(data, style)
    blocks = []
    for kind in ("ports", "rules", "hops"):
        rows = [_count(row) for row in _rows(data.get(kind))]
        if rows:
            keys = list(dict.fromkeys(key for row in rows for key in row if key != "taps"))
            titles = [kind.removesuffix("s") if key == "name" else key for key in keys]
            filled = [{key: row.get(key, 0) for key in keys} for row in rows]
            columns = [(key, title.upper().replace("_", " ")) for key, title in zip(keys, titles, strict=True)]
            blocks.append(table(filled, columns, style))
    unknown = data.get("unknown")
    if isinstance(unknown, dict) and unknown.get("frames"):
        blocks.append(_about("frames of devices that are not ours", unknown["frames"], style))
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


def _crash(data: Any, style: Style = PLAIN) -> str:
    rows = _rows(data, "records")
    if not rows:
        return "no crash records" if data in ([], {}, None) else generic(data, style)
    if len(rows) == 1 and rows[0].get("text"):
        head = {key: value for key, value in rows[0].items() if key != "text"}
        text = "\n".join(cell(line) for line in str(rows[0]["text"]).splitlines())
        return f"{pairs(head, style)}\n\n{text}"
    return generic([{key: value for key, value in row.items() if key != "text"} for row in rows], style)


def _done(data: Any, style: Style = PLAIN) -> str:
    if isinstance(data, dict) and isinstance(data.get("message"), str):
        return cell(data["message"])
    return "done" if data in (None, {}, [], True) else generic(data, style)


def _explain(data: Any, style: Style = PLAIN) -> str:
    lines = []
    for row in _rows(data):
        way = " > ".join(row.get("hops") or ["straight"])
        rule = row.get("rule") or "no rule"
        lines.append(f"frame {cell(row.get('frame'))}: {paint(cell(row.get('verdict')), _BOLD, style)}  {rule}: {way}")
        lines += [f"    {cell(line)}" for line in row.get("why", [])]
    return "\n".join(lines) or "no frames"


def _lines(data: Any, _: Style = PLAIN) -> str:
    return "\n".join(data)


_VIEWS: dict[str, Callable[[Any, Style], str]] = {
    "generic": generic,
    "status": _status,
    "segments": _segments,
    "guests": _guests,
    "rules": _rules,
    "transitions": _transitions,
    "crash": _crash,
    "counters": _counters,
    "done": _done,
    "explain": _explain,
    "lines": _lines,
}
