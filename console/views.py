# SPDX-License-Identifier: GPL-2.0-only
"""What each kind of data looks like: which columns, in which words, and what must not be missed. Pure.

A view takes what a handler returned, whatever it is: data of an unexpected shape is shown as it is, never refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from console.render import BOLD, GREEN, PLAIN, RED, Row, Style, cell, duration, fold, generic, paint, pairs, table


def relay_word(relay: Any) -> str:
    """A relay's position; what is not inline is written so that nobody overlooks it."""
    word = cell(relay)
    return word if word == "inline" or not word.strip("-") else word.upper()


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


_segment_table = _view("segments", "no segments are configured", [
    ("name", "SEGMENT"), ("relay", "RELAY"), ("mode", "MODE"), ("want", "WANT"), ("lan", "LAN"), ("lan_link", "LINK"),
    ("wan", "WAN"), ("wan_link", "LINK"), ("attach", "ATTACH"), ("cause", "CAUSE"),
], _with_relay)  # fmt: skip
_guests = _view("guests", "no guests are configured", [
    ("name", "GUEST"), ("hop", "HOP"), ("state", "STATE"), ("cause", "CAUSE"), ("lease", "LEASE"),
    ("pid", "PID"), ("accel", "ACCEL"), ("restarts", "RESTARTS"), ("application", "APPLICATION"),
    ("warning", "WARNING"), ("detail", "DETAIL"),
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


def _segments(data: Any, style: Style = PLAIN) -> str:
    """The table, and below it in words why a segment is not inline."""
    away = [row for row in _rows(data, "segments") if cell(row.get("relay")) != "inline"]
    blocks = [_segment_table(data, style)]
    if away:
        blocks.append("\n".join(line for row in away for why in _reasons(row) for line in fold(why, style.width)))
    return "\n\n".join(blocks)


def _reasons(row: Row) -> list[str]:
    """Everything that keeps a segment from being inline: the cause it goes by, and what else there is."""
    also = row.get("also")
    more = [cell(text) for text in also] if isinstance(also, list) else []
    return [f"{cell(row.get('name'))}: {text}" for text in (reason(row), *more)]


def banner(status: Row, style: Style = PLAIN) -> str:
    """Name, version and, impossible to miss, whether the link is inspected."""
    rows = _rows(status.get("segments"))
    about = [f"Throughwire {cell(status.get('version'))}"]
    if "uptime_s" in status:
        about.append(f"up {duration(status['uptime_s'])}")
    lines = [f"{paint(cell(status.get('hostname')), BOLD, style)}  {'  '.join(about)}"]
    if not rows:
        lines.append(alarm(["no segment is in service: the relays are closed, traffic is not inspected"], style))
    bypassed = [row for row in rows if cell(row.get("relay")) != "inline"]
    if bypassed:
        lines.append(alarm([f"segment {why}" for row in bypassed for why in _reasons(row)], style))
    inline = ", ".join(cell(row.get("name")) for row in rows if row not in bypassed)
    if inline:
        lines.append(f"{paint('inline', GREEN, style)}: {inline}")
    return "\n".join(lines)


def alarm(reasons: Iterable[str], style: Style = PLAIN, word: str = "BYPASS") -> str:
    """The block that says that a relay is not inline."""
    head = f"*** {word} *** "
    room = style.width - len(head)
    folded = [line for text in reasons for line in fold(text, room if style.width else 0)]
    begun = [f"{head if index == 0 else ' ' * len(head)}{line}" for index, line in enumerate(folded)]
    return "\n".join(paint(line, RED, style) for line in begun)


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
    for key, view in (("segments", _segment_table), ("guests", _guests), ("parts", _parts)):
        if _rows(data.get(key)):
            blocks.append(view(data[key], style))
    told = "\n".join(blocks)
    rest = {key: _unsaid(value, told) for key, value in data.items() if key not in shown}
    if rest:
        blocks.append("\n".join(_about(key, value, style) for key, value in rest.items()))
    return "\n\n".join(blocks)


def _unsaid(value: Any, said: str) -> Any:
    """Without a detail that was told already: the part behind it has the same."""
    if isinstance(value, dict) and len(cell(value.get("detail"))) > 1 and cell(value["detail"]) in said:
        return {key: item for key, item in value.items() if key != "detail"}
    return value


def _about(key: str, value: Any, style: Style) -> str:
    """`watchdog: armed, timeout 2000 ms`: a line for what has no view of its own. --json has all of it."""
    if isinstance(value, dict):
        said = ((name, item) for name, item in value.items() if not isinstance(item, list | dict))
        value = ", ".join(_fact(name, item) for name, item in said if item not in (None, ""))
    return f"{paint(key.replace('_', ' '), BOLD, style)}: {cell(value)}"


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
        lines.append(f"frame {cell(row.get('frame'))}: {paint(cell(row.get('verdict')), BOLD, style)}  {rule}: {way}")
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


def render(view: str, data: Any, style: Style = PLAIN) -> str:
    """`data` as the view shows it, without a newline at the end."""
    return _VIEWS.get(view, generic)(data, style)
