# SPDX-License-Identifier: GPL-2.0-only
"""The answers to the questions of `setup` (setup.py): which are valid, and what they change. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from appliance.config.check.verify_access import interface, is_name
from appliance.config.schema import limits
from appliance.config.schema.model import ZONE_PATTERN
from appliance.system import clock
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
    dns: tuple[str, ...] | None = None  # (): none of its own, those of DHCP
    zone: str | None = None
    servers: tuple[str, ...] | None = None  # of time; () as for dns
    ahead: timedelta | None = None  # how far the clock is to be moved
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


def server_words(text: str) -> tuple[str, ...]:
    """The servers in an answer, between blanks or commas; () for none and dhcp."""
    return () if text in ("none", "dhcp") else tuple(text.replace(",", " ").split())


def servers_trouble(text: str, names: bool) -> str:
    """Why these are not name servers, or time servers, which may have `names`; "" if they are."""
    servers, most = server_words(text), limits.MAX_NTP if names else limits.MAX_DNS
    for server in servers:
        try:
            ip_address(server)
        except ValueError:
            if not names or not is_name(server):
                kind = "an address or a name" if names else "an address"
                return f'"{server}" is not {kind}; several are separated by blanks'
    return f"{len(servers)} servers are more than {most}" if len(servers) > most else ""


def zone_trouble(text: str, root: Path) -> str:
    """Why the image at `root` has no such time zone; "" if it has. Reads its folder of zones."""
    if not re.fullmatch(ZONE_PATTERN, text):
        return f'"{text}" is not an area and a city, as Europe/Berlin, nor UTC'
    return clock.zone_trouble(root, text)


def clock_answer(text: str, shown: datetime) -> tuple[timedelta | None, str]:
    """How far the clock is to be moved from what it shows, and why an answer is no time. `keep` moves nothing."""
    if text == "keep":
        return None, ""
    for form in ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%H:%M:%S", "%H:%M"):
        try:
            wanted = datetime.strptime(text, form)
        except ValueError:
            continue
        if "%Y" not in form:
            wanted = datetime.combine(shown.date(), wanted.time())
        if not clock.FIRST_YEAR <= wanted.year <= clock.LAST_YEAR:
            return None, f"{wanted.year} is not a year of this appliance's life"
        return wanted.replace(tzinfo=shown.tzinfo) - shown, ""
    return None, "a time is YYYY-MM-DD HH:MM or HH:MM, with or without :SS"


def _list(made: list[Change], table: dict[str, Any], path: tuple[str, str], wanted: tuple[str, ...] | None) -> None:
    """Set or delete a list of servers, if it is another one."""
    if wanted is not None and list(wanted) != list(table.get(path[1], [])):
        made.append(Change("set", (*path, *wanted)) if wanted else Change("delete", path))


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
    times = now.get("time", {})
    _list(made, management, ("management", "dns"), answers.dns)
    if answers.zone is not None and answers.zone != times.get("zone", "UTC"):
        made.append(Change("set", ("time", "zone", answers.zone)))
    _list(made, times, ("time", "servers"), answers.servers)
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
