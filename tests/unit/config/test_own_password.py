# SPDX-License-Identifier: GPL-2.0-only
"""One's own password, for every role: who knows the present one, and what a change does to the configuration."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from appliance.api.rpc import Caller, Registry
from appliance.config.check import load
from appliance.config.commit.engine import Engine
from appliance.config.commit.steps import Step
from appliance.config.commit.store import Store
from appliance.config.commit.traffic_check import Look, Segment
from appliance.config.edit.candidate import Candidate
from appliance.config.edit.session import Session
from appliance.config.own_password import OwnPassword
from appliance.config.schema.model import Config
from appliance.errors import BypassError, RefusedError
from appliance.system import password
from console.client import Client
from console.commands import user_password
from console.line.parse import Token, parse
from console.render import Style
from console.session import Context

OLD, NEW = password.hashed("the present one"), password.hashed("the other one")
TEXT = f'[[user]]\nname = "noc"  # at night\npassword = "{OLD}"\n\n[[user]]\nname = "keys"\nrole = "operator"\n'
NOC, KEYS, ROOT = (Caller(2001, os.getpid(), "viewer", name) for name in ("noc", "keys", "root"))


class World:
    """Engine, candidate and method over a store on disk."""

    def __init__(self, folder: Path) -> None:
        startup = folder / "config.toml"
        startup.write_text(TEXT)
        store = Store(startup, folder / "history")
        store.recover("boot", 0)
        generation = [1]

        async def apply(_: Config) -> None:
            generation[0] += 1

        async def nothing(_: Config) -> None:
            """No part of the appliance is here."""

        self.engine = Engine(
            store, running=load.loads(TEXT), text=TEXT, boot="boot",
            steps=[Step("all", apply, nothing, lambda: None, nothing)],
            look=lambda: Look(generation[0], {"main": Segment(inline=True)}),
        )  # fmt: skip
        self.candidate, self.failed, self.registry = Candidate(lambda: self.engine.text), list[str](), Registry()
        self.session = Session(self.engine, self.candidate)
        OwnPassword(self.session, self.failed.append, wait_s=0.0).register(self.registry)

    async def change(self, who: Caller, present: str, new: str = NEW) -> Any:
        return await self.registry.call("user.password", {"present": present, "password": new}, who)

    @property
    def hash(self) -> str:
        assert self.engine.running is not None
        return self.engine.running.user[0].password


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await body()

    asyncio.run(limited())


def test_who_knows_the_present_one_changes_it(world: World) -> None:
    """It is a commit in the user's name, what else stands there stays, and nobody edits afterwards."""

    async def body() -> None:
        await world.change(NOC, "the present one")
        assert world.hash == NEW
        assert "# at night" in world.engine.text
        newest = world.engine.store.entry(0)
        assert (newest.user, newest.comment) == ("noc", "password of noc")
        assert world.candidate.holder is None
        assert not world.candidate.changed
        await world.session.stop()

    run(body)


@pytest.mark.parametrize(
    ("who", "present", "new", "says"),
    [
        (NOC, "a wrong one", NEW, "the current password is wrong; nothing was changed"),
        (NOC, "the present one", "not a hash", "not a password hash"),
        (KEYS, "", NEW, "keys has no password"),
        (ROOT, "", NEW, "root has no password"),
    ],
    ids=["a wrong password", "not a hash", "a user with keys only", "root"],  # hashes differ at each collection
)
def test_refused(world: World, who: Caller, present: str, new: str, says: str) -> None:
    async def body() -> None:
        with pytest.raises(BypassError, match=says):
            await world.change(who, present, new)
        assert world.engine.text == TEXT
        assert world.failed == (["noc"] if "wrong" in present else [])

    run(body)


def test_not_while_somebody_edits(world: World) -> None:
    """The other's commit would put the old password back."""

    async def body() -> None:
        world.candidate.hold(Caller(0, os.getpid(), "admin", "admin"))
        with pytest.raises(RefusedError, match="being edited by admin"):
            await world.change(NOC, "the present one")
        world.candidate.replace(TEXT + "# more\n", Caller(0, os.getpid(), "admin", "admin"))
        world.candidate.release(Caller(0, os.getpid(), "admin", "admin"))
        with pytest.raises(RefusedError, match="being edited by admin"):
            await world.change(NOC, "the present one")
        world.candidate.discard()
        await world.engine.commit(TEXT + "# awaiting confirmation\n", "admin", "", 60)
        with pytest.raises(RefusedError, match="commit of admin is awaiting"):
            await world.change(NOC, "the present one")
        assert world.hash == OLD

    run(body)


class Daemon(Client):
    """Notes what it was asked."""

    def __init__(self) -> None:
        super().__init__("/nowhere")
        self.calls: list[tuple[str, Any]] = []

    def call(self, method: str, params: dict[str, object] | None = None, wait: float = 5.0) -> Any:
        self.calls.append((method, params))
        return {"data": {}, "message": "committed as 2"}


def typed(monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> Daemon:
    """`user NAME password` by the viewer noc, from a script."""
    daemon = Daemon()
    monkeypatch.setattr(user_password, "_own_name", lambda: "noc")
    monkeypatch.setattr(user_password, "_administrator", lambda: False)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    context = Context(daemon, io.StringIO(), io.StringIO(), Style())
    user_password.user_password(parse([Token("user"), Token(name), Token("password")]), context)
    return daemon


def test_the_command_asks_for_the_present_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ((method, params),) = typed(monkeypatch, "noc", "the present one\nthe other one\n").calls
    assert (method, params["present"]) == ("user.password", "the present one")
    assert password.fits("the other one", params["password"])


def test_anothers_is_not_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError, match="no user is named"):
        typed(monkeypatch, "admin", "x\ny\n")
