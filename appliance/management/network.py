# SPDX-License-Identifier: GPL-2.0-only
"""Target and present state of the management port, and the commands that lead from one to the other. Pure.

Commands are arguments for iproute2's `ip`; the caller runs them one by one. New addresses are added before old ones are
removed, so that a change of only the gateway ends no session; old ones are removed last, because the kernel removes
their routes with them.
"""

from __future__ import annotations

import ipaddress
import json
from dataclasses import dataclass
from typing import Any

from appliance.config.schema.model import Management
from appliance.system.namespace import NAME

Words = list[str]


@dataclass(frozen=True)
class Seen:
    """The port in its namespace, as the kernel reports it."""

    there: bool = False  # present in the namespace
    up: bool = False
    link: bool = False
    mac: str = ""
    addresses: tuple[str, ...] = ()  # global ones, with prefix length
    gateways: tuple[str, ...] = ()


def parse(links: str, routes: str, routes6: str) -> Seen:
    """Parse the JSON of `ip -j address show dev PORT` and `ip -j [-6] route show default`."""
    rows = _json(links)
    if not rows:
        return Seen()
    row = rows[0]
    flags = row.get("flags", [])
    addresses = [
        f"{info['local']}/{info['prefixlen']}" for info in row.get("addr_info", []) if info.get("scope") == "global"
    ]
    gateways = [str(route["gateway"]) for route in _json(routes) + _json(routes6) if "gateway" in route]
    return Seen(
        True, "UP" in flags, "LOWER_UP" in flags, str(row.get("address", "")), tuple(addresses), tuple(gateways)
    )


def _json(text: str) -> list[dict[str, Any]]:
    try:
        data = json.loads(text or "[]")
    except ValueError:
        return []
    return [row for row in data if isinstance(row, dict) and row] if isinstance(data, list) else []


def commands(wanted: Management, port: str, seen: Seen, space: str = NAME) -> list[Words]:
    """The commands that configure the port; [] if nothing is to be done. DHCP addresses are left to the DHCP client."""
    inside = ["-n", space]
    keep = [str(ipaddress.ip_interface(a)) for a in (wanted.address, wanted.address6) if a and a != "dhcp"]
    made: list[Words] = []
    if not keep and wanted.address != "dhcp":
        if seen.up or seen.addresses:
            made.append([*inside, "address", "flush", "dev", port])
            made.append([*inside, "link", "set", port, "down"])
        return made
    if not seen.up:
        made.append([*inside, "link", "set", port, "up"])
    for address in keep:
        if address not in seen.addresses:
            nodad = ["nodad"] if ":" in address else []
            made.append([*inside, "address", "replace", address, "dev", port, *nodad])
    for family, gateway, own in (("-4", wanted.gateway, wanted.address), ("-6", wanted.gateway6, wanted.address6)):
        if own == "dhcp":
            continue
        there = [found for found in seen.gateways if (":" in found) == (family == "-6")]
        if gateway and there != [str(ipaddress.ip_address(gateway))]:
            made.append([family, *inside, "route", "replace", "default", "via", gateway, "dev", port])
        elif not gateway and there:
            made.append([family, *inside, "route", "del", "default"])
    for address in seen.addresses:
        leased = wanted.address == "dhcp" and ":" not in address
        if address not in keep and not leased:
            made.append([*inside, "address", "del", address, "dev", port])
    return made


def parse_lease(text: str) -> dict[str, str]:
    """Parse the lease that the DHCP client's script wrote: `key=value` lines."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value for key, _, value in pairs if key and value}
