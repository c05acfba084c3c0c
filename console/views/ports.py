# SPDX-License-Identifier: GPL-2.0-only
"""Ports of the board. Pure."""

from __future__ import annotations

from typing import Any

from console.render import BOLD, PLAIN, Row, Style, cell, generic, paint, pairs, visible
from console.views.common import columns_of


def speed(mbps: Any) -> str:
    """10000 as `10G`, 2500 as `2.5G`, 100 as `100M`."""
    if not isinstance(mbps, int) or mbps <= 0:
        return "-"
    return f"{mbps}M" if mbps < 1000 else f"{mbps / 1000:g}G"


def _row(row: Row) -> Row:
    counted = {way: (row.get(f"{way}_errors") or 0, row.get(f"{way}_dropped") or 0) for way in ("rx", "tx")}
    there = row.get("link") != "missing"
    return {
        **row,
        "speed": f"{speed(row.get('speed_mbps'))} {row.get('duplex') or ''}".strip(" -") or None,
        "errors": "/".join(str(errors) for errors, _ in counted.values()) if there else None,
        "dropped": "/".join(str(dropped) for _, dropped in counted.values()) if there else None,
        "use": row.get("segment") or ("management" if row.get("role") == "management" else None),
        "mtu": row.get("mtu") or None,
    }


table_of_all = columns_of("ports", "the board has no ports", [
    ("name", "PORT"), ("use", "USE"), ("link", "LINK"), ("speed", "SPEED"), ("errors", "ERRORS RX/TX"),
    ("dropped", "DROPPED RX/TX"), ("mtu", "MTU"), ("driver", "DRIVER"), ("mac", "MAC"), ("detail", "DETAIL"),
], _row)  # fmt: skip

_TITLES = (
    ("errors", "faults, by the kernel"), ("rings", "rings"), ("module", "transceiver"),
    ("counters", "counters of the driver that are not 0"),
)  # fmt: skip


def _named(found: Row) -> str:
    """Names as the driver has them, which is how they are searched for."""
    width = max(len(name) for name in found)
    return "\n".join(f"  {visible(name).ljust(width)}  {cell(value)}" for name, value in found.items())


def one(data: Any, style: Style = PLAIN) -> str:
    """`show port NAME`."""
    if not isinstance(data, dict) or not isinstance(data.get("port"), dict):
        return generic(data, style)
    port = _row(data["port"])
    shown = {
        "port": f"{cell(port.get('name'))} ({cell(port.get('device'))})",
        "use": port["use"],
        "link": " ".join(cell(port[key]) for key in ("link", "speed") if port.get(key)),
        "detail": port.get("detail"),
        "negotiates": port.get("negotiates"),
        "medium": port.get("medium"),
        "mac": port.get("mac"),
        "mtu": port.get("mtu"),
        "driver": port.get("driver"),
        "firmware": data.get("firmware"),
        "bus": data.get("bus"),
        "frames": f"{cell(port.get('rx_frames'))} received, {cell(port.get('tx_frames'))} sent",
    }
    blocks = [pairs({key: value for key, value in shown.items() if value not in (None, "")}, style)]
    for key, title in _TITLES:
        found = data.get(key)
        if isinstance(found, dict):
            found = {name: value for name, value in found.items() if value != 0}
        if found:
            blocks.append(f"{paint(title, BOLD, style)}:\n{_named(found)}")
    return "\n\n".join(blocks)
