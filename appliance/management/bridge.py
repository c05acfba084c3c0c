# SPDX-License-Identifier: GPL-2.0-only
"""The management port is a bridge: its members are the hardware port and the ports of guests on the management LAN.

It exists from when the port is set up, with or without guests, and has the name and the address of the hardware port,
which is renamed. So addresses, routes, the DHCP client and sessions stay on one device while guests are added and
removed, and nothing moves during a login. All of it is in the namespace of the management port.

A guest's port is locked to the guest's MAC address: the bridge drops its frames with any other source, such as the
appliance or the gateway, and does not flood frames for unknown stations to it. Link-local protocols (STP, LLDP) pass in
neither direction (bridge_filter.py). Spanning tree is off: the bridge has one uplink and no loop.

Pure: the output of iproute2 goes in, commands come out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from appliance.management import bridge_filter

Words = list[str]
Links = dict[str, dict[str, Any]]

_NAME_MOST = 15  # characters of a device's name
_SUFFIX = "-hw"


def hardware(port: str) -> str:
    """The name of the hardware port when `port` is the bridge."""
    return port[: _NAME_MOST - len(_SUFFIX)] + _SUFFIX


def parse(text: str) -> Links:
    """Links by name, from the JSON of `ip -j -d link show`."""
    try:
        rows = json.loads(text or "[]")
    except ValueError:
        return {}
    return {str(row["ifname"]): row for row in rows if isinstance(row, dict) and "ifname" in row}


def _up(link: Mapping[str, Any]) -> bool:
    return "UP" in link.get("flags", [])


def carrier(links: Links, port: str) -> bool:
    """Whether the hardware port has a carrier. The bridge itself has one as soon as a guest is connected."""
    return "LOWER_UP" in links.get(hardware(port), {}).get("flags", [])


def commands(
    port: str, wanted: bool, guests: Mapping[str, str], links: Links, space: str, *, mtu: int = 1500
) -> list[Words]:
    """The commands that set up the bridge and its members; [] if nothing is to be done.

    `wanted`: the port should be up. `mtu`: of the port; the bridge would take the least of its
    members'. `guests`: tap -> MAC address; a guest with the port's own address is left out,
    because it would get everything that is addressed to the appliance. The hardware port must be in `links`.
    """
    ip = ["ip", "-n", space]
    name = hardware(port)
    own = links[name]
    made: list[Words] = []
    if port not in links:
        made.append([*ip, "link", "add", "name", port, "address", own["address"], "type", "bridge", "stp_state", "0"])
    elif links[port].get("address") != own["address"]:
        made.append([*ip, "link", "set", port, "address", own["address"]])
    # The port first when it grows, because a bridge may not have more than its members when it is set up.
    made += [
        [*ip, "link", "set", each, "mtu", str(mtu)]
        for each in (name, port)
        if each in links and links[each].get("mtu", mtu) != mtu
    ]
    if own.get("master") != port:
        made.append([*ip, "link", "set", name, "master", port])
    if _up(own) != wanted:
        made.append([*ip, "link", "set", name, "up" if wanted else "down"])
    for tap, address in guests.items():
        if tap in links and address.lower() != own["address"]:
            made += _guest(ip, port, tap, address.lower(), links[tap])
    return made


def _guest(ip: Words, port: str, tap: str, address: str, link: Mapping[str, Any]) -> list[Words]:
    """The steps for one guest's port. Its alias records the address that it was set up for; it is set up last."""
    change = [*ip, "link", "set", tap]
    if link.get("master") == port and link.get("ifalias") == address and _up(link):
        return []
    return [
        [*change, "down"],
        [*change, "nomaster"],
        [*change, "master", port],
        [*change, "type", "bridge_slave", "locked", "on", "learning", "off", "flood", "off"],
        ["bridge", *ip[1:], "fdb", "replace", address, "dev", tap, "master", "static"],
        *bridge_filter.commands(tap, ip[-1]),
        [*change, "alias", address],
        [*change, "up"],
    ]
