# SPDX-License-Identifier: GPL-2.0-only
"""Management port, SSH, users, events and sessions. Pure."""

from __future__ import annotations

from typing import Any

from console.render import BOLD, PLAIN, Row, Style, cell, duration, generic, paint
from console.views.common import about, alarm, clock, columns_of, rows_of

_users = columns_of("users", "", [
    ("name", "USER"), ("role", "ROLE"), ("password", "PASSWORD"), ("keys", "KEYS"),
])  # fmt: skip
_servers = columns_of("syslog", "", [
    ("server", "SYSLOG SERVER"), ("sent", "SENT"), ("waiting", "WAITING"), ("lost", "LOST"), ("detail", "DETAIL"),
])  # fmt: skip
_blocked = columns_of("shut_out", "", [("network", "BLOCKED"), ("seconds_left", "SECONDS LEFT")])


def _when(row: Row) -> Row:
    return {**row, "when": clock(row.get("when"))}


def _since(row: Row) -> Row:
    return {**row, "since": f"{duration(row['seconds'])} ago" if "seconds" in row else "-"}


events = columns_of("events", "no events yet", [
    ("when", "WHEN"), ("severity", "SEVERITY"), ("source", "SOURCE"), ("cause", "CAUSE"), ("text", "WHAT"),
], _when)  # fmt: skip
sessions = columns_of("sessions", "no user is logged in over SSH or on the console", [
    ("pid", "ID"), ("user", "USER"), ("address", "FROM"), ("by", "BY"), ("since", "SINCE"),
], _since)  # fmt: skip


def management(data: Any, style: Style = PLAIN) -> str:
    """The port, then its services, then blocked addresses, users and syslog servers."""
    if not isinstance(data, dict):
        return generic(data, style)
    ssh = data.get("ssh") if isinstance(data.get("ssh"), dict) else {}
    lines = []
    if data.get("state") == "failed":
        lines.append(alarm([cell(data.get("detail"))], style, "MANAGEMENT"))
    port = {key: data.get(key) for key in ("state", "link", "configured", "mac")}
    lines.append(about(f"port {cell(data.get('port'))}", port, style))
    for key in ("addresses", "gateways"):
        values = data.get(key)
        listed = ", ".join(cell(value) for value in values) if isinstance(values, list) else cell(values)
        lines.append(f"{paint(key, BOLD, style)}: {listed or 'none'}")
    if data.get("dhcp"):
        lines.append(about("dhcp", data["dhcp"], style))
    lines.append(about("ssh", ssh, style))
    lines += [f"  {cell(key.get('kind'))} {cell(key.get('fingerprint'))}" for key in rows_of(ssh, "host_keys")]
    if data.get("serial_line"):
        lines.append(f"{paint('console', BOLD, style)}: {cell(data['serial_line'])}")
    lines.append(about("metrics", data.get("metrics"), style))
    blocks = ["\n".join(lines), _blocked(ssh, style), _users(data, style), _servers(data, style)]
    return "\n\n".join(block for block in blocks if block)
