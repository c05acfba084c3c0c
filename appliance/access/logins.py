# SPDX-License-Identifier: GPL-2.0-only
"""Logins over SSH and at the console, read from their logs: events, sessions, blocked networks.

Too many failures block a network. The console is never blocked, because it is the fallback access.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from appliance.access import serial_login
from appliance.access.login_limiter import SECOND, Action, Block, Limiter, network_of
from appliance.access.sessions import Session, Sessions
from appliance.access.sshlog import SshEvent, Tail, parse
from appliance.counted import counted
from appliance.errors import BypassError, RefusedError
from appliance.telemetry.events import Events
from appliance.telemetry.subject import Kind, Notice, Subject

MANY = 1000  # sessions whose end no log reported are forgotten then
SHORT = 10 * SECOND
"""Of a session that is shorter, as one of a single command is, the login alone is an event."""

log = logging.getLogger(__name__)


class Blocker(Protocol):
    """Blocks new SSH connections from a network. BypassError: that failed."""

    async def shut_out(self, name: str) -> None:
        """Block new connections from this network from now on; open sessions continue."""
        ...

    async def let_in(self, name: str) -> None:
        """Reply to it again."""
        ...


class Decisions(Protocol):
    """Who decided about logins where servers are asked, and wants to know of sessions."""

    def told(self, pid: int) -> tuple[str, bool] | None:
        """What let the user of this process in or refused the next of its passwords, and whether anybody looked at the
        password; None: nobody was asked."""
        ...

    def begun(self, session: Session) -> None:
        """A session that has begun."""
        ...

    def found(self, session: Session) -> None:
        """A session that an earlier bypassd saw begin."""
        ...


class Logins:
    """Follows the logs; lives as long as the part."""

    def __init__(self, ssh_log: Path, serial_log: Path, port: Blocker, events: Events) -> None:
        self._tails = ((Tail(ssh_log), parse), (Tail(serial_log), serial_login.parse))
        self._port, self._events = port, events
        self._since: dict[int, int] = {}  # login of each session, by process
        self.sessions, self._limiter, self.failures = Sessions(), Limiter(), 0
        self.decisions: Decisions | None = None

    def catch_up(self) -> None:
        """Read the existing logs, so that sessions are known; no events are recorded."""
        for event in self._new():
            self.sessions.note(event)
        if self.decisions is not None:
            for session in self.sessions.present():
                self.decisions.found(session)

    async def follow(self, now: int) -> None:
        """Read new lines, record their events, and block or unblock networks."""
        actions: list[Action] = self._limiter.tick(now)
        for event in self._new():
            actions += self._take(now, event)
        running = {session.pid for session in self.sessions.present()} if len(self._since) > MANY else set(self._since)
        self._since = {pid: since for pid, since in self._since.items() if pid in running}
        for user in self.sessions.left():
            self._events.record(Notice.LOGOUT, Subject(Kind.USER, user), f"logged out from {serial_login.LINE}")
        for action in actions:
            await self._act(action)

    def _new(self) -> Iterator[SshEvent]:
        for tail, read in self._tails:
            for line in tail.lines():
                if event := read(line):
                    yield event

    async def unblock(self, address: str) -> str:
        """Unblock an address early; returns the network. RefusedError: it is not blocked."""
        shut_out = self._limiter.blocked(time.monotonic_ns())
        asked = address if "/" in address else network_of(address)
        if asked not in shut_out:
            raise RefusedError(f"{address} is not blocked; blocked: {', '.join(shut_out) or 'none'}")
        self._limiter.forget(asked.partition("/")[0])
        await self._port.let_in(asked)
        return asked

    def shut_out(self) -> dict[str, int]:
        """Blocked networks and the seconds that remain for each."""
        return self._limiter.blocked(time.monotonic_ns())

    def _take(self, now: int, event: SshEvent) -> list[Action]:
        told = self.decisions.told(event.pid) if self.decisions and event.how == "password" else None
        if told is not None:
            event = replace(event, how=told[0])
        self.sessions.note(event)
        serial = event.address == serial_login.LINE
        who = Subject(Kind.USER, event.user) if event.user else Subject(Kind.CONSOLE if serial else Kind.SSH)
        if event.kind == "failed":
            self.failures += 1
            text = f"login from {event.address} failed: {event.how}"
            self._events.record(Notice.LOGIN_FAILED, who, text)
            if serial or (told is not None and not told[1]):  # a dead server is no guess
                return []
            return self._limiter.failed(now, event.address, event.user)
        if event.kind == "login":
            if not serial:
                self._limiter.succeeded(event.address, event.user)
            self._events.record(Notice.LOGIN, who, f"logged in from {event.address} by {event.how}")
            self._since[event.pid] = now
            if self.decisions and (session := self.sessions.of(event.pid)) is not None:
                self.decisions.begun(session)
        elif now - self._since.pop(event.pid, 0) >= SHORT:
            self._events.record(Notice.LOGOUT, who, f"logged out from {event.address}: {event.how}")
        return []

    async def _act(self, action: Action) -> None:
        try:
            if isinstance(action, Block):
                after = counted(action.failures, "failed login")
                text = f"{action.network} is blocked for {action.seconds} s after {after}; its open sessions go on"
                self._events.record(Notice.NETWORK_BLOCKED, Subject(Kind.SSH), text)
                await self._port.shut_out(action.network)
            else:
                await self._port.let_in(action.network)
        except BypassError as error:
            log.warning("%s", error)
