# SPDX-License-Identifier: GPL-2.0-only
"""Reports sessions, and with TACACS+ commands, to the servers of the first method that asks any.

Reports wait in a bounded queue; one task sends them, to the first server that confirms. What no server confirms within
its time, or does not fit, is lost and counted: a session never waits for a report.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from appliance.aaa.exchange import Exchange
from appliance.aaa.methods import Methods, Server
from appliance.aaa.tacacs import START, STOP, Where
from appliance.config.schema.model import Radius, Tacacs
from appliance.system.process import start_time

QUEUE: Final = 256
LOOK_S: Final = 1.0  # how often ended sessions are looked for
TOLD: Final = frozenset(
    ("action", "address", "count", "device", "guest", "hop", "id", "image", "kind", "mode", "name", "number", "order",
     "segment", "state", "target", "when")
)  # fmt: skip
"""Parameters that are reported with a command; others may be secret, or long."""


class Login(NamedTuple):
    """A session whose begin was reported."""

    user: str
    where: Where
    number: str  # its name for the servers: process and its start, so that it survives bypassd
    pid: int
    started: int
    remote: bool


class _Report(NamedTuple):
    login: Login
    kind: str  # begin, end, command
    seconds: int = 0
    arguments: tuple[str, ...] = ()


class Accounting:
    """See the module. Lives as long as the service."""

    def __init__(self, methods: Methods, exchange: Exchange) -> None:
        self._methods, self._exchange = methods, exchange
        self._open: dict[int, Login] = {}
        self._queue: deque[_Report] = deque()
        self._new = asyncio.Event()
        self.lost = 0

    @property
    def waiting(self) -> int:
        """Reports that are not sent yet."""
        return len(self._queue)

    @property
    def _wanted(self) -> bool:
        return self._methods.aaa.accounting != "off" and bool(self._methods.remote)

    def begun(self, user: str, where: Where, pid: int, *, remote: bool, report: bool = True) -> None:
        """A session has begun (`report`), or was found running."""
        if len(self._open) >= QUEUE:
            return
        started = start_time(pid)
        login = Login(user, where, f"{pid}-{started or time.monotonic_ns()}", pid, started or 0, remote)
        if report:
            self._put(_Report(login, "begin"))
        if started is None:  # as short as one command may be
            self._put(_Report(login, "end"))
        else:
            self._open[pid] = login

    def command(self, user: str, method: str, params: Mapping[str, Any]) -> None:
        """A user ordered something."""
        if self._methods.aaa.accounting != "commands":
            return
        login = next((login for login in reversed(self._open.values()) if login.user == user), None)
        if login is None:
            return  # not of a session that was logged in: a program of the appliance
        told = [f"cmd-arg={key}={value}" for key, value in sorted(params.items()) if key in TOLD and _plain(value)]
        self._put(_Report(login, "command", 0, (f"cmd={method}", *told, "cmd-arg=<cr>")))

    def _put(self, report: _Report) -> None:
        if not self._wanted:
            return
        if len(self._queue) >= QUEUE:
            self.lost += 1
            return
        self._queue.append(report)
        self._new.set()

    async def run(self) -> None:
        """Send reports, and look for sessions that have ended, until cancelled."""
        while True:
            self._look()
            if self._queue:
                report = self._queue.popleft()
                if not await self._send(report):
                    self.lost += 1
                continue
            self._new.clear()
            try:
                await asyncio.wait_for(self._new.wait(), LOOK_S)
            except TimeoutError:
                continue

    def _look(self) -> None:
        for login in [login for login in self._open.values() if start_time(login.pid) != login.started]:
            del self._open[login.pid]
            age = time.clock_gettime(time.CLOCK_BOOTTIME) - login.started / os.sysconf("SC_CLK_TCK")
            self._put(_Report(login, "end", max(0, round(age))))

    async def _send(self, report: _Report) -> bool:
        method = next(iter(self._methods.remote), "")
        servers = [server for server in self._methods.servers if server.method == method]
        now = time.monotonic()
        for server in sorted(servers, key=lambda server: server.skip_until > now):
            why = await self._one(server, report)
            if why is None:
                continue
            if not why:
                server.reports += 1
                return True
            server.unreported += 1
        return False

    async def _one(self, server: Server, report: _Report) -> str | None:
        """Why the server did not take it, "" if it did; None: it takes none of this kind."""
        login, wish = report.login, server.wish
        if isinstance(wish, Radius):
            if report.kind == "command" or not wish.accounting_port:
                return None
            kind = 1 if report.kind == "begin" else 2
            return await self._exchange.radius_account(
                wish,
                kind,
                login.user,
                login.where,
                session=login.number,
                seconds=report.seconds,
                remote=login.remote,
            )
        assert isinstance(wish, Tacacs)
        words = [f"task_id={login.number}", "timezone=UTC", "service=shell"]
        if report.kind == "begin":
            words.append(f"start_time={int(time.time())}")
        else:
            words.append(f"stop_time={int(time.time())}")
        if report.kind == "end":
            words.append(f"elapsed_time={report.seconds}")
        flags = START if report.kind == "begin" else STOP
        return await self._exchange.tacacs_account(wish, flags, login.user, login.where, [*words, *report.arguments])


def _plain(value: object) -> bool:
    return isinstance(value, str | int) and len(str(value)) <= 64
