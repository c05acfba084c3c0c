# SPDX-License-Identifier: GPL-2.0-only
"""One client of the control socket: serves its requests one after another, within its limits.

Requests, answers and unsent bytes are bounded, and a client that does not read is disconnected. A handler may pass a
descriptor to its client (`lend`), or the connection itself to a stream (`take_over`).
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import msgspec

from appliance.api.rpc import BUSY, INVALID_REQUEST, PARSE_ERROR, Caller, Registry, answer, encode, error
from appliance.quota import TokenBucket

MAX_REQUEST: Final = 2 << 20  # bytes of one request line: the largest configuration, as a JSON string
MAX_UNSENT: Final = 1 << 18  # bytes of events a subscriber may leave unread before it is disconnected
MAX_BATCH: Final = 100  # requests in one JSON-RPC batch
RATE: Final = 100.0  # requests per second and client, on average; each request of a batch counts
BURST: Final = 200.0
MAX_ANSWERS: Final = 8 << 20  # bytes of the answers to one batch
RATE_BYTES: Final = 4 << 20  # bytes of answers per second and client, on average
BURST_BYTES: Final = 16 << 20
IDLE: Final = 60.0  # seconds after which a silent client without a subscription is disconnected
SEND_TIMEOUT: Final = 10.0  # seconds a client may take to read an answer

log = logging.getLogger(__name__)
_current: contextvars.ContextVar[Connection] = contextvars.ContextVar("connection")


Stream = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def take_over(stream: Stream, *, unread: bool = False) -> None:
    """Inside a handler: after its answer, `stream` owns the connection until it returns.

    `unread`: what the client sends from now on stays in the socket, for another process to read.
    """
    link = _current.get()
    link.stream = stream
    if unread:
        link.writer.transport.pause_reading()  # type: ignore[attr-defined]


def at_end(ended: Callable[[], None]) -> None:
    """Inside a handler: call `ended` once, when the client's connection has ended."""
    _current.get().ended.append(ended)


def lend(fd: int, ended: Callable[[], None]) -> None:
    """Inside a handler: pass a descriptor to the client with the answer and close ours.

    `ended` is called once, when the client's connection has ended.
    """
    link = _current.get()
    link.handed.append(fd)
    link.ended.append(ended)


def subscribe(topics: Iterable[str]) -> None:
    """Inside a handler: send the client the events of these topics."""
    _current.get().topics.update(topics)


def _size(response: dict[str, object]) -> int:
    """The approximate length of an answer, to a few bytes."""
    result = response.get("result")
    return memoryview(result).nbytes if isinstance(result, msgspec.Raw) else 0


def _too_long(request: object) -> dict[str, object] | None:
    """The answer to the rest of a batch whose answers are already too long."""
    if not isinstance(request, dict) or "id" not in request:
        return None
    text = f"the answers to this batch already exceed {MAX_ANSWERS >> 20} MiB"
    return error(request["id"], BUSY, text, "send smaller batches")


def _decode(line: bytes) -> tuple[object, object | None]:
    """The request in a line, or the error response to it."""
    try:
        request = msgspec.json.decode(line)
    except (ValueError, RecursionError) as problem:
        return None, error(None, PARSE_ERROR, f"not JSON: {problem}")
    if isinstance(request, list) and not 0 < len(request) <= MAX_BATCH:
        return None, error(None, INVALID_REQUEST, f"a batch has 1 to {MAX_BATCH} requests")
    return request, None


class Budget(NamedTuple):
    """A client's limits: requests, and bytes of answers, which stand for the time that they take."""

    requests: TokenBucket
    octets: TokenBucket

    @classmethod
    def full(cls) -> Budget:
        """The budget of a client that has not made requests lately."""
        now = time.monotonic()
        return cls(TokenBucket(RATE, BURST, now), TokenBucket(RATE_BYTES, BURST_BYTES, now))


@dataclass(eq=False)
class Connection:
    """One client, while it is connected."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    who: Caller
    topics: set[str] = field(default_factory=set)
    stream: Stream | None = None
    handed: list[int] = field(default_factory=list)  # descriptors to send with the next answer
    ended: list[Callable[[], None]] = field(default_factory=list)

    async def serve(self, registry: Registry, budget: Budget) -> None:
        """Answer one request after another until the client leaves, misbehaves or stays silent for too long.

        Runs in the client's own task, so that the functions for handlers (`lend` etc.) act on this connection.
        """
        _current.set(self)
        while True:
            try:
                line = await asyncio.wait_for(self.reader.readuntil(b"\n"), None if self.topics or self.ended else IDLE)
            except asyncio.LimitOverrunError:
                await self.send(error(None, INVALID_REQUEST, f"a request has at most {MAX_REQUEST} bytes"))
                return
            except (asyncio.IncompleteReadError, TimeoutError):
                return
            request, response = _decode(line)
            if wait := budget.requests.take(time.monotonic(), len(request) if isinstance(request, list) else 1):
                await asyncio.sleep(wait)
            if response is None:
                response = await self._answer(request, registry)
            if response is not None:
                sent = await self.send(response)
                if wait := budget.octets.take(time.monotonic(), sent):
                    await asyncio.sleep(wait)
            if self.stream is not None:
                await self.stream(self.reader, self.writer)
                return

    async def _answer(self, request: object, registry: Registry) -> object | None:
        if not isinstance(request, list):
            return await answer(registry, request, self.who)
        responses, size = [], 0
        for item in request:
            if size <= MAX_ANSWERS:
                response = await answer(registry, item, self.who, late=False)  # or the waits would add up
            else:
                response = _too_long(item)
            if response is not None:
                responses.append(response)
                size += _size(response)
            await asyncio.sleep(0)  # leases and check-ins may be due between long answers
        return responses or None

    async def send(self, message: object) -> int:
        """Send an answer and wait until the client has read enough of it; returns the answer's length.

        ConnectionError if it does not read.
        """
        data = encode(message)
        size = len(data)
        if self.handed:
            data = data[self._hand_over(data) :]
        self.writer.write(data)
        try:
            await asyncio.wait_for(self.writer.drain(), SEND_TIMEOUT)
        except TimeoutError:
            raise ConnectionAbortedError("the client does not read") from None
        return size

    def _hand_over(self, data: bytes) -> int:
        """Send the descriptors with the beginning of their answer; returns the number of bytes sent."""
        handed, self.handed = self.handed, []
        try:
            if self.writer.transport.get_write_buffer_size():
                raise ConnectionAbortedError("the client does not read")
            with self.writer.get_extra_info("socket").dup() as link:
                return socket.send_fds(link, [data], handed)
        except BlockingIOError as error:
            raise ConnectionAbortedError("the client does not read") from error
        finally:
            for fd in handed:
                os.close(fd)

    def end(self) -> None:
        """Release what was lent to this client, and call what `at_end` registered."""
        for fd in self.handed:
            os.close(fd)
        for ended in self.ended:
            ended()

    def push(self, data: bytes) -> None:
        """Send an event without waiting. A client that has too much unread is disconnected."""
        if self.writer.transport.get_write_buffer_size() + len(data) > MAX_UNSENT:
            log.warning("client pid %d does not read its events: disconnected", self.who.pid)
            self.topics.clear()
            self.writer.transport.abort()
        else:
            self.writer.write(data)
