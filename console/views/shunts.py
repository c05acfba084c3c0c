# SPDX-License-Identifier: GPL-2.0-only
"""Flows that guests have shunted. Pure."""

from __future__ import annotations

from typing import Any

from console.render import PLAIN, Row, Style, duration
from console.views.common import columns_of, rows_of


def _end(row: Row, side: str) -> str:
    address, port = str(row.get(side)), row.get(f"{side}_port")
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _flow(row: Row) -> Row:
    times = {name: duration(row.get(f"{name}_s")) for name in ("since", "left", "quiet")}
    return {**row, **times, "lan": _end(row, "lan"), "wan": _end(row, "wan")}


_flows = columns_of("shunts", "no flow is shunted", [
    ("guest", "SKIPS"), ("segment", "SEGMENT"), ("protocol", "PROTOCOL"), ("lan", "LAN END"), ("wan", "WAN END"),
    ("vlan", "VLAN"), ("direction", "DIRECTION"), ("since", "SINCE"), ("left", "TIME LEFT"), ("quiet", "QUIET FOR"),
], _flow)  # fmt: skip

_guests = columns_of("guests", "no guest may shunt flows (guest NAME shunts max)", [
    ("guest", "GUEST"), ("flows", "SHUNTED"), ("most", "AT MOST"), ("frames", "FRAMES SKIPPED"),
    ("entered", "ASKED BY TAG"), ("too_frequent", "TOO FREQUENT"), ("full", "TABLE FULL"), ("unfit", "NO SUCH FLOW"),
])  # fmt: skip


def table_of_all(data: Any, style: Style = PLAIN) -> str:
    """What each guest may shunt and has shunted, and below it the flows."""
    if isinstance(data, dict) and not rows_of(data.get("guests") or []):
        return _guests(data, style)
    return "\n\n".join((_guests(data, style), _flows(data, style)))
