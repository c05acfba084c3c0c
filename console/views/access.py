# SPDX-License-Identifier: GPL-2.0-only
"""Management port, SSH, users, events and sessions. Pure."""

from __future__ import annotations

from typing import Any

from console.render import BOLD, PLAIN, Row, Style, cell, duration, generic, paint
from console.views.common import about, alarm, clock, columns_of, hang, rows_of

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


def _neighbour(row: Row) -> Row:
    port, described = row.get("port"), row.get("port_description")
    return {
        **row,
        "name": row.get("name") or row.get("chassis"),
        "port": f"{cell(port)} ({cell(described)})" if described and described != port else port,
        "since": f"{duration(row['age_s'])} ago" if "age_s" in row else "-",
    }


_neighbours = columns_of("neighbours", "no neighbour yet: one that sends LLDP does so every 30 s", [
    ("name", "NEIGHBOUR"), ("port", "ITS PORT"), ("vlans", "VLAN"), ("addresses", "ADDRESS"), ("since", "SINCE"),
    ("chassis", "CHASSIS"), ("capabilities", "KIND"), ("description", "DESCRIPTION"),
], _neighbour)  # fmt: skip
_LLDP = {"on": "sends and receives", "receive": "only receives"}


def lldp(data: Any, style: Style = PLAIN) -> str:
    """`show lldp`."""
    if not isinstance(data, dict):
        return generic(data, style)
    state, detail = cell(data.get("state")), data.get("detail")
    said = _LLDP.get(state, state) + (f": {cell(detail)}" if detail else "")
    head = "\n".join(hang(f"LLDP on {cell(data.get('port') or 'the management port')}: {said}", style))
    return f"{head}\n\n{_neighbours(data, style)}" if state in _LLDP else head


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
    if isinstance(data.get("snmp"), dict):
        lines.append(about("snmp", data["snmp"], style))
    blocks = ["\n".join(lines), _blocked(ssh, style), _users(data, style), _servers(data, style)]
    return "\n\n".join(block for block in blocks if block)
