# SPDX-License-Identifier: GPL-2.0-only
"""Asks bypassd about a login at the console that the local users do not decide (appliance/aaa/door.py answers)."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from appliance.access.groups import FIRST_REMOTE, GROUPS, LAST_REMOTE
from appliance.access.serial_login import LINE, Account

WAIT_S: Final = 45.0  # longer than bypassd asks servers (limits.MAX_AAA)
MAX_ANSWER: Final = 1024


def ask(door: Path, name: str, password: str) -> Account | None:
    """The account of a user whom a server lets in; None: refused, or nobody can be asked."""
    if "\0" in name + password:
        return None
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
            link.settimeout(WAIT_S)
            link.connect(os.fspath(door))
            word, *rest = _answer(link, "name", name)
            if word != "uid" or len(rest) != 2:
                return None
            word, *rest = _answer(link, "check", name, LINE, rest[0], password)
    except OSError:
        return None
    if word != "accept" or len(rest) != 4:
        return None
    uid, role, home = int(rest[1]), rest[2], rest[3]
    if not FIRST_REMOTE <= uid <= LAST_REMOTE or f"bypass-{role}" not in GROUPS:
        return None
    return Account(name, role, uid, "", home)


def _answer(link: socket.socket, *parts: str) -> list[str]:
    link.sendall("\0".join(parts).encode())
    return link.recv(MAX_ANSWER).decode("utf-8", "replace").split(" ")
