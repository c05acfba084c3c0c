# SPDX-License-Identifier: GPL-2.0-only
"""What is reported of sessions and commands, to whom, and that nothing waits for it."""

from __future__ import annotations

import asyncio
import subprocess
from typing import Any, cast

import pytest

from appliance.aaa import accounting as module
from appliance.aaa.accounting import QUEUE, Accounting
from appliance.aaa.exchange import Exchange
from appliance.aaa.methods import Methods
from appliance.aaa.tacacs import START, STOP, Where
from appliance.api.rpc import Caller, Registry
from appliance.api.schema import methods as api
from appliance.api.schema.base import Done
from appliance.config.schema.model import Aaa, Config, Radius, Tacacs

HERE = Where("ssh", "192.0.2.7")
GONE = 1 << 22  # no process has this id


class Servers:
    """Takes reports; `why` is the answer of each server by its name."""

    def __init__(self) -> None:
        self.reports: list[tuple[Any, ...]] = []
        self.why: dict[str, str] = {}

    async def radius_account(
        self, server: Radius, kind: int, user: str, where: Where, *, session: str, seconds: int, remote: bool
    ) -> str:
        self.reports.append((server.name, kind, user, remote))
        return self.why.get(server.name, "")

    async def tacacs_account(self, server: Tacacs, flags: int, user: str, where: Where, words: list[str]) -> str:
        self.reports.append((server.name, flags, user, [word for word in words if word.startswith("cmd")]))
        return self.why.get(server.name, "")


class Desk:
    def __init__(self, kind: str, accounting: str) -> None:
        async def nobody(*_: object) -> Any:
            raise AssertionError

        self.servers, self.methods = Servers(), Methods(nobody, lambda _, __: None, lambda: 0.0)
        self.methods.apply(
            Config(
                aaa=Aaa(order=(kind, "local"), accounting=accounting),  # type: ignore[arg-type]
                radius=tuple(Radius(name=name, address="192.0.2.1", secret="s") for name in ("r1", "r2")),
                tacacs=(Tacacs(name="t1", address="192.0.2.1", secret="s"),),
            )
        )
        self.it = Accounting(self.methods, cast(Exchange, self.servers))

    async def settle(self, seconds: float = 0.05) -> None:
        task = asyncio.ensure_future(self.it.run())
        await asyncio.sleep(seconds)
        task.cancel()


def test_begin_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end is that of the process, however it ends; a session that is over already has both at once."""
    monkeypatch.setattr(module, "LOOK_S", 0.02)

    async def go() -> None:
        desk = Desk("radius", "sessions")
        child = subprocess.Popen(["sleep", "60"])
        desk.it.begun("ann", HERE, child.pid, remote=True)
        await desk.settle()
        assert desk.servers.reports == [("r1", 1, "ann", True)]
        child.kill()
        child.wait()
        await desk.settle(0.2)
        assert desk.servers.reports[1:] == [("r1", 2, "ann", True)]
        desk.it.begun("bob", HERE, GONE, remote=False)
        await desk.settle()
        assert desk.servers.reports[2:] == [("r1", 1, "bob", False), ("r1", 2, "bob", False)]

    asyncio.run(go())


def test_the_next_server_gets_what_one_does_not_confirm() -> None:
    async def go() -> None:
        desk = Desk("radius", "sessions")
        desk.servers.why = {"r1": "no answer"}
        desk.it.begun("ann", HERE, GONE, remote=True)
        await desk.settle()
        assert [report[0] for report in desk.servers.reports] == ["r1", "r2"] * 2
        assert [(s.reports, s.unreported) for s in desk.methods.servers] == [(0, 2), (2, 0), (0, 0)]
        desk.servers.why["r2"] = "no answer"
        desk.it.begun("ann", HERE, GONE, remote=True)
        await desk.settle()
        assert desk.it.lost == 2

    asyncio.run(go())


def test_commands_without_what_may_be_secret() -> None:
    """By TACACS+, of sessions that were logged in; a method's words that may be secret are left out."""

    async def go() -> None:
        desk = Desk("tacacs", "commands")
        child = subprocess.Popen(["sleep", "60"])
        try:
            desk.it.begun("ann", HERE, child.pid, remote=True)
            desk.it.command("ann", "segment.mode", {"segment": "main", "mode": "bypass"})
            desk.it.command("ann", "aaa.test", {"user": "x", "password": "hunter2"})
            desk.it.command("ann", "config.set", {"words": ["radius", "r1", "secret", "hunter2"]})
            desk.it.command("root", "segment.mode", {"segment": "main"})
            await desk.settle()
        finally:
            child.kill()
            child.wait()
        assert desk.servers.reports == [
            ("t1", START, "ann", []),
            ("t1", STOP, "ann", ["cmd=segment.mode", "cmd-arg=mode=bypass", "cmd-arg=segment=main", "cmd-arg=<cr>"]),
            ("t1", STOP, "ann", ["cmd=aaa.test", "cmd-arg=<cr>"]),
            ("t1", STOP, "ann", ["cmd=config.set", "cmd-arg=<cr>"]),
        ]

    asyncio.run(go())


@pytest.mark.parametrize("accounting", ["off", "sessions"])
def test_what_is_not_asked_for_is_not_reported(accounting: str) -> None:
    async def go() -> None:
        desk = Desk("tacacs", accounting)
        desk.it.begun("ann", HERE, GONE, remote=True, report=accounting == "off")
        desk.it.command("ann", "segment.mode", {})
        await desk.settle()
        assert [report for report in desk.servers.reports if report[1] == START or report[3]] == []

    asyncio.run(go())


def test_reports_that_wait_are_bounded() -> None:
    async def go() -> None:
        desk = Desk("radius", "sessions")
        for _ in range(QUEUE):
            desk.it.begun("ann", HERE, GONE, remote=True)
        assert (desk.it.waiting, desk.it.lost) == (QUEUE, QUEUE)

    asyncio.run(go())


def test_the_api_tells_of_orders_alone() -> None:
    """Every call that a viewer may not make, before it runs; none that only looks, none that is refused."""

    async def go() -> None:
        registry, told = Registry(), list[tuple[str, str]]()
        registry.acted = lambda who, name, _: told.append((who.user, name))

        async def done(_: object) -> Done:
            return Done("done")

        registry.add(api.MANAGEMENT_UNBLOCK, done, "admin")
        ann = Caller(3000, 1, "admin", "ann")
        await registry.call("management.unblock", {}, ann)
        await registry.call("api.schema", {}, ann)
        with pytest.raises(Exception, match="permission denied"):
            await registry.call("management.unblock", {}, ann._replace(role="viewer"))
        assert told == [("ann", "management.unblock")]

    asyncio.run(go())
