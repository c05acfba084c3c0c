# SPDX-License-Identifier: GPL-2.0-only
"""The only API: JSON-RPC 2.0 (rpc.py), one object a line, on a Unix socket.

`ControlServer` is the part of bypassd that serves the registry. It owns the socket file, from `start` to `stop`.
Clients are not trusted: requests, clients and unsent bytes are bounded, each client is served by its own task, and one
that does not read is disconnected. A client is identified by the socket's peer credentials, never by its own claims.
"""

from __future__ import annotations

import asyncio
import contextvars
import grp
import logging
import os
import pwd
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from appliance.api.rpc import (
    BUSY,
    INVALID_PARAMS,
    INVALID_REQUEST,
    PARSE_ERROR,
    Caller,
    Param,
    Params,
    Registry,
    RpcError,
    add_version,
    answer,
    caller,
    encode,
    error,
)
from appliance.api.schema import methods
from appliance.api.schema.methods import Topic
from appliance.api.schema.state import Topics
from appliance.errors import UnreachableError
from appliance.part import PATIENCE_NS, Alive, wait_alive
from appliance.quota import TokenBucket
from appliance.transition import IllegalMoveError

__all__ = ["Caller", "ControlServer", "Param", "Params", "Registry", "RpcError", "add_version", "caller"]

MAX_REQUEST: Final = 2 << 20  # bytes of one request line: the largest configuration, as a JSON string
MAX_CLIENTS: Final = 32
ADMIN_CLIENTS: Final = 4  # of these are reserved for administrators
MAX_PER_USER: Final = 12  # for one user who is not an administrator
MAX_UNSENT: Final = 1 << 18  # bytes of events a subscriber may leave unread before it is disconnected
MAX_BATCH: Final = 100  # requests in one JSON-RPC batch
RATE: Final = 100.0  # requests per second and client, on average; each request of a batch counts
BURST: Final = 200.0
MAX_ANSWERS: Final = 8 << 20  # bytes of the answers to one batch
RATE_BYTES: Final = 4 << 20  # bytes of answers per second and client, on average
BURST_BYTES: Final = 16 << 20
IDLE: Final = 60.0  # seconds after which a silent client without a subscription is disconnected
SEND_TIMEOUT: Final = 10.0  # seconds a client may take to read an answer
GROUP: Final = "bypass"  # members of this group may open the socket, as viewers
ROLE_GROUPS: Final = {"admin": "bypass-admin", "operator": "bypass-operator"}
_SO_PEERGROUPS: Final = 59
_MAX_GROUPS: Final = 256  # Python's getsockopt returns at most 1024 bytes

log = logging.getLogger(__name__)
T = TypeVar("T")
_connection: contextvars.ContextVar[_Connection] = contextvars.ContextVar("connection")


Stream = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def take_over(stream: Stream, *, unread: bool = False) -> None:
    """Inside a handler: after its answer, `stream` owns the connection until it returns.

    `unread`: what the client sends from now on stays in the socket, for another process to read.
    """
    link = _connection.get()
    link.stream = stream
    if unread:
        link.writer.transport.pause_reading()  # type: ignore[attr-defined]


def at_end(ended: Callable[[], None]) -> None:
    """Inside a handler: call `ended` once, when the client's connection has ended."""
    _connection.get().ended.append(ended)


def role_of(uid: int, groups: Iterable[int], known: Callable[[str], int | None]) -> str:
    """The role of a peer: admin for root and for the user that bypassd runs as, otherwise by group membership.

    Everybody else who may open the socket is a viewer. `known` maps a group's name to its number.
    """
    if uid in (0, os.geteuid()):
        return "admin"
    numbers = set(groups)
    return next((role for role, name in ROLE_GROUPS.items() if known(name) in numbers), "viewer")


def _group(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def peer(link: socket.socket) -> Caller:
    """The process at the other end, as the kernel recorded it when the connection was made."""
    pid, uid, gid = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Caller(uid, pid, role_of(uid, (gid, *peer_groups(link)), _group), _user(uid))


def peer_groups(link: socket.socket) -> tuple[int, ...]:
    """The supplementary groups of the process at the other end; none if there are more than _MAX_GROUPS."""
    try:
        data = link.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:
        return ()
    return struct.unpack(f"{len(data) // 4}I", data[: len(data) // 4 * 4])


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


class _Budget(NamedTuple):
    """A client's limits: requests, and bytes of answers, which stand for the time that they take."""

    requests: TokenBucket
    octets: TokenBucket

    @classmethod
    def full(cls) -> _Budget:
        now = time.monotonic()
        return cls(TokenBucket(RATE, BURST, now), TokenBucket(RATE_BYTES, BURST_BYTES, now))


@dataclass(eq=False)
class _Connection:
    """One client, while it is connected."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    who: Caller
    topics: set[str] = field(default_factory=set)
    stream: Stream | None = None
    handed: list[int] = field(default_factory=list)  # descriptors to send with the next answer
    ended: list[Callable[[], None]] = field(default_factory=list)

    async def serve(self, registry: Registry, budget: _Budget) -> None:
        """Answer one request after another until the client leaves, misbehaves or stays silent for too long."""
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
                response = await answer(registry, item, self.who)
            else:
                response = _too_long(item)
            if response is not None:
                responses.append(response)
                size += _size(response)
            await asyncio.sleep(0)  # between long answers, leases and check-ins may be due
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
        """Release what was lent to this client."""
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


def lend(fd: int, ended: Callable[[], None]) -> None:
    """Inside a handler: pass a descriptor to the client with the answer and close ours.

    `ended` is called once, when the client's connection has ended.
    """
    link = _connection.get()
    link.handed.append(fd)
    link.ended.append(ended)


CANCEL_AGAIN_S = 0.2


class ControlServer:
    """The part of bypassd that serves a registry on a Unix socket."""

    name = "control"
    patience = PATIENCE_NS

    def __init__(self, path: Path, registry: Registry) -> None:
        self._path, self._registry = path, registry
        self._topics = tuple(topic.name for topic in methods.TOPICS)
        self._server: asyncio.AbstractServer | None = None
        self._connections: dict[asyncio.Task[None], _Connection | None] = {}
        self._budgets: dict[int, _Budget] = {}  # by user
        self._bug: IllegalMoveError | None = None  # raised by a request
        self._met_bug = asyncio.Event()
        wanted = Param("array", "which topics; all if omitted", required=False)
        doc = f"send events as notifications; topics: {', '.join(self._topics)}"
        registry.add(methods.EVENTS_SUBSCRIBE, self._subscribe, doc=doc, params={"topics": wanted})

    @property
    def clients(self) -> int:
        """The number of connected clients."""
        return len(self._connections)

    async def start(self) -> None:
        """Listen. A socket that a killed bypassd left behind is replaced."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                old = os.umask(0o177)
                try:
                    listener.bind(str(self._path))
                finally:
                    os.umask(old)
                self.open_to_group()
                self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=MAX_REQUEST)
            except BaseException:
                listener.close()
                raise
        except OSError as error:
            raise UnreachableError(f"control socket {self._path}: {error.strerror or error}") from error

    def open_to_group(self) -> None:
        """Let the group's members connect. Called again when the group was created after the socket."""
        try:
            os.chown(self._path, -1, grp.getgrnam(GROUP).gr_gid)
        except (KeyError, PermissionError, FileNotFoundError):
            return  # no such group or socket (yet): only the owner may connect
        os.chmod(self._path, 0o660)

    async def run(self, alive: Alive) -> None:
        """Serve until cancelled. IllegalMoveError: a request raised it, and bypassd must end."""
        await wait_alive(self._met_bug, alive, self.patience / 4e9)
        assert self._bug is not None
        raise self._bug

    async def stop(self) -> None:
        """Disconnect everybody and remove the socket."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        left = set(self._connections)
        while left:
            # Repeated, because asyncio.wait_for (3.11) can lose a cancellation that coincides with the end of its wait.
            for task in left:
                task.cancel()
            ended, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)
            await asyncio.gather(*ended, return_exceptions=True)
        self._path.unlink(missing_ok=True)

    def publish(self, topic: Topic[T], data: T) -> None:
        """Send an event to the clients that subscribed to its topic. Never waits, never raises."""
        listening = [link for link in self._connections.values() if link is not None and topic.name in link.topics]
        if not listening:
            return
        try:
            line = encode({"jsonrpc": "2.0", "method": "event", "params": {"topic": topic.name, "data": data}})
        except Exception:
            log.exception("event %s cannot be encoded", topic.name)
            return
        for link in listening:
            link.push(line)

    async def _subscribe(self, params: Params) -> Topics:
        topics: Sequence[str] = params.get("topics") or self._topics
        for topic in topics:
            if topic not in self._topics:
                raise RpcError(INVALID_PARAMS, f'no topic "{topic[:60]}"; there are: {", ".join(self._topics)}')
        _connection.get().topics.update(topics)
        return Topics(list(topics))

    def _budget(self, who: Caller) -> _Budget:
        """The client's limits.

        All connections of a user share one, so that reconnecting gains nothing. Each connection of an administrator
        has its own, because a pasted configuration is many requests.
        """
        if who.role == "admin":
            return _Budget.full()
        if who.uid not in self._budgets:
            if len(self._budgets) >= MAX_CLIENTS:
                self._budgets.pop(next(iter(self._budgets)))  # the oldest
            self._budgets[who.uid] = _Budget.full()
        return self._budgets[who.uid]

    def _no_room(self, who: Caller) -> str:
        """Why this client is refused: too many clients, or too many of this user; "" if it is not.

        The last ADMIN_CLIENTS connections are reserved for administrators.
        """
        others = [link for link in self._connections.values() if link is not None]
        most = MAX_CLIENTS if who.role == "admin" else MAX_CLIENTS - ADMIN_CLIENTS
        if len(others) >= most:
            return f"{len(others)} clients are already connected"
        if who.role != "admin" and sum(link.who.uid == who.uid for link in others) >= MAX_PER_USER:
            return f"{MAX_PER_USER} clients of {who.user} are already connected"
        return ""

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client's task."""
        task = asyncio.current_task()
        assert task is not None
        self._connections[task] = None
        try:
            link = _Connection(reader, writer, peer(writer.get_extra_info("socket")))
            if refusal := self._no_room(link.who):
                await link.send(error(None, BUSY, refusal, "try again later"))
                return
            self._connections[task] = link
            _connection.set(link)
            await link.serve(self._registry, self._budget(link.who))
        except IllegalMoveError as bug:
            self._bug = bug
            self._met_bug.set()
        except (OSError, asyncio.CancelledError):
            writer.transport.abort()  # the client has left, does not read, or we are stopping
        finally:
            if known := self._connections.pop(task):
                known.end()
            writer.close()
