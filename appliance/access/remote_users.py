# SPDX-License-Identifier: GPL-2.0-only
"""Users that only a server knows: their numbers and homes, for this boot.

A number is taken when somebody tries to log in, because the SSH server wants it before the password is checked, and is
free again when the attempt ends; accepted users keep theirs, by a line of /etc/passwd, which is in memory. If all are
taken, that of the user goes first who has nothing running. The role is no part of it: it is in the groups of the
processes of a session, so it ends with them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from appliance.access.groups import FIRST_REMOTE, GROUPS, LAST_REMOTE

NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._@-]{0,30}")


def usable(name: str, reserved: Collection[str]) -> bool:
    """Whether a user may have this name: no account of the system, nothing that a file or log could misread."""
    return bool(NAME.fullmatch(name)) and name not in reserved


def known(passwd: str) -> dict[str, int]:
    """The users of this kind in the text of /etc/passwd, those that came last at the end."""
    found = {}
    for line in passwd.splitlines():
        words = line.split(":")
        if len(words) > 2 and words[2].isdigit() and FIRST_REMOTE <= int(words[2]) <= LAST_REMOTE:
            found[words[0]] = int(words[2])
    return found


class RemoteUsers:
    """Names and numbers. `homes` is the folder of their homes, in memory; `busy` tells whether anything of a number
    runs. Lives as long as the part "access"."""

    def __init__(self, homes: Path, busy: Callable[[int], bool]) -> None:
        self._homes, self._busy = homes, busy
        self.users: dict[str, int] = {}
        self._held: dict[int, tuple[str, int]] = {}  # name, and how many attempts hold the number

    def home(self, name: str) -> Path:
        """Where the files of a user are."""
        return self._homes / name

    def take(self, name: str, held: set[int]) -> int | None:
        """A number for an attempt; None: all are in use."""
        if (uid := self.users.get(name)) is not None:
            return uid
        shared = next((uid for uid, (who, _) in self._held.items() if who == name), None)
        if shared is not None:
            if shared not in held:
                self._held[shared] = (name, self._held[shared][1] + 1)
                held.add(shared)
            return shared
        used = set(self.users.values()) | set(self._held)
        free = next((uid for uid in range(FIRST_REMOTE, LAST_REMOTE + 1) if uid not in used), None)
        if free is None and (free := self._release()) is None:
            return None
        self._held[free] = (name, 1)
        held.add(free)
        return free

    def _release(self) -> int | None:
        """Forget the user who came first and has nothing running."""
        for name, uid in self.users.items():
            if uid not in self._held and not self._busy(uid):
                self.forget(name)
                return uid
        return None

    def forget(self, name: str) -> None:
        """Forget a user, with the home."""
        self.users.pop(name, None)
        shutil.rmtree(self.home(name), ignore_errors=True)

    def give_back(self, held: set[int]) -> None:
        """An attempt has ended."""
        for uid in held:
            name, count = self._held.pop(uid, ("", 0))
            if count > 1:
                self._held[uid] = (name, count - 1)

    def admit(self, name: str, number: int) -> bool:
        """The user was accepted with this number; False: it belongs to somebody else by now."""
        if self.users.get(name) == number:
            return True
        if not FIRST_REMOTE <= number <= LAST_REMOTE or name in self.users or number in self.users.values():
            return False
        if self._held.get(number, (name, 0))[0] != name:  # an earlier bypassd gave it, and this one to somebody else
            return False
        self.users[name] = number
        return True

    def furnish(self, name: str, number: int) -> None:
        """Make the home. OSError. In a thread."""
        self._homes.mkdir(parents=True, exist_ok=True, mode=0o755)
        home = self.home(name)
        if home.exists() and home.stat().st_uid != number:
            shutil.rmtree(home)  # of an earlier user of this name
        home.mkdir(exist_ok=True, mode=0o700)
        (home / ".ssh").mkdir(exist_ok=True, mode=0o755)  # root's, so that nobody puts keys there
        with contextlib.suppress(PermissionError):  # a test that is not root
            os.chown(home, number, GROUPS["bypass"])
