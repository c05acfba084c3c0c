# SPDX-License-Identifier: GPL-2.0-only
"""Who decides about logins, and how the servers do. Pure."""

from __future__ import annotations

from typing import Any

from console.render import PLAIN, Row, Style, cell, duration, generic
from console.views.common import alarm, columns_of, hang


def _server(row: Row) -> Row:
    """The row as shown."""
    state, skipped = cell(row.get("state")), row.get("skipped_s")
    return {
        **row,
        "label": f"{cell(row.get('method'))} {cell(row.get('name'))}",
        "state": f"{state}; skipped for {duration(skipped)}" if skipped else state,
        "since": f"{duration(row['seconds_ago'])} ago" if row.get("seconds_ago") is not None else "",
        "latency": f"{cell(row['latency_ms'])} ms" if row.get("latency_ms") is not None else "",
        "reports": f"{cell(row.get('reported'))}/{cell(row.get('unreported'))}"
        if row.get("reported") or row.get("unreported")
        else "",
    }


_NO_SERVERS = (
    "no server: `set radius NAME address ADDRESS secret SECRET` in `configure` adds one, `set tacacs` likewise"
)
_servers = columns_of("servers", "", [
    ("label", "SERVER"), ("address", "ADDRESS"), ("accepted", "ACCEPTED"), ("refused", "REFUSED"),
    ("failed", "FAILED"), ("since", "SEEN"), ("state", "STATE"), ("latency", "TOOK"), ("reports", "REPORTED/NOT"),
], _server)  # fmt: skip
_steps = columns_of("steps", "", [("server", "SERVER"), ("seconds", "SECONDS"), ("result", "RESULT")])
_DECISIONS = {
    "accept": "accepted",
    "refuse": "refused",
    "local": "the password in the configuration decides; it was not compared",
}


def aaa(data: Any, style: Style = PLAIN) -> str:
    """`show aaa`."""
    if not isinstance(data, dict) or not isinstance(data.get("order"), list):
        return generic(data, style)
    lines = [alarm([cell(data.get("detail"))], style, "LOGINS")] if data.get("state") == "failed" else []
    lines += hang(f"passwords are decided by: {', then '.join(cell(method) for method in data['order'])}", style)
    reports = f"accounting: {cell(data.get('accounting'))}"
    if data.get("waiting") or data.get("lost"):
        reports += f", {cell(data.get('waiting'))} waiting, {cell(data.get('lost'))} lost"
    lines += hang(reports, style)
    servers = _servers(data, style) or "\n".join(hang(_NO_SERVERS, style))
    return "\n".join(lines) + f"\n\n{servers}"


def tried(data: Any, style: Style = PLAIN) -> str:
    """`test aaa USER`."""
    if not isinstance(data, dict) or "decision" not in data:
        return generic(data, style)
    decision = cell(data["decision"])
    said = _DECISIONS.get(decision, decision)
    said += f", role {cell(data['role'])}" if data.get("role") else ""
    said += f": {cell(data['why'])}" if decision == "refuse" else ""
    steps = _steps(data, style)
    return "\n".join([*hang(said, style), *([f"\n{steps}"] if steps else [])])
