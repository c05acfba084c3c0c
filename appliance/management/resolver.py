# SPDX-License-Identifier: GPL-2.0-only
"""The name servers: configured ones, else those of DHCP, as text for /etc/resolv.conf. Pure.

Names are resolved through the management port only, by programs that run in its namespace (NTP, `dns`, `ping`). Nothing
that frames depend on is named.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence


def addresses(text: str) -> list[str]:
    """The addresses in a list that a DHCP server sent; what is none is left out, for it comes from outside."""
    found = []
    for word in text.split():
        try:
            found.append(str(ipaddress.ip_address(word)))
        except ValueError:
            continue
    return list(dict.fromkeys(found))


def chosen(configured: Sequence[str], lease: Mapping[str, str], key: str) -> tuple[list[str], str]:
    """(servers, where they are from): configuration or dhcp; none when there are none."""
    if configured:
        return list(configured), "configuration"
    leased = addresses(lease.get(key, ""))
    return leased, "dhcp" if leased else "none"


def text(servers: Iterable[str]) -> str:
    """/etc/resolv.conf: two tries of two seconds each, so that a dead server delays nobody for long."""
    lines = [f"nameserver {server}" for server in servers]
    return "\n".join(["# written by bypassd", *lines, "options timeout:2 attempts:2", ""])
