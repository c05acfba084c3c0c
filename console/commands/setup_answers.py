# SPDX-License-Identifier: GPL-2.0-only
"""The answers to the questions of `setup` (setup.py): which are valid, and what they change. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from appliance.config.check.verify_access import interface
from console.commands.one_commit import Change
from console.render import cell

ADMIN = "admin"
_HOSTNAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass
class Answers:
    """The answers; None: no change. `password` is a hash already."""

    hostname: str | None = None
    address: str | None = None  # "dhcp", "none" or ADDRESS/PREFIX
    gateway: str | None = None
    password: str | None = None
    image: str | None = None  # a disk image for the first guest


def hostname_trouble(text: str) -> str:
    """Why this is not a host name; "" if it is one."""
    rule = "a host name has 1 to 63 letters and digits, and - except at its ends"
    return "" if _HOSTNAME.fullmatch(text) else rule


def address_trouble(text: str) -> str:
    """Why this is not a management address; "" if it is one."""
    return "" if text in ("dhcp", "none") else interface(text, 4)[1]


def gateway_trouble(text: str, address: str) -> str:
    """Why this is not a gateway for that address; "" if it is one."""
    own, _ = interface(address, 4)
    try:
        gateway = ip_address(text)
    except ValueError:
        return "" if text == "none" else f'"{text}" is neither an IPv4 address nor "none"'
    if own is None or (gateway in own.network and gateway != own.ip):
        return ""
    return f'"{text}" is not another host in {own.network}'


def changes(now: dict[str, Any], answers: Answers) -> list[Change]:
    """The changes from the running configuration to the answers. [] if there are none."""
    made: list[Change] = []
    management = now.get("management", {})
    if answers.hostname is not None and answers.hostname != now.get("system", {}).get("hostname", "bypass"):
        made.append(Change("set", ("system", "hostname", answers.hostname)))
    if answers.address is not None:
        address = "" if answers.address == "none" else answers.address
        gateway = "" if answers.gateway in (None, "none") or address in ("", "dhcp") else str(answers.gateway)
        for key, value in (("address", address), ("gateway", gateway)):
            if value and value != management.get(key):
                made.append(Change("set", ("management", key, value)))
            elif not value and management.get(key):
                made.append(Change("delete", ("management", key)))
    if answers.password is not None:
        made.append(Change("set", ("user", ADMIN, "role", "admin")))
        made.append(Change("set", ("user", ADMIN, "password", answers.password)))
    guests = now.get("guest", [])
    if answers.image is not None and guests:
        name = str(guests[0]["name"])
        made.append(Change("set", ("guest", name, "image", answers.image)))
        made += [
            Change("delete", ("guest", name, key)) for key in ("kernel", "initrd", "cmdline") if guests[0].get(key)
        ]
    return made


def shown(change: Change) -> str:
    """A change as the command that makes it; a hash is not shown."""
    words = list(change.words)
    if "password" in words:
        return f"user {words[1]} password"
    return " ".join(["configure", change.verb, *words])


def segment_lines(rows: list[dict[str, Any]]) -> tuple[list[str], bool]:
    """One line per segment for the user, and whether every port of every segment has a link."""
    lines, good = [], True
    for row in rows:
        ports = [(cell(row.get(side)), cell(row.get(f"{side}_link"))) for side in ("lan", "wan")]
        linked = all(link == "up" for _, link in ports)
        good = good and linked
        away = f"{cell(row.get('relay')).upper()} ({cell(row.get('cause'))})"
        relay = "inline" if row.get("relay") == "inline" else away
        words = ", ".join(f"{port} link {link}" for port, link in ports)
        lines.append(f"  segment {cell(row.get('name'))}: {words}; relay {relay}")
    return lines or ["  no segment is configured"], good and bool(rows)
