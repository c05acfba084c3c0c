# SPDX-License-Identifier: GPL-2.0-only
"""Accounts for users that only a server knows, as the logins by servers (aaa/service.py) need them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from appliance.aaa.service import Admitted
from appliance.access.groups import GROUPS
from appliance.access.remote_users import RemoteUsers, usable
from appliance.config.check.verify_access import RESERVED
from appliance.config.schema.model import User
from appliance.errors import RefusedError


class People:
    """`users` are those of the configuration; `written` makes /etc/passwd name the remote ones too."""

    def __init__(
        self, remote: RemoteUsers, users: Callable[[], Iterable[User]], written: Callable[[], Awaitable[None]]
    ) -> None:
        self.remote, self._users, self._written = remote, users, written

    def local(self, user: str) -> bool:
        """Whether the configuration has this user."""
        return any(known.name == user for known in self._users())

    def number(self, user: str, held: set[int]) -> tuple[int, str] | None:
        """Number and home for an attempt to log in; None: this name can have none."""
        if self.local(user) or not usable(user, RESERVED):
            return None
        uid = self.remote.take(user, held)
        return None if uid is None else (uid, str(self.remote.home(user)))

    def left(self, held: set[int]) -> None:
        """The attempt has ended."""
        self.remote.give_back(held)

    async def admit(self, user: str, number: int, role: str) -> Admitted:
        """Make the account of a user whom a server let in. RefusedError: it cannot be made."""
        group = GROUPS[f"bypass-{role}"]
        if self.local(user):
            return Admitted(number, group, "")
        known = user in self.remote.users
        if not usable(user, RESERVED) or not self.remote.admit(user, number):
            raise RefusedError(f"user {user} cannot have number {number}: try again")
        try:
            await asyncio.to_thread(self.remote.furnish, user, number)
            if not known:
                await self._written()
        except OSError as error:
            self.remote.forget(user)
            raise RefusedError(f"user {user}: {error.filename}: {error.strerror}") from error
        return Admitted(number, group, str(self.remote.home(user)))
