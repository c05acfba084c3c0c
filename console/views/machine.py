# SPDX-License-Identifier: GPL-2.0-only
"""The machine itself: reboot and poweroff, its clock. Pure."""

from __future__ import annotations

from typing import Any

from console.render import BOLD, PLAIN, Row, Style, cell, duration, generic, paint, pairs
from console.views import common
from console.views.common import columns_of, hang, rows_of

_CANCEL = {"reboot": "`reboot cancel`", "poweroff": "`poweroff cancel`"}


def plan(data: Any, style: Style = PLAIN) -> str:
    """What a reboot or poweroff means, before it is asked for."""
    if not isinstance(data, dict):
        return generic(data, style)
    lines = [f"{cell(data.get('action')).capitalize()} of the appliance:"]
    for row in rows_of(data, "links"):
        lines += hang(f"  segment {cell(row.get('segment'))}: {cell(row.get('traffic'))}", style)
    for key, said in (("guests", "guests that are powered down"), ("sessions", "sessions that end")):
        if data.get(key):
            lines += hang(f"  {said}: {cell(data[key])}", style)
    for text in data.get("warnings") or ():
        lines += hang(f"  warning: {cell(text)}", style)
    return "\n".join(lines)


def due(power: Any) -> str:
    """`reboot in 4 min 10 s`, from status.show; empty when nothing is due."""
    if not isinstance(power, dict) or power.get("state", "none") == "none":
        return ""
    if power["state"] == "running":
        return f"{cell(power.get('action'))} is under way"
    return f"{cell(power.get('action'))} in {duration(power.get('seconds_left'))}"


def order(data: Any, style: Style = PLAIN) -> str:
    """`show reboot`."""
    if not isinstance(data, dict):
        return generic(data, style)
    if data.get("state") == "none":
        return "no reboot or poweroff is scheduled"
    action, user = cell(data.get("action")), cell(data.get("user"))
    if data.get("state") == "running":
        return f"{paint(action, BOLD, style)} by order of {user} is under way"
    when = f"in {duration(data.get('seconds_left'))}, at {common.clock(data.get('when'))}"
    return f"{paint(action, BOLD, style)} {when}, by order of {user}; cancel it with {_CANCEL.get(action, '`cancel`')}"


def _apart(seconds: Any) -> str:
    """`0.3 ms ahead of`, `2 s behind`: what comes before the name of the other clock."""
    said = offset(seconds)
    return f"{said} of" if said.endswith("ahead") else said


def offset(seconds: Any) -> str:
    """`0.3 ms ahead`, `2 s behind`: how far a clock is off."""
    if not isinstance(seconds, int | float):
        return "-"
    return f"{_span(abs(seconds))} {'ahead' if seconds >= 0 else 'behind'}"


def _span(seconds: float) -> str:
    return (
        f"{seconds * 1e6:.0f} us"
        if seconds < 1e-3
        else f"{seconds * 1e3:.1f} ms"
        if seconds < 1
        else f"{seconds:.1f} s"
    )


def _server(row: Row) -> Row:
    last = row.get("last_s")
    answered = isinstance(last, int)
    return {
        **row,
        "stratum": row.get("stratum") if answered else None,
        "offset": offset(row.get("offset_s")) if answered else None,
        "last": f"{duration(last)} ago" if answered else None,
        "answers": f"{cell(row.get('answers'))} of 8",
    }


_servers = columns_of("servers", "", [
    ("server", "TIME SERVER"), ("state", "STATE"), ("stratum", "STRATUM"), ("offset", "CLOCK"), ("last", "LAST ANSWER"),
    ("answers", "ANSWERS"),
], _server)  # fmt: skip


def clock(data: Any, style: Style = PLAIN) -> str:
    """`show clock`."""
    if not isinstance(data, dict):
        return generic(data, style)
    now = cell(data.get("now")).replace("T", " ")
    lines = [f"{paint(now[:19], BOLD, style)} {now[23:]} ({cell(data.get('zone'))})"]
    if now[23:] not in ("+00:00", ""):
        lines.append(f"{cell(data.get('utc')).replace('T', ' ')[:19]} UTC")
    state, error = cell(data.get("state")), data.get("error_s")
    if state == "synchronized":
        said = f"{_apart(data.get('offset_s'))} {cell(data.get('source'))}, stratum {cell(data.get('stratum'))}"
        most = f", at most {_span(error)} off" if isinstance(error, int | float) else ""
        lines += hang(f"NTP: synchronized: {said}{most}", style)
    else:
        why = cell(data.get("detail"))
        lines += hang(f"NTP: {state}" + (f": {why}" if why != "-" else ""), style)
    if data.get("servers_from") == "dhcp":
        lines.append("time servers: from DHCP")
    if chip := data.get("chip"):
        lines.append(f"hardware clock: {common.clock(chip)[:19]} UTC, {offset(data.get('chip_ahead_s'))}")
    return "\n\n".join(block for block in ("\n".join(lines), _servers(data, style)) if block)


def ping(data: Any, style: Style = PLAIN) -> str:
    """The summary of `ping`."""
    if not isinstance(data, dict):
        return generic(data, style)
    said = f"{cell(data.get('sent'))} sent, {cell(data.get('received'))} received"
    if data.get("received"):
        times = "/".join(f"{data[key]:.3f}" for key in ("min_ms", "mean_ms", "max_ms"))
        said += f"; min/mean/max {times} ms"
    return said


def size(count: Any) -> str:
    """Bytes in the largest unit that leaves something before the point."""
    if not isinstance(count, int):
        return "-"
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB")):
        if count >= 1 << shift:
            return f"{count / (1 << shift):.1f} {unit}"
    return f"{count >> 10} KiB"


def _disk(row: Row) -> Row:
    total, free = row.get("total_bytes"), row.get("available_bytes")
    known = isinstance(total, int) and isinstance(free, int) and total > 0
    used = f"{100 - 100 * free // total} %" if known and isinstance(free, int) and isinstance(total, int) else None
    return {**row, "total": size(total), "free": size(free), "used": used}


_disks = columns_of("disks", "", [
    ("place", "DISK"), ("kind", "TYPE"), ("total", "SIZE"), ("free", "AVAILABLE"), ("used", "USED"), ("bound", "BOUND"),
], _disk)  # fmt: skip
_slots = columns_of("slots", "", [
    ("name", "SLOT"), ("booted", "BOOTED"), ("next", "NEXT"), ("state", "STATE"),
])  # fmt: skip


def system(data: Any, style: Style = PLAIN) -> str:
    """`show system`."""
    if not isinstance(data, dict):
        return generic(data, style)
    memory: dict[str, Any] = data.get("memory") or {}
    pages = memory.get("hugepages")
    load: list[float] = data.get("load") or []
    shown = {
        **{key: data.get(key) for key in ("board", "vendor", "model", "serial", "firmware")},
        "up": duration(data.get("uptime_s")),
        "load": f"{' '.join(f'{each:.2f}' for each in load)} (1, 5, 15 min), {cell(data.get('processors'))} processors",
        "memory": f"{size(memory.get('available'))} of {size(memory.get('total'))} available",
        "huge pages": f"{cell(memory.get('hugepages_free'))} of {pages} free" if pages else None,
        "temperatures": _named(data.get("temperatures"), "C"),
        "fans": _named(data.get("fans"), "/min"),
    }
    lines = pairs({key: value for key, value in shown.items() if value not in (None, "")}, style)
    return "\n\n".join(block for block in (lines, _slots(data, style), _disks(data, style)) if block)


def _named(found: Any, unit: str) -> str:
    items = found.items() if isinstance(found, dict) else ()
    return ", ".join(f"{cell(name)} {cell(value)} {unit}" for name, value in items)


licences = columns_of("licences", "no component is known", [
    ("name", "COMPONENT"), ("version", "VERSION"), ("source", "FROM"), ("licence", "LICENCE"),
])  # fmt: skip


def licence(data: Any, style: Style = PLAIN) -> str:
    """`show licence NAME`."""
    if not isinstance(data, dict) or not isinstance(data.get("text"), str):
        return generic(data, style)
    return common.lines(data["text"].rstrip().split("\n"), style)
