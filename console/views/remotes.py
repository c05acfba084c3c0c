# SPDX-License-Identifier: GPL-2.0-only
"""Remotes, their checks and their tunnels. Pure."""

from __future__ import annotations

from typing import Any

from console.render import PLAIN, Row, Style, generic, pairs
from console.views import guests
from console.views.common import by_cause, columns_of, known

_INNER = frozenset({
    "checks", "flips", "bypass", "heartbeats", "tunnels", "wireguard", "overload", "unsent", "lease_ms", "flip_count",
    "lease_renewals", "encapsulated",
})  # fmt: skip


def _counted(row: Row) -> Row:
    """Packets each way; of the other counters those that are not zero."""
    counters = row.get("counters")
    counted = counters if isinstance(counters, dict) else {}
    left = {key: value for key, value in counted.items() if value and not key.endswith("_packets")}
    return {
        **row,
        "sent": counted.get("tx_packets"),
        "received": counted.get("rx_packets"),
        "port": row.get("port") or "",
        "others": ", ".join(f"{key} {value}" for key, value in left.items()),
    }


def _wireguard(row: Row) -> Row:
    """With the words that it has to be told from the rest of the page by."""
    since = row.get("handshake_s")
    handshake = "none yet" if since is None else f"{since:g} s ago"
    shown = {key: value for key, value in row.items() if key != "handshake_s"}
    return {"WireGuard": f"last handshake: {handshake}", **shown}


_tunnels = columns_of("tunnels", "", [
    ("side", "TUNNEL"), ("device", "DEVICE"), ("far", "ENDS AT"), ("key", "KEY"), ("port", "PORT"), ("mtu", "MTU"),
    ("sent", "SENT"), ("received", "RECEIVED"), ("refused", "REFUSED"), ("others", "COUNTERS"),
], _counted)  # fmt: skip


_encapsulated = columns_of("encapsulated", "", [
    ("side", "FRAMES"), ("by_xdp", "BY XDP"), ("others", "BY THE KERNEL"), ("lost", "LOST"),
], lambda row: {**row, "others": by_cause(row.get("by_kernel")), "lost": row.get("lost") or ""})  # fmt: skip


def one(data: Any, style: Style = PLAIN) -> str:
    """State and cause, the way to it, each check with its evidence, its tunnels, how fast it was bypassed so far."""
    if not isinstance(data, dict) or "name" not in data:
        return generic(data, style)
    head = {key: value for key, value in data.items() if key not in _INNER and value not in (None, "", [])}
    if data.get("unsent"):
        head["frames not taken"] = by_cause(data["unsent"])
    checks = guests.checks(data, style) if data.get("checks") else "no checks: its tunnels have not been set up yet"
    blocks = [pairs(known(head), style), checks]
    if data.get("wireguard"):
        blocks.append(pairs(_wireguard(data["wireguard"]), style))
    if data.get("tunnels"):
        blocks.append(_tunnels(data, style))
    if data.get("encapsulated"):
        blocks.append(_encapsulated(data, style))
    flips = data.get("flips")
    if isinstance(flips, list) and flips:
        blocks.append(guests.changes({"flips": flips[-guests.FLIPS :]}, style))
    views = (("bypass", guests.bypass), ("heartbeats", guests.streams))
    blocks += [view(data, style) for key, view in views if data.get(key)]
    return "\n\n".join([*blocks, *guests.limited(data, style)])


def serve(data: Any, style: Style = PLAIN) -> str:
    """State, path and way of what is served to another appliance, and its tunnels."""
    if not isinstance(data, dict) or "name" not in data:
        return generic(data, style)
    head = {key: value for key, value in data.items() if key not in _INNER and value not in (None, "", [])}
    blocks = [pairs(known(head), style)]
    if data.get("wireguard"):
        blocks.append(pairs(_wireguard(data["wireguard"]), style))
    return "\n\n".join([*blocks, _tunnels(data, style)])


table_of_served = columns_of("serves", "nothing is served to other appliances", [
    ("name", "SERVE"), ("state", "TUNNELS"), ("cause", "CAUSE"), ("path", "PATH"), ("not_available", "NOT AVAILABLE"),
    ("tunnel", "TUNNEL"), ("far", "OTHER APPLIANCE"), ("keys", "KEYS LAN / WAN"), ("way", "WAY"),
    ("warning", "WARNING"), ("detail", "DETAIL"),
])  # fmt: skip

table_of_all = columns_of("remotes", "no remotes are configured", [
    ("name", "REMOTE"), ("hop", "HOP"), ("state", "STATE"), ("cause", "CAUSE"), ("lease", "LEASE"),
    ("segment", "SEGMENT"), ("tunnel", "TUNNEL"), ("far", "FAR END"), ("keys", "KEYS LAN / WAN"), ("way", "WAY"),
    ("by", "HEADERS BY"), ("not_taken", "FRAMES NOT TAKEN"), ("warning", "WARNING"), ("detail", "DETAIL"),
], lambda row: {**row, "not_taken": by_cause(row.get("unsent"))})  # fmt: skip
