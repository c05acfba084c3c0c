# SPDX-License-Identifier: GPL-2.0-only
"""Who is at the other end of a Unix socket: as the kernel reports it, never as the client claims."""

from __future__ import annotations

import grp
import os
import pwd
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Final

from appliance.api.rpc import Caller

ROLE_GROUPS: Final = {"admin": "bypass-admin", "operator": "bypass-operator"}
_SO_PEERGROUPS: Final = 59
_MAX_GROUPS: Final = 256  # Python's getsockopt returns at most 1024 bytes


def role_of(uid: int, groups: Iterable[int], known: Callable[[str], int | None]) -> str:
    """The role of a peer: admin for root and for the user that bypassd runs as, otherwise by group membership.

    Anyone else who may open the socket is a viewer. `known` maps a group's name to its number.
    """
    if uid in (0, os.geteuid()):
        return "admin"
    numbers = set(groups)
    return next((role for role, name in ROLE_GROUPS.items() if known(name) in numbers), "viewer")


def _group(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def peer(link: socket.socket) -> Caller:
    """The process at the other end, as the kernel recorded it when the connection was made."""
    pid, uid, gid = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Caller(uid, pid, role_of(uid, (gid, *peer_groups(link)), _group), _user(uid))


def peer_groups(link: socket.socket) -> tuple[int, ...]:
    """The supplementary groups of the process at the other end; none if there are more than _MAX_GROUPS."""
    try:
        data = link.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:
        return ()
    return struct.unpack(f"{len(data) // 4}I", data[: len(data) // 4 * 4])
