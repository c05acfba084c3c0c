# SPDX-License-Identifier: GPL-2.0-only
"""The session with snmpd: it opens it, answers, and hands over notifications.

Nothing waits for snmpd longer than its limit; what it does not read is dropped with the connection. A request that it
passes on is one of a user that it has let in, so it is not hostile, but may be one of very many: they are answered at a
limited pace, and snmpd times out what is beyond.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from appliance.quota import TokenBucket
from appliance.snmp import agentx, mib
from appliance.snmp.agentx import AgentXError, Kind, Message, Row
from appliance.snmp.tree import Tree

ANSWER_S: Final = 3.0
PING_S: Final = 15.0
RATE, BURST = 500, 1000
"""Requests a second that are answered, and at once."""
UNREAD_BYTES: Final = 256 << 10
"""More than this waits for snmpd only if it hangs."""
PRIORITY: Final = 20
_TIMEOUT_S: Final = 5  # snmpd gives an answer up then


class Session:
    """One connection, from its opening to its end."""

    def __init__(self, look: Callable[[], Awaitable[Tree]]) -> None:
        """`look` returns what is offered now."""
        self._look = look
        self._writer: asyncio.StreamWriter | None = None
        self._number = self._packet = 0
        self._introduced = False
        self._waiting: dict[int, asyncio.Future[agentx.Response]] = {}
        self.began = 0
        """When snmpd started, on CLOCK_MONOTONIC in ns; 0: not known yet."""
        self.requests = 0

    @property
    def open(self) -> bool:
        """Whether snmpd takes what we offer."""
        return self._introduced

    async def run(self, socket: Path, opened: Callable[[], None]) -> None:
        """Hold a session until it ends, which it does by an error only: OSError, AgentXError."""
        reader, writer = await asyncio.open_unix_connection(socket)
        self._writer = writer
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._read(reader), name="snmp requests")
                await self._introduce()
                self._introduced = True
                opened()
                while True:
                    await asyncio.sleep(PING_S)
                    await self._ask(Kind.PING, b"")
        except ExceptionGroup as group:
            raise next(iter(group.exceptions)) from group
        finally:
            self._number, self._writer, self._introduced = 0, None, False
            for future in self._waiting.values():
                future.cancel()
            self._waiting.clear()
            writer.close()

    async def _introduce(self) -> None:
        answer = await self._ask(Kind.OPEN, agentx.open_session("Throughwire", _TIMEOUT_S))
        if answer.error:
            raise AgentXError(f"snmpd refuses the session: error {answer.error}")
        self.began = time.monotonic_ns() - answer.uptime * 10_000_000
        for subtree in mib.SUBTREES:
            answer = await self._ask(Kind.REGISTER, agentx.register(subtree, PRIORITY))
            if answer.error:
                raise AgentXError(f"snmpd refuses {'.'.join(map(str, subtree))}: error {answer.error}")

    def notify(self, rows: tuple[Row, ...]) -> bool:
        """Hand a notification over; returns whether it could be. snmpd sends it to the receivers."""
        if not self.open:
            return False
        self._packet += 1
        self._write(agentx.message(Kind.NOTIFY, agentx.rows(rows), session=self._number, packet=self._packet))
        return True

    async def _ask(self, kind: Kind, payload: bytes) -> agentx.Response:
        self._packet += 1
        future: asyncio.Future[agentx.Response] = asyncio.get_running_loop().create_future()
        self._waiting[self._packet] = future
        self._write(agentx.message(kind, payload, session=self._number, packet=self._packet))
        try:
            async with asyncio.timeout(ANSWER_S):
                return await future
        except TimeoutError as error:
            self._waiting.pop(self._packet, None)
            raise AgentXError(f"snmpd does not answer within {ANSWER_S:g} s") from error

    def _write(self, data: bytes) -> None:
        assert self._writer is not None
        if self._writer.transport.get_write_buffer_size() > UNREAD_BYTES:
            self._writer.transport.abort()
            return
        self._writer.write(data)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        pace = TokenBucket(RATE, BURST, time.monotonic())
        while True:
            try:
                got, length = agentx.header(await reader.readexactly(agentx.HEADER_BYTES))
                got = got._replace(payload=await reader.readexactly(length))
            except asyncio.IncompleteReadError as error:
                raise AgentXError("snmpd has ended the session") from error
            if got.kind == Kind.RESPONSE:
                if not self._number:
                    self._number = got.session
                future = self._waiting.pop(got.packet, None)
                if future is not None and not future.done():
                    future.set_result(agentx.answered(got))
                continue
            if got.kind == Kind.CLOSE:
                raise AgentXError("snmpd closes the session")
            self.requests += 1
            reply = await self._reply(got)
            if reply:
                self._write(reply)
            if wait := pace.take(time.monotonic()):
                await asyncio.sleep(wait)

    async def _reply(self, asked: Message) -> bytes:
        """The answer to a request of snmpd; empty: there is none."""
        if asked.kind == Kind.CLEANUP_SET:
            return b""
        if asked.other_context:
            return agentx.response(asked, error=agentx.UNSUPPORTED_CONTEXT)
        if asked.kind in (Kind.TEST_SET, Kind.COMMIT_SET, Kind.UNDO_SET):
            return agentx.response(asked, error=agentx.NOT_WRITABLE, index=1)
        if asked.kind not in (Kind.GET, Kind.GET_NEXT, Kind.GET_BULK):
            return agentx.response(asked, error=agentx.PARSE_ERROR)
        tree = await self._look()
        if asked.kind == Kind.GET_BULK:
            return agentx.response(asked, tree.bulk(*agentx.bulk(asked)))
        answer = tree.get if asked.kind == Kind.GET else tree.next
        return agentx.response(asked, map(answer, agentx.ranges(asked)))
