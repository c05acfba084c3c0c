# SPDX-License-Identifier: GPL-2.0-only
"""Who may use the serial line, from the state stored by the part "access", and the line's log of logins.

The line is open until an administrator has a password, because someone has to set the first one; from then on it
requires a login (`management: serial_login`). If it is unknown whether there is an administrator (the file is damaged,
the data partition is missing), the line is closed: a disk error must not open the appliance.

This must be known before bypassd runs and without it, so the stored file is read here, with the standard library only.
Pure except for `read`, `recovery` and `note`; owns nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from appliance.access.groups import FIRST_UID, LAST_UID
from appliance.access.sshlog import SshEvent, clean
from appliance.hardware.data_partition import DataPartition
from appliance.hardware.data_partition import read as read_partition
from appliance.paths import Paths

LINE: Final = "console"
"""The origin of logins on the serial line; those over SSH have an address."""
RECOVERY: Final = "bypass.recovery"
"""Word on the kernel command line: the serial line requires no login until the next boot."""


@dataclass(frozen=True)
class Account:
    """A user with a password."""

    name: str
    role: str
    uid: int
    password: str  # its hash
    home: str = ""  # "": that of a user of the configuration


@dataclass(frozen=True)
class Gate:
    """What the serial line requires: a login with one of the accounts, or nothing (`why_open`); or it is closed to all
    (`why_closed`)."""

    why_open: str
    accounts: dict[str, Account] = field(default_factory=dict)
    why_closed: str = ""
    servers: bool = False  # whether users that are not in `accounts` are asked about


def gate(memory: str | None, recovery: bool, partition: DataPartition | None = None) -> Gate:
    """Decide from the stored file's text (None: no file) and the state of its partition.

    No file on a readable partition means a new appliance: open. A damaged file, or no partition: closed.
    """
    found: list[Account] = []
    wanted, servers, unknown = True, False, "" if partition is None or partition.holds_users else partition.alarm
    try:
        if memory is not None:
            data = json.loads(memory)
            management, users, uids = data["config"]["management"], data["config"]["user"], data["uids"]
            found = [_account(user, uids) for user in users if user.get("password")]
            wanted = bool(management.get("serial_login", True))
            servers = len(data.get("servers", {}).get("aaa", {}).get("order", ())) > 1
    except (ValueError, KeyError, TypeError, AttributeError):
        found, unknown = [], unknown or "the record of the users is damaged"
    accounts = {account.name: account for account in found}
    if recovery:
        return Gate(f"{RECOVERY} on the kernel's command line", accounts)
    if unknown:
        return Gate("", {}, f"{unknown}. To get in, boot with {RECOVERY} on the kernel command line.")
    if not any(account.role == "admin" for account in found):
        return Gate("no administrator has a password", accounts)
    return Gate("" if wanted else "management serial_login is false", accounts, servers=servers)


def _account(user: dict[str, Any], uids: dict[str, Any]) -> Account:
    name = str(user["name"])
    uid = int(uids[name])
    if not FIRST_UID <= uid <= LAST_UID:
        raise ValueError(f"user id {uid} is not in the range of our users")
    return Account(name, str(user.get("role", "viewer")), uid, str(user["password"]))


def read(memory: Path) -> Gate:
    """The present state."""
    text: str | None
    try:
        text = memory.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = None
    except (OSError, UnicodeDecodeError):
        text = ""  # it exists but cannot be read: the same as a damaged one
    return gate(text, recovery(), read_partition(Paths().data_partition))


def recovery(command_line: Path = Path("/proc/cmdline")) -> bool:
    """Whether a serial line without a login was requested at the boot loader."""
    try:
        return RECOVERY in command_line.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False


_NOTE = re.compile(r"^\[(\d+)\] (failed|login) (\S*)$")


def note(log: Path, kind: str, user: str, pid: int) -> None:
    """Log a login or a failed one, for bypassd to read now or when it runs again. Never prevents a login."""
    try:
        with log.open("a", encoding="utf-8") as file:
            file.write(f"[{pid}] {kind} {clean(user).replace(' ', '?')}\n")
    except OSError:
        pass
    try:
        Path("/dev/kmsg").write_text(f"<5>bypass-console: {kind} {clean(user)!r} on {LINE}\n", encoding="utf-8")
    except OSError:
        pass


def parse(line: str) -> SshEvent | None:
    """The event of one line of that log."""
    found = _NOTE.match(line.rstrip("\n"))
    if not found:
        return None
    return SshEvent("login" if found[2] == "login" else "failed", found[3], LINE, "password", int(found[1]))
