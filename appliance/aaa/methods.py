# SPDX-License-Identifier: GPL-2.0-only
"""Decides about a login: methods in order, servers in order, dead ones left out for a while, all within one time limit.

The rule of fallback: who refuses, ends it. The next is asked where nobody answered, or where `local` does not know the
user. A server that did not answer is skipped for `retry_after`, unless nobody else could decide about this user.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from appliance.aaa.roles import named, role_of
from appliance.aaa.tacacs import Where
from appliance.aaa.verdict import Answer, NoAnswer, Rejected, Step, Verdict
from appliance.config.schema.model import Aaa, Config, Radius, Tacacs

AT_ONCE: Final = 8  # logins that servers are asked about; others wait
UNKNOWN: Final = "no such user"
NOT_ASKED, ANSWERS = "not asked yet", "answers"
_GOOD: Final = (NOT_ASKED, ANSWERS)

Ask = Callable[[Radius | Tacacs, Aaa, str, str, Where], Awaitable[Answer]]


@dataclass
class Server:
    """What is known of one server."""

    method: str
    wish: Radius | Tacacs
    state: str = NOT_ASKED
    since: float = 0.0  # of the last answer or failure, CLOCK_MONOTONIC
    skip_until: float = 0.0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    reports: int = 0
    unreported: int = 0
    seconds: float = 0.0  # of the last answer

    @property
    def label(self) -> str:
        """Its name for events."""
        return f"{self.method} server {self.wish.name}"


class _Attempt(NamedTuple):
    """A login to decide about; `end` is when the time for it is over."""

    user: str
    password: str
    where: Where
    end: float


class Methods:
    """All servers of a configuration, and the decision. `changed` is called when one begins or ends to answer."""

    def __init__(self, ask: Ask, changed: Callable[[Server, str], None], now: Callable[[], float]) -> None:
        self._ask, self._changed, self._now = ask, changed, now
        self._gate = asyncio.Semaphore(AT_ONCE)
        self.aaa = Aaa()
        self.servers: list[Server] = []

    def apply(self, config: Config) -> None:
        """Use this configuration. A server that is as before keeps its state."""
        known = {(server.method, server.wish): server for server in self.servers}
        wanted: list[Server] = []
        for method, listed in (("radius", config.radius), ("tacacs", config.tacacs)):
            for wish in listed:
                wanted.append(known.get((method, wish)) or Server(method, wish))
        self.aaa, self.servers = config.aaa, wanted

    @property
    def remote(self) -> tuple[str, ...]:
        """The methods that ask servers, in order."""
        return tuple(method for method in self.aaa.order if method != "local")

    async def decide(self, user: str, password: str, where: Where, *, local: bool) -> Verdict:
        """Decide. `local`: the configuration has this user."""
        order, steps = list(self.aaa.order), list[Step]()
        attempt = _Attempt(user, password, where, self._now() + self.aaa.timeout / 1e9)
        while order:
            method = order.pop(0)
            if method == "local":
                if local:
                    return Verdict("local", f"password ({_fallen(steps)})" if steps else "password", steps=tuple(steps))
                continue
            found = await self._method(method, attempt, steps, spare=local and "local" in order)
            if found is not None:
                return found
        if steps:
            return Verdict("refuse", f"no server decided: {_fallen(steps)}", judged=False, steps=tuple(steps))
        return Verdict("refuse", UNKNOWN)

    async def _method(self, method: str, attempt: _Attempt, steps: list[Step], *, spare: bool) -> Verdict | None:
        servers = [server for server in self.servers if server.method == method]
        resting = [server for server in servers if server.skip_until > self._now()]
        for server in resting if spare else ():
            steps.append(Step(server.label, f"not asked: {server.state}", 0.0))
        asked = [server for server in servers if server not in resting]
        for server in asked if spare else (*asked, *resting):
            left = attempt.end - self._now()
            if left <= 0:
                steps.append(Step(server.label, "not asked: no time left", 0.0))
                continue
            began = self._now()
            answer = await self._one(server, attempt, left)
            seconds = self._now() - began
            verdict = self._take(server, answer, seconds)
            steps.append(Step(server.label, verdict.why if verdict else _why(answer), round(seconds, 3)))
            if verdict is not None:
                return verdict._replace(steps=tuple(steps))
        return None

    async def _one(self, server: Server, attempt: _Attempt, left: float) -> Answer:
        try:
            async with asyncio.timeout(left):
                async with self._gate:
                    return await self._ask(server.wish, self.aaa, attempt.user, attempt.password, attempt.where)
        except TimeoutError:
            return NoAnswer(f"no answer within {self.aaa.timeout} for all servers")

    def _take(self, server: Server, answer: Answer, seconds: float) -> Verdict | None:
        """Note what the server did; the verdict, None if it decided nothing."""
        now = self._now()
        if isinstance(answer, NoAnswer):
            server.failed += 1
            server.skip_until = now + self.aaa.retry_after / 1e9
            self._state(server, answer.why, now)
            return None
        server.skip_until, server.seconds = 0.0, seconds
        self._state(server, ANSWERS, now)
        if isinstance(answer, Rejected):
            server.refused += 1
            return Verdict("refuse", f"{server.label}: {answer.why}", server=server.label)
        role = role_of(answer, self.aaa)
        if not role:
            server.refused += 1
            why = f"{server.label} gives no role that is known here: it sent {named(answer)}"
            return Verdict("refuse", why, server=server.label)
        server.accepted += 1
        return Verdict("accept", f"password, {server.label}, role {role}", role, server.label)

    def _state(self, server: Server, state: str, now: float) -> None:
        before, server.since = server.state, now
        server.state = state
        if (before in _GOOD) != (state in _GOOD):
            self._changed(server, state)


def _why(answer: Answer) -> str:
    return answer.why if isinstance(answer, Rejected | NoAnswer) else "accepted"


def _fallen(steps: list[Step]) -> str:
    return "; ".join(f"{step.server}: {step.result}" for step in steps)[:300]
