# SPDX-License-Identifier: GPL-2.0-only
"""Logins by servers, as one piece: the methods, the door where the SSH server and the console ask, and the reports.

Owned by the part "access". What was decided about each password is kept for a moment, by the process that asked, so
that the events tell who let a user in or refused (access/logins.py reads the log in which the server writes the rest).
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from appliance.aaa.accounting import Accounting
from appliance.aaa.door import Door
from appliance.aaa.exchange import Exchange
from appliance.aaa.methods import ANSWERS, Methods, Server
from appliance.aaa.tacacs import Where
from appliance.aaa.verdict import Answer, Verdict
from appliance.api.schema import access
from appliance.config.schema.model import Aaa, Config, Radius, Tacacs
from appliance.errors import BypassError, RefusedError
from appliance.telemetry.events import Events
from appliance.telemetry.subject import Kind, Notice, Subject

CONSOLE: Final = "console"
MAX_TOLD: Final = 200  # processes whose passwords were decided about
MAX_PASSWORD: Final = 255

log = logging.getLogger(__name__)


class Admitted(NamedTuple):
    """A user with number, group of the role, and home."""

    number: int
    group: int
    home: str


class People(Protocol):
    """The accounts (management/people.py)."""

    def local(self, user: str) -> bool:
        """Whether the configuration has this user."""
        ...

    def number(self, user: str, held: set[int]) -> tuple[int, str] | None:
        """Number and home for an attempt to log in; None: this name can have none."""
        ...

    def left(self, held: set[int]) -> None:
        """The attempt has ended."""
        ...

    async def admit(self, user: str, number: int, role: str) -> Admitted:
        """Make the account of a user whom a server let in. BypassError: it cannot be made."""
        ...


class Service:
    """See the module."""

    def __init__(self, exchange: Exchange, people: People, events: Events, door: Path) -> None:
        self._exchange, self._people, self._events = exchange, people, events
        self.methods = Methods(self._ask, self._changed, time.monotonic)
        self.accounting = Accounting(self.methods, exchange)
        self._door = Door(door, self)
        self._told: OrderedDict[int, deque[tuple[str, bool]]] = OrderedDict()
        self.trouble = ""

    def apply(self, config: Config) -> None:
        """Use this configuration from the next login on. BypassError: the door cannot be opened."""
        self.methods.apply(config)
        self.trouble = ""
        try:
            if self.methods.remote:
                self._door.open()
            else:
                self._door.close()
        except BypassError as error:
            self.trouble = str(error)
            raise

    def stop(self) -> None:
        """bypassd ends: until the next one, the local users are asked."""
        self._door.close()

    async def _ask(self, server: Radius | Tacacs, aaa: Aaa, user: str, password: str, where: Where) -> Answer:
        if isinstance(server, Radius):
            return await self._exchange.radius_login(server, aaa, user, password, where)
        return await self._exchange.tacacs_login(server, user, password, where)

    def _changed(self, server: Server, state: str) -> None:
        works = state == ANSWERS
        notice = Notice.AAA_WORKS if works else Notice.AAA_FAILED
        text = "answers again" if works else f"{server.wish.address}: {state}"
        self._events.record(notice, Subject(Kind.AAA, f"{server.method} {server.wish.name}"), text)

    # -- the door

    async def number(self, user: str, held: set[int]) -> tuple[int, str] | None:
        """A number for an attempt to log in."""
        return self._people.number(user, held)

    def left(self, held: set[int]) -> None:
        """An attempt has ended."""
        self._people.left(held)

    async def check(self, user: str, address: str, number: int, password: str, pid: int) -> str:
        """Decide about a password, for the process `pid`."""
        local = self._people.local(user)
        line = CONSOLE if address == CONSOLE else "ssh"
        verdict = await self.methods.decide(user, password, Where(line, address), local=local)
        answer: str = verdict.decision
        if verdict.decision == "accept":
            try:
                admitted = await self._people.admit(user, number, verdict.role)
                answer = f"accept {admitted.group} {admitted.number} {verdict.role} {admitted.home}"
            except BypassError as error:
                log.error("user %s: %s", user, error)
                verdict, answer = verdict._replace(decision="refuse", why=str(error), judged=False), "refuse"
        self._note(pid, verdict)
        return answer

    def _note(self, pid: int, verdict: Verdict) -> None:
        while len(self._told) >= MAX_TOLD and pid not in self._told:
            self._told.popitem(last=False)
        self._told.setdefault(pid, deque(maxlen=8)).append((verdict.why, verdict.judged))

    # -- what access/logins.py wants to know, and tells

    def told(self, pid: int) -> tuple[str, bool] | None:
        """What was decided about the next password of this process."""
        known = self._told.get(pid)
        if not known:
            return None
        found = known.popleft()
        if not known:
            del self._told[pid]
        return found

    def begun(self, session: Any) -> None:
        """A session has begun."""
        self._session(session, report=True)

    def found(self, session: Any) -> None:
        """A session was there when bypassd started."""
        self._session(session, report=False)

    def _session(self, session: Any, *, report: bool) -> None:
        where = Where(CONSOLE if session.address == CONSOLE else "ssh", session.address)
        remote = session.how.startswith("password, ")
        self.accounting.begun(session.user, where, session.pid, remote=remote, report=report)

    # -- for people

    async def test(self, user: str, password: str) -> access.AaaTest:
        """Ask the servers as for a login. RefusedError: none is asked."""
        if not self.methods.remote:
            raise RefusedError("no server is asked about logins", "set aaa order radius local, or tacacs local")
        if not user or len(user) > 63 or len(password.encode()) > MAX_PASSWORD or "\0" in user + password:
            raise RefusedError("user names have 1 to 63 characters, passwords at most 255 bytes")
        local = self._people.local(user)
        found = await self.methods.decide(user, password, Where("test", CONSOLE), local=local)
        steps = [access.AaaStep(step.server, step.result, step.seconds) for step in found.steps]
        return access.AaaTest(found.decision, found.role, found.why, steps)

    def show(self) -> access.Aaa:
        """`show aaa`."""
        now, aaa = time.monotonic(), self.methods.aaa
        return access.Aaa(
            order=list(aaa.order),
            state="failed" if self.trouble else "on" if self.methods.remote else "off",
            detail=self.trouble,
            accounting=aaa.accounting,
            waiting=self.accounting.waiting,
            lost=self.accounting.lost,
            servers=[
                access.AaaServer(
                    name=server.wish.name,
                    method=server.method,
                    address=server.wish.address,
                    port=server.wish.port,
                    state=server.state,
                    seconds_ago=round(now - server.since, 1) if server.since else None,
                    skipped_s=max(0.0, round(server.skip_until - now, 1)),
                    latency_ms=round(server.seconds * 1000, 1) if server.seconds else None,
                    accepted=server.accepted,
                    refused=server.refused,
                    failed=server.failed,
                    reported=server.reports,
                    unreported=server.unreported,
                )
                for server in self.methods.servers
            ],
        )
