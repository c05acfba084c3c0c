# SPDX-License-Identifier: GPL-2.0-only
"""Turns the users of the configuration into system accounts: passwd, shadow, group, authorized keys.

Pure except for `write`. Our accounts have user ids from FIRST_UID on. A user keeps its id for good, so that processes
and files of a removed user never pass to another one. Other entries of the files belong to the system and are kept. The
groups stand for the roles; the control socket gets them from the kernel.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from appliance.access.groups import FIRST_REMOTE, FIRST_UID, GROUPS, LAST_REMOTE, LAST_UID
from appliance.config.schema.model import User
from appliance.errors import RefusedError
from appliance.system import files

SHELL: Final = "/usr/bin/bypass"
HOMES: Final = "/var/lib/bypass/home"
REMOTE_HOMES: Final = "/run/bypass/home"
NOBODY: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True)
class Texts:
    """The three files."""

    passwd: str
    shadow: str
    group: str


def numbers(users: Iterable[User], known: Mapping[str, int]) -> dict[str, int]:
    """A user id for each user: its present one, or the lowest never used. Ids of other users are kept."""
    found = {name: uid for name, uid in known.items() if FIRST_UID <= uid <= LAST_UID}
    taken = set(found.values())
    free = (uid for uid in range(FIRST_UID, LAST_UID + 1) if uid not in taken)
    for user in users:
        if user.name not in found:
            uid = next(free, None)
            if uid is None:  # a thousand users were added and removed: ids of removed ones must be released
                raise RefusedError(f"no user id is left for user {user.name}: remove STATE/access.json and restart")
            found[user.name] = uid
    return found


def texts(base: Texts, users: Iterable[User], uids: Mapping[str, int], remote: Mapping[str, int] = NOBODY) -> Texts:
    """The new files: the system's accounts from the present files, and exactly these users.

    `remote` are users that a server let in, with their numbers. They have no password here, and no group: the processes
    of their sessions have it (appliance/login-hook).
    """
    users = list(users)
    ours = {line.split(":", 1)[0] for line in base.passwd.splitlines() if _is_ours(line)} | {u.name for u in users}
    passwd = [line for line in base.passwd.splitlines() if line.split(":", 1)[0] not in ours]
    shadow = [line for line in base.shadow.splitlines() if line.split(":", 1)[0] not in ours]
    group = [line for line in base.group.splitlines() if line.split(":", 1)[0] not in GROUPS]
    for user in users:
        passwd.append(f"{user.name}:x:{uids[user.name]}:{GROUPS['bypass']}:{user.role}:{HOMES}/{user.name}:{SHELL}")
        shadow.append(f"{user.name}:{user.password or '*'}:1::::::")
    taken = {user.name for user in users}
    for name, uid in remote.items():
        if name not in taken:
            passwd.append(f"{name}:x:{uid}:{GROUPS['bypass']}:remote:{REMOTE_HOMES}/{name}:{SHELL}")
            shadow.append(f"{name}:*:1::::::")
    for name, gid in GROUPS.items():
        members = [user.name for user in users if name in ("bypass", f"bypass-{user.role}")]
        group.append(f"{name}:x:{gid}:{','.join(members)}")
    return Texts(*("\n".join(lines) + "\n" for lines in (passwd, shadow, group)))


def _is_ours(line: str) -> bool:
    words = line.split(":")
    return len(words) > 2 and words[2].isdigit() and _is_number_of_ours(int(words[2]))


def _is_number_of_ours(uid: int) -> bool:
    return FIRST_UID <= uid <= LAST_UID or FIRST_REMOTE <= uid <= LAST_REMOTE


def may_log_in(user: User) -> bool:
    """Whether the user has a password or a key."""
    return bool(user.password or user.keys)


def shut(before: Iterable[User], after: Iterable[User]) -> set[str]:
    """Users whose sessions must end: removed, with another role, or without any password or key left.

    A new password ends no session, because its user is usually logged in.
    """
    now = {user.name: user for user in after}
    return {
        user.name
        for user in before
        if (there := now.get(user.name)) is None or there.role != user.role or not may_log_in(there)
    }


def read(root: Path) -> Texts:
    """The present files; a missing one counts as empty."""

    def text(name: str) -> str:
        try:
            return (root / "etc" / name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    return Texts(text("passwd"), text("shadow"), text("group"))


def write(root: Path, made: Texts, users: Iterable[User], uids: Mapping[str, int]) -> None:
    """Write the files, each in one step, and the homes with their keys. OSError when /etc cannot be written.

    Keys belong to root, so that users cannot add any. Shadow is written before passwd, so that no account is ever
    without its password entry.
    """
    replace_file(root / "etc/shadow", made.shadow, 0o600)
    replace_file(root / "etc/group", made.group, 0o644)
    replace_file(root / "etc/passwd", made.passwd, 0o644)
    homes = root / HOMES.lstrip("/")
    homes.mkdir(parents=True, exist_ok=True, mode=0o755)
    names = set()
    for user in users:
        names.add(user.name)
        home = homes / user.name
        home.mkdir(exist_ok=True, mode=0o700)
        owner = uids[user.name]
        with contextlib.suppress(PermissionError):  # a test that is not root
            os.chown(home, owner, GROUPS["bypass"])
        keys = home / ".ssh"
        keys.mkdir(exist_ok=True, mode=0o755)
        replace_file(keys / "authorized_keys", "".join(f"{key}\n" for key in user.keys), 0o644)
    for home in homes.iterdir():  # removed users keep their home, but not their keys
        if home.name not in names:
            (home / ".ssh/authorized_keys").unlink(missing_ok=True)


def replace_file(path: Path, text: str, mode: int) -> None:
    """Write a file in one step, unless it already has this content and mode."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8") == text and path.stat().st_mode & 0o777 == mode:
            return
    files.replace(path, text, mode)
