# SPDX-License-Identifier: GPL-2.0-only
"""The method user.password: a user who knows the current password can change it, by an ordinary commit.

Only the caller's own, identified by the kernel; administrators change other users' with `config.set`. The new password
arrives as a hash. The current one crosses the control socket, is compared here and not kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from appliance.api.rpc import Param, Params, Registry, caller
from appliance.api.schema import methods
from appliance.api.schema.access import NewPassword
from appliance.config.check.verify_access import is_crypt
from appliance.config.edit import key_path
from appliance.config.edit.document import Document
from appliance.config.edit.session import Session
from appliance.errors import ConfigError, RefusedError
from appliance.system import password

WAIT_S: Final = 1.0  # after a wrong one, before the next attempt is checked, for all users together


class OwnPassword:
    """The handler. `failed` is called with the user who gave a wrong password."""

    def __init__(self, session: Session, failed: Callable[[str], None], wait_s: float = WAIT_S) -> None:
        self._session, self._failed, self._wait_s = session, failed, wait_s
        self._one = asyncio.Lock()  # one comparison at a time: it takes a processor a while; libcrypt has one buffer

    def register(self, registry: Registry) -> None:
        """Register the method."""
        present = Param("string", "the current password")
        new = Param("string", "the hash of the new password, in the format of crypt(5)")
        doc = "change the caller's own password, by a commit"
        registry.add(methods.USER_PASSWORD, self.change, doc=doc, params={"present": present, "password": new})

    async def change(self, params: Params) -> NewPassword:
        """user.password"""
        who, engine, candidate = caller(), self._session.engine, self._session.candidate
        users = engine.running.user if engine.running is not None else ()
        made = next((user.password for user in users if user.name == who.user), "")
        if not made:
            raise RefusedError(
                f"{who.user or 'the caller'} has no password in the configuration to change",
                "an administrator sets one: user NAME password",
            )
        if not is_crypt(params["password"]):
            raise ConfigError(f"user {who.user}: password", "is not a password hash in the format of crypt(5)")
        async with self._one:
            if not await asyncio.to_thread(password.fits, params["present"], made):
                self._failed(who.user)
                await asyncio.sleep(self._wait_s)
                raise RefusedError("the current password is wrong; nothing was changed")
        if engine.pending is not None:
            raise RefusedError(
                f"a commit of {engine.pending.entry.user} is awaiting confirmation: try again afterwards"
            )
        if candidate.holder is not None or candidate.changed:
            editor = candidate.holder.user if candidate.holder is not None else candidate.author
            raise RefusedError(f"the configuration is being edited by {editor}: try again afterwards")
        candidate.hold(who)  # an edit that began now would put the old password back when it is committed
        try:
            text = await self._session.work(lambda: _with(engine.text, who.user, params["password"]))
            report = await engine.commit(text, who.user, f"password of {who.user}")
            self._session.discard()
        finally:
            candidate.release(who)
        return NewPassword(message=report.message, number=report.number)


def _with(text: str, name: str, made: str) -> str:
    document = Document(text)
    for change in key_path.assignments(["user", name, "password", made], document.data):
        document.assign(change)
    return document.text
