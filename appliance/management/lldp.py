# SPDX-License-Identifier: GPL-2.0-only
"""LLDP on the management port is lldpd: its configuration and command line, and the neighbours that it names. Pure.

It has the hardware port alone, not the bridge and not the guests' ports on it, and runs in the namespace of the
management port, where no data port is: what the link's neighbours say to each other is theirs. It sends the host name,
the port's name and its addresses, and no version, kernel or serial number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from appliance.api.schema.machine import LldpNeighbour
from appliance.management import bridge

Mode = Literal["off", "receive", "on"]

DESCRIPTION = "Throughwire bypass appliance"
MAX_NEIGHBOURS = 32
_AGE = re.compile(r"(\d+) days?, (\d+):(\d\d):(\d\d)$")


def configuration(port: str, hostname: str) -> str:
    """What lldpd reads at its start: names, so that no name server is asked, and the bound of its memory."""
    name = bridge.hardware(port)
    return "\n".join(
        (
            f"configure system hostname {hostname}",
            f"configure system max-neighbors {MAX_NEIGHBOURS}",
            "configure system capabilities enabled station",  # the bridge is the port's own and forwards for no one
            f"configure ports {name} lldp portidsubtype local {port}",
            f'configure ports {name} lldp portdescription "management port"',
            "",
        )
    )


def command(port: str, mode: Mode, settings: Path, socket: Path) -> list[str]:
    """lldpd's command line: in the foreground, this port only, LLDP only."""
    name = bridge.hardware(port)
    words = ["lldpd", "-dd", "-I", name, "-C", name, "-S", DESCRIPTION, "-k", "-p", "", "-u", str(socket)]
    return [*words, "-O", str(settings), *(["-r"] if mode == "receive" else [])]


def question(socket: Path) -> list[str]:
    """The command that prints the neighbours, as `neighbours` reads them."""
    return ["lldpcli", "-u", str(socket), "-f", "json0", "show", "neighbors", "details"]


def neighbours(text: str) -> list[LldpNeighbour] | None:
    """From what `question` prints; None: that is no answer. The texts of a neighbour are whatever it sent."""
    try:
        data = json.loads(text)
    except ValueError:
        return None
    if not isinstance(data, dict) or "lldp" not in data:
        return None
    found = []
    for row in _items(data, "lldp", "interface"):
        chassis = next(_items(row, "chassis"), {})
        port = next(_items(row, "port"), {})
        ttl = _value(port, "ttl") or _value(row, "ttl")
        found.append(
            LldpNeighbour(
                name=_value(chassis, "name"),
                chassis=_value(chassis, "id"),
                port=_value(port, "id"),
                port_description=_value(port, "descr"),
                description=_value(chassis, "descr"),
                addresses=[text for item in _items(chassis, "mgmt-ip") if (text := str(item.get("value", "")))],
                capabilities=[
                    str(item.get("type", "")).lower() for item in _items(chassis, "capability") if item.get("enabled")
                ],
                vlans=[str(item.get("vlan-id", "")) for item in _items(row, "vlan")],
                age_s=_seconds(row.get("age")),
                ttl_s=int(ttl) if ttl.isdecimal() else 0,
            )
        )
    return found


def _items(data: dict[str, Any], *keys: str) -> Iterator[dict[str, Any]]:
    """The objects below these keys; each is a list in this format."""
    first, *rest = keys
    inner = data.get(first)
    for item in inner if isinstance(inner, list) else ():
        if isinstance(item, dict):
            if rest:
                yield from _items(item, *rest)
            else:
                yield item


def _value(data: dict[str, Any], key: str) -> str:
    return next((str(item.get("value", "")) for item in _items(data, key)), "")


def _seconds(text: object) -> int:
    found = _AGE.match(str(text))
    if found is None:
        return 0
    days, hours, minutes, seconds = map(int, found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
