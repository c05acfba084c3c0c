# SPDX-License-Identifier: GPL-2.0-only
"""SNMPv3: state, engine, users, receivers and what was sent. Pure."""

from __future__ import annotations

from typing import Any

from console.render import PLAIN, Row, Style, cell, generic
from console.views.common import alarm, clock, columns_of, hang, rows_of

_users = columns_of("users", "", [
    ("name", "USER"), ("access", "ACCESS"), ("auth", "AUTHENTICATION"), ("priv", "ENCRYPTION"), ("refused", "REFUSED"),
])  # fmt: skip


def _receiver(row: Row) -> Row:
    host = cell(row.get("address"))
    host = f"[{host}]" if ":" in host else host
    return {**row, "address": f"{host}:{cell(row.get('port'))}"}


_receivers = columns_of("receivers", "no receiver: `set snmp receiver NAME address ADDRESS user USER` adds one", [
    ("name", "RECEIVER"), ("address", "ADDRESS"), ("kind", "KIND"), ("user", "USER"),
], _receiver)  # fmt: skip


def snmp(data: Any, style: Style = PLAIN) -> str:
    """`show snmp`."""
    if not isinstance(data, dict) or "state" not in data:
        return generic(data, style)
    state, detail = cell(data["state"]), cell(data.get("detail"))
    if state == "off":
        return "\n".join(hang(f"SNMP is off: {detail}", style))
    lines = [alarm([detail], style, "SNMP")] if state == "failed" else []
    lines += hang(f"SNMPv3, read only, UDP port {cell(data.get('port'))}: {state}", style)
    often = "once" if data.get("boots") == 1 else f"{cell(data.get('boots'))} times"
    lines += hang(f"engine {cell(data.get('engine'))}, started {often}", style)
    lines += hang(f"requests answered: {cell(data.get('requests'))}", style)
    blocks = ["\n".join(lines), _users(data, style), _receivers(data, style)]
    if rows_of(data, "receivers"):
        blocks.append("\n".join(_sent(data, style)))
    return "\n\n".join(block for block in blocks if block)


def _sent(data: Row, style: Style) -> list[str]:
    """The notifications that were handed over, and the last one."""
    sent = data.get("sent")
    counts = sent if isinstance(sent, dict) else {}
    said = ", ".join(f"{cell(name)} {cell(count)}" for name, count in sorted(counts.items())) or "none yet"
    lines = hang(f"notifications sent: {said}", style)
    if data.get("waiting") or data.get("lost"):
        lines += hang(f"waiting: {cell(data.get('waiting'))}; lost: {cell(data.get('lost'))}", style)
    last = data.get("last")
    if isinstance(last, dict):
        lines += hang(f"last: {clock(last.get('when'))} {cell(last.get('name'))}, {cell(last.get('subject'))}", style)
    return lines
