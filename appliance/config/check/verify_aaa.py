# SPDX-License-Identifier: GPL-2.0-only
"""Checks of [aaa], [[radius]] and [[tacacs]]. Pure; verify_access.py yields from here, lint.py takes `remarks`."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from appliance.config.check.finding import Finding
from appliance.config.check.unreachable_rules import Finding as Remark
from appliance.config.schema import limits
from appliance.config.schema.model import Aaa, Config, Radius, Tacacs

SHORT: Final = 16  # bytes; RFC 2865 and RFC 8907 want at least that
ROLES: Final = ("viewer", "operator", "admin")


def findings(config: Config, *, reachable: bool) -> Iterator[Finding]:
    """Everything that is wrong. `reachable`: the management port has an address."""
    yield from _order(config, reachable)
    yield from _roles(config.aaa)
    for table in ("radius", "tacacs"):
        servers: tuple[Radius | Tacacs, ...] = getattr(config, table)
        if len(servers) > limits.MAX_AAA_SERVERS:
            what = f"{len(servers)} servers are more than MAX_AAA_SERVERS = {limits.MAX_AAA_SERVERS}"
            yield Finding(table, (table,), what)
        seen: set[str] = set()
        for index, server in enumerate(servers):
            where = f"{table} {server.name}"
            if server.name in seen:
                yield Finding(f"{where}: name", (table, index, "name"), f'"{server.name}" is already a server\'s name')
            seen.add(server.name)
            yield from _server(where, (table, index), server)


def _server(where: str, path: tuple[str, int], server: Radius | Tacacs) -> Iterator[Finding]:
    if trouble := address_trouble(server.address):
        yield Finding(f"{where}: address", (*path, "address"), trouble)
    if trouble := secret_trouble(server.secret):
        yield Finding(f"{where}: secret", (*path, "secret"), trouble)


def address_trouble(text: str) -> str:
    """Why this is no address of a server; "" if it is one."""
    try:
        address = ipaddress.ip_address(text)
        if address.is_unspecified or address.is_multicast or "%" in text:
            raise ValueError
    except ValueError:
        return f'"{text}" is not the address of a server; names are not resolved here'
    return ""


def secret_trouble(text: str) -> str:
    """Why this is no shared secret; "" if it is one."""
    return "" if 0 < len(text.encode()) <= limits.MAX_SECRET else f"must have 1 to {limits.MAX_SECRET} bytes"


def _order(config: Config, reachable: bool) -> Iterator[Finding]:
    order = config.aaa.order
    where, path = "aaa: order", ("aaa", "order")
    if len(set(order)) != len(order):
        yield Finding(where, path, "names a method twice")
    if "local" not in order:
        what = "local is missing: with all servers dead nobody could log in by password over SSH"
        yield Finding(where, path, what)
    for method in ("radius", "tacacs"):
        if method in order and not getattr(config, method):
            yield Finding(where, path, f"{method} has no server: set {method} NAME address ADDRESS")
    if len(order) > 1 and not reachable:
        what = "servers are asked through the management port, which has no address: set management address"
        yield Finding(where, path, what)


def _roles(aaa: Aaa) -> Iterator[Finding]:
    if not aaa.viewer_level <= aaa.operator_level <= aaa.admin_level:
        what = f"viewer_level {aaa.viewer_level}, operator_level {aaa.operator_level}, admin_level {aaa.admin_level}"
        yield Finding("aaa: operator_level", ("aaa", "operator_level"), f"levels must not fall: {what}")
    owners: dict[str, str] = {}
    for role in ROLES:
        for value in getattr(aaa, role):
            if not value:
                yield Finding(f"aaa: {role}", ("aaa", role), "an empty value fits nothing")
            elif owners.setdefault(value, role) != role:
                yield Finding(f"aaa: {role}", ("aaa", role), f'"{value}" is already a value of {owners[value]}')


def remarks(config: Config) -> Iterator[Remark]:
    """What works and is probably not meant."""
    aaa = config.aaa
    for method in ("radius", "tacacs"):
        servers: tuple[Radius | Tacacs, ...] = getattr(config, method)
        if servers and method not in aaa.order:
            yield Remark("warning", "aaa: order", f"the {method} servers are never asked: {method} is not named")
        for server in servers:
            if len(server.secret.encode()) < SHORT:
                what = f"fewer than {SHORT} bytes can be guessed from one recorded packet"
                yield Remark("warning", f"{method} {server.name}: secret", what)
    if len(aaa.order) > 1 and not any(user.role == "admin" and (user.password or user.keys) for user in config.user):
        what = "no local administrator can log in: while no server answers nobody can configure over SSH"
        yield Remark("warning", "user", what)
    if "tacacs" in aaa.order:
        what = "TACACS+ does not prove who answers: anybody on the way can let users in. Keep that network your own"
        yield Remark("note", "tacacs", what)
    if aaa.accounting != "off" and len(aaa.order) < 2:
        yield Remark("warning", "aaa: accounting", "there is no server in `order` to report to")
    if aaa.accounting == "commands" and next((m for m in aaa.order if m != "local"), "") == "radius":
        yield Remark("warning", "aaa: accounting", "RADIUS has no accounting of commands: sessions alone are reported")
