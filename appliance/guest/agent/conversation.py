# SPDX-License-Identifier: GPL-2.0-only
"""The conversation with a guest's agent: what it may request, what it gets, and what we ask of it.

Every request is answered, with "ok" or the reason for its refusal; the agent may number its requests (`id`). Requests
that take time (a filter becomes part of the policy) are handled one at a time: of several waiting filters only the
newest is tried, and at most one per second, so that a flood delays only the guest's own answers. Requests that change
the guest's state (drain, bypass) are carried out at once, but also at most once per second. The object lives as long
as one run of its guest; what the agent registered holds until it is withdrawn, or until the guest starts over.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol, TypeVar

from appliance.errors import BypassError, RefusedError, UnreachableError
from appliance.guest.agent.channel import Accept, Bypass, Drain, Heartbeat, Hello, Message, Result, Shunt, Tags
from appliance.guest.agent.traffic_names import filter_of

log = logging.getLogger(__name__)
M = TypeVar("M", Accept | Tags, Drain | Bypass)

VERSION = 1
ACCEPT_INTERVAL_S = 1.0
"""Pause between two attempts at a filter, because each recompiles the whole policy."""
STATE_INTERVAL_S = 1.0
"""Pause between two requests that change the guest's state, because each adds an entry to the ledger."""
CHECKS = 16
"""How many checks may wait for the agent's answer at the same time."""


class Host(Protocol):
    """What the agent may request. A refusal is a BypassError, whose text is sent to the agent."""

    def send(self, message: dict[str, object]) -> None:
        """Send to the agent; UnreachableError if it does not read."""

    def greeting(self) -> dict[str, object]:
        """What an agent must know: name, the administrator's filter, heartbeat interval, use of tags."""

    def heartbeat(self, status: str, counters: Mapping[str, int]) -> None:
        """The agent reports the state of the application."""

    def ask_bypass(self, on: bool, why: str) -> None:
        """Send the guest no frames at all, or send them again."""

    def ask_drain(self, on: bool) -> None:
        """Send the guest no new flows, or send them again."""

    def shunt(self, message: Shunt) -> None:
        """The frames of a flow skip the guest, or go to it again."""

    async def narrow(self, text: str) -> None:
        """Send it only frames that match `text`; "" = all that the administrator allows."""

    async def use_tags(self, on: bool) -> dict[str, int]:
        """Let tags decide the next hop, or not. Returns the VLAN ids of the hops."""


class Agent:
    """One guest's agent: what it has said, and what waits for it."""

    def __init__(self, name: str, host: Host) -> None:
        self._name, self._host = name, host
        self.hello = Hello()
        self.accept = ""
        self.accept_refused = ""
        self.accept_names: tuple[str, ...] = ()
        self.tags = False
        self.unanswered = 0  # answers that the agent did not read
        self._numbers = itertools.count(1)
        self._checks: dict[int, asyncio.Future[str]] = {}
        self._waiting: dict[str, Accept | Tags] = {}  # by kind of request
        self._worker: asyncio.Task[None] | None = None
        self._next_states: dict[str, Drain | Bypass] = {}  # by kind of request
        self._pause: asyncio.Task[None] | None = None  # after a change of state

    def greet(self) -> None:
        """Announce the host, which knows nothing about the agent; the agent then introduces itself."""
        self._send({"type": "hello", "version": VERSION})

    def _send(self, message: dict[str, object]) -> None:
        try:
            self._host.send(message)
        except UnreachableError:
            self.unanswered += 1

    def on_message(self, message: Message) -> None:
        """Act on one well-formed message."""
        match message:
            case Hello():
                self.hello = message
                version = min(VERSION, message.version)
                self._answer("hello", message.id, more={"version": version, **self._host.greeting()})
            case Heartbeat():
                self._host.heartbeat(message.status, message.counters)
            case Result():
                waiting = self._checks.pop(message.id, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message.status)
            case Drain() | Bypass():
                self._change_state(message)
            case Shunt():
                self._shunt(message)
            case Accept() | Tags():
                self._later(message)

    def _shunt(self, message: Shunt) -> None:
        """At once: it changes a table, and no policy."""
        try:
            self._host.shunt(message)
        except BypassError as error:
            self._answer("shunt", message.id, why=str(error))
        else:
            self._answer("shunt", message.id)

    def _change_state(self, message: Drain | Bypass) -> None:
        """Carry it out, or keep it until the pause after the previous one is over."""
        if self._pause is not None and not self._pause.done():
            self._put(self._next_states, "drain" if isinstance(message, Drain) else "bypass", message)
            return
        self._carry_out(message)
        self._pause = asyncio.get_running_loop().create_task(self._after_pause(), name=f"agent {self._name} state")

    async def _after_pause(self) -> None:
        await asyncio.sleep(STATE_INTERVAL_S)
        while self._next_states:
            self._carry_out(self._next_states.pop(next(iter(self._next_states))))
            await asyncio.sleep(STATE_INTERVAL_S)

    def _carry_out(self, message: Drain | Bypass) -> None:
        what = "drain" if isinstance(message, Drain) else "bypass"
        try:
            if isinstance(message, Drain):
                self._host.ask_drain(message.on)
            else:
                self._host.ask_bypass(message.on, message.why)
        except BypassError as error:
            self._answer(what, message.id, why=str(error))
        else:
            self._answer(what, message.id)

    def _put(self, waiting: dict[str, M], what: str, message: M) -> None:
        """Keep a request for later; an older one of the same kind is refused, because this one replaces it."""
        older = waiting.pop(what, None)
        if older is not None:
            self._answer(what, older.id, why="a newer request of this kind has replaced it")
        waiting[what] = message

    def _answer(
        self, to: str, number: int | None, why: str = "", more: Mapping[str, object] = MappingProxyType({})
    ) -> None:
        message: dict[str, object] = {"type": "answer", "to": to, "ok": not why, **more}
        if why:
            message["why"] = why
        if number is not None:
            message["id"] = number
        self._send(message)

    # What takes time

    def _later(self, message: Accept | Tags) -> None:
        self._put(self._waiting, "accept" if isinstance(message, Accept) else "tags", message)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work(), name=f"agent {self._name}")

    async def _work(self) -> None:
        while self._waiting:
            message = self._waiting.pop(next(iter(self._waiting)))
            if isinstance(message, Accept):
                await self._register(message)
            else:
                await self._use_tags(message)
            await asyncio.sleep(ACCEPT_INTERVAL_S)

    async def _register(self, message: Accept) -> None:
        text = (message.filter or "").strip()
        try:
            if message.names and text:
                raise RefusedError("either a filter or names")
            text = text or filter_of(message.names)
            await self._host.narrow(text)
        except BypassError as error:
            self.accept_refused = str(error)
            log.warning("guest %s: its agent's filter is refused: %s", self._name, error)
            self._answer("accept", message.id, why=str(error))
            return
        self.accept, self.accept_refused, self.accept_names = text, "", message.names
        what = f"accepts {', '.join(message.names)}: {text}" if message.names else f"accepts: {text}"
        log.info("guest %s: its agent %s", self._name, what if text else "withdrew its filter")
        self._answer("accept", message.id)

    async def _use_tags(self, message: Tags) -> None:
        try:
            hops = await self._host.use_tags(message.on)
        except BypassError as error:
            self._answer("tags", message.id, why=str(error))
            return
        self.tags = message.on
        self._answer("tags", message.id, more={"hops": hops})

    # What we ask

    async def ask(self, word: str) -> str:
        """Have the agent run the check `word`; returns its status. UnreachableError: there is no agent. Waits for the
        answer without a time limit, so the caller must set one."""
        if len(self._checks) >= CHECKS:
            raise RefusedError(f"guest {self._name}: {CHECKS} checks already wait for its agent")
        number = next(self._numbers)
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._checks[number] = future
        try:
            self._host.send({"type": "check", "id": number, "command": word})
            return await future
        finally:
            self._checks.pop(number, None)

    def close(self) -> None:
        """The run has ended, or bypassd is ending."""
        for task in (self._worker, self._pause):
            if task is not None:
                task.cancel()
        self._waiting.clear()
        self._next_states.clear()
