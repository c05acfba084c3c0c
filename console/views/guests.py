# SPDX-License-Identifier: GPL-2.0-only
"""Guests, their checks, and their images. Pure."""

from __future__ import annotations

from typing import Any

from console.render import PLAIN, Row, Style, cell, duration, generic, pairs
from console.views.common import about, by_cause, columns_of, known, printed, rows_of


def _image(row: Row) -> Row:
    """Sizes in MiB; a checksum that the import did not verify is marked."""
    used = row.get("used_by")
    return {
        **row,
        "size": f"{int(row.get('size_bytes') or 0) / (1 << 20):.1f} MiB",
        "disk": f"{int(row.get('virtual_bytes') or 0) >> 20} MiB" if row.get("virtual_bytes") else "",
        "used": ", ".join(cell(name) for name in used) if isinstance(used, list) else "",
        "sum": f"{str(row.get('sha256'))[:12]}{'' if row.get('verified') else ' (not verified)'}"
        if row.get("sha256")
        else "",
        "undo": {"previous": "restores previous", "remove": "deletes it"}.get(str(row.get("undo")), ""),
    }


images = columns_of("images", "no images: `guest import FILE --name NAME` adds one", [
    ("name", "IMAGE"), ("format", "FORMAT"), ("size", "SIZE"), ("disk", "DISK"), ("sum", "SHA-256"),
    ("used", "USED BY"), ("undo", "UNDO"),
], _image)  # fmt: skip


checks = columns_of("checks", "no checks while the guest is not running", [
    ("check", "CHECK"), ("state", "STATE"), ("good", "LAST SUCCESS"), ("latency", "LATENCY"), ("since", "SINCE"),
    ("falls", "FAILURES"), ("counts", "DECIDES"), ("why", "WHY"),
], lambda row: {
    **row,
    "counts": "no (dry run)" if row.get("dry_run") else "",
    "good": _ago(row.get("last_good_ms")),
    "since": _ago(row.get("changed_ms")),
    "latency": f"{row['latency_ms']} ms" if row.get("latency_ms") is not None else "",
})  # fmt: skip
changes = columns_of("flips", "", [
    ("when", "WHEN"), ("check", "CHECK"), ("to", "TO"), ("why", "WHY"),
], lambda row: {**row, "when": _ago(row.get("ago_ms"))})  # fmt: skip
bypass = columns_of("bypass", "", [
    ("cause", "BYPASS CAUSE"), ("runs", "COUNT"), ("at_most_p50_ms", "SINCE LAST SUCCESS (MS) P50"),
    ("at_most_p99_ms", "P99"), ("at_most_max_ms", "MAX"),
    ("detected_p50_ms", "SINCE DETECTION (MS) P50"), ("detected_p99_ms", "P99"),
    ("detected_max_ms", "MAX"),
])  # fmt: skip
streams = columns_of("heartbeats", "", [
    ("lane", "HEARTBEATS"), ("sent", "SENT"), ("received", "RETURNED"), ("foreign", "FOREIGN"), ("refused", "REFUSED"),
])  # fmt: skip
queues = columns_of("queues", "", [
    ("tap", "PORT WITH SEVERAL QUEUES"), ("queues", "QUEUES"), ("used", "USED BY ITS DRIVER"),
])  # fmt: skip
_overload = columns_of("overload", "", [
    ("way", "OVERLOADED DIRECTION"), ("limit_frames_per_s", "LIMIT (FRAMES/S)"),
    ("carries_frames_per_s", "CAPACITY (FRAMES/S)"),
])  # fmt: skip
FLIPS = 10  # the newest state changes that are shown; --json has all


def _ago(milliseconds: Any) -> str:
    if not isinstance(milliseconds, int | float):
        return ""
    return f"{milliseconds:.0f} ms ago" if milliseconds < 10_000 else f"{duration(milliseconds / 1000)} ago"


def limited(data: Row, style: Style = PLAIN) -> list[str]:
    """The directions in which the hop was overloaded, if there is one."""
    found = [row for row in rows_of(data.get("overload") or []) if row.get("carries_frames_per_s")]
    return [_overload({"overload": found}, style)] if found else []


def one(data: Any, style: Style = PLAIN) -> str:
    """State and cause, each check with its evidence, the newest state changes, and how fast it was bypassed so far.

    For a guest that is not running: its checks when it ended, because the user wants to know why.
    """
    if not isinstance(data, dict) or "name" not in data:
        return generic(data, style)
    runs = "checks" in data and "ended_ms" not in data
    inner = {"checks", "flips", "bypass", "heartbeats", "overload", "agent", "taps", "queues"}
    inner |= {"qmp_events", "qmp_dropped", "ended_ms"}
    inner |= set() if runs else {"lease_renewals"}
    inner |= {"lease_ms"} if data.get("lease") else set()  # the same for programs
    inner |= {"unsent"}
    head = {key: value for key, value in data.items() if key not in inner and value not in (None, "", [])}
    if data.get("unsent"):
        head["frames not taken"] = by_cause(data["unsent"])
    agent = data.get("agent")
    blocks = [pairs(known(head), style)]
    if "ended_ms" in data:
        blocks.append(f"checks when the guest ended, {_ago(data['ended_ms'])}:\n{checks(data, style)}")
    else:
        blocks.append(checks(data, style))
    flips = data.get("flips")
    if isinstance(flips, list) and flips:
        blocks.append(changes({"flips": flips[-FLIPS:]}, style))
    tables = (("bypass", bypass), ("heartbeats", streams), ("queues", queues))
    blocks += [view(data, style) for key, view in tables if data.get(key)]
    blocks += limited(data, style)
    if runs and isinstance(agent, dict):
        blocks.append(about("agent", agent, style))
    events = data.get("qmp_events")
    if isinstance(events, list) and events:
        dropped = data.get("qmp_dropped")
        title = f"QEMU events ({cell(dropped)} more were too frequent and dropped):" if dropped else "QEMU events:"
        blocks.append("\n".join([title, *(f"  {cell(event)}" for event in events)]))
    return "\n\n".join(blocks)


def log(data: Any, style: Style = PLAIN) -> str:
    """The last lines of a guest's serial console, without control sequences."""
    lines = data.get("lines", []) if isinstance(data, dict) else []
    return "\n".join(printed(lines)) or "no console output yet"


table_of_all = columns_of("guests", "no guests are configured", [
    ("name", "GUEST"), ("hop", "HOP"), ("state", "STATE"), ("cause", "CAUSE"), ("lease", "LEASE"),
    ("pid", "PID"), ("accel", "ACCEL"), ("restarts", "RESTARTS"), ("application", "APPLICATION"),
    ("not_taken", "FRAMES NOT TAKEN"), ("warning", "WARNING"), ("detail", "DETAIL"),
], lambda row: {**row, "not_taken": by_cause(row.get("unsent"))})  # fmt: skip
