# SPDX-License-Identifier: GPL-2.0-only
"""Checks of [snmp] with its users and receivers. Pure; verify_access.py yields from here, lint.py takes `remarks`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from appliance.config.check.finding import Finding
from appliance.config.check.unreachable_rules import Finding as Remark
from appliance.config.check.verify_aaa import address_trouble
from appliance.config.schema import limits, secrets, snmp_keys
from appliance.config.schema.model import Config, SnmpUser

PASSPHRASES: Final = ("auth_passphrase", "priv_passphrase")


def findings(config: Config, *, reachable: bool) -> Iterator[Finding]:
    """Everything that is wrong. `reachable`: the management port has an address."""
    snmp = config.snmp
    if snmp.enabled and not reachable:
        what = "SNMP is read through the management port, which has no address: set management address"
        yield Finding("snmp: enabled", ("snmp", "enabled"), what)
    if snmp.enabled and not snmp.user:
        what = "needs a user: set snmp user NAME auth_passphrase TEXT priv_passphrase TEXT"
        yield Finding("snmp: enabled", ("snmp", "enabled"), what)
    for key in ("location", "contact"):
        if trouble := text_trouble(getattr(snmp, key)):
            yield Finding(f"snmp: {key}", ("snmp", key), trouble)
    for table, constant in (("user", "MAX_SNMP_USERS"), ("receiver", "MAX_SNMP_RECEIVERS")):
        rows, most = getattr(snmp, table), int(getattr(limits, constant))
        if len(rows) > most:
            yield Finding(f"snmp: {table}", ("snmp", table), f"{len(rows)} are more than {constant} = {most}")
        seen: set[str] = set()
        for index, row in enumerate(rows):
            if row.name in seen:
                what = f'"{row.name}" is already the name of a {table}'
                yield Finding(f"snmp: {table} {row.name}: name", ("snmp", table, index, "name"), what)
            seen.add(row.name)
    for index, user in enumerate(snmp.user):
        yield from _user(user, index)
    users = [user.name for user in snmp.user]
    for index, receiver in enumerate(snmp.receiver):
        where, path = f"snmp: receiver {receiver.name}", ("snmp", "receiver", index)
        if trouble := address_trouble(receiver.address):
            yield Finding(f"{where}: address", (*path, "address"), trouble)
        if receiver.user not in users:
            known = ", ".join(users) or "none"
            yield Finding(f"{where}: user", (*path, "user"), f'there is no user "{receiver.user}"; there is: {known}')


def _user(user: SnmpUser, index: int) -> Iterator[Finding]:
    for key in PASSPHRASES:
        where, path = f"snmp: user {user.name}: {key}", ("snmp", "user", index, key)
        value: str = getattr(user, key)
        if not value:
            yield Finding(where, path, "is required: every message is authenticated and encrypted")
        elif trouble := passphrase_trouble(value):
            yield Finding(where, path, trouble)
        elif not snmp_keys.fits(value, user.auth):
            yield Finding(where, path, f"its key is not one of {user.auth}: set both passphrases again")


def passphrase_trouble(text: str) -> str:
    """Why this is no passphrase; "" if it is one, or the key of one."""
    if snmp_keys.is_key(text) or text == secrets.HIDDEN:
        return ""
    if len(text) < snmp_keys.LEAST:
        return f"must have {snmp_keys.LEAST} characters or more (RFC 3414)"
    if len(text) > snmp_keys.MOST:
        return f"must have {snmp_keys.MOST} characters at most"
    if not text.isprintable():
        return "has characters that cannot be typed"
    return ""


def text_trouble(text: str) -> str:
    """Why this cannot be a location or a contact; "" if it can."""
    return "" if text.isprintable() else "must be one line, of characters that can be printed"


def remarks(config: Config) -> Iterator[Remark]:
    """What works and is probably not meant."""
    snmp = config.snmp
    if not snmp.enabled and (snmp.user or snmp.receiver):
        yield Remark("note", "snmp: enabled", "SNMP is off: its users and receivers have no effect")
    for user in snmp.user:
        kept = [getattr(user, key) for key in PASSPHRASES]
        if kept[0] and kept[0] == kept[1]:
            what = "both passphrases are the same: whoever learns one knows both"
            yield Remark("warning", f"snmp: user {user.name}", what)
        if any(value and not snmp_keys.is_key(value) for value in kept):
            what = "a passphrase is in the file as it was typed: `set` it once, and its key is kept instead"
            yield Remark("warning", f"snmp: user {user.name}", what)
