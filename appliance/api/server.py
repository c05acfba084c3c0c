# SPDX-License-Identifier: GPL-2.0-only
"""The only API: JSON-RPC 2.0 (rpc.py), one object a line, on a Unix socket.

`ControlServer` is the part of bypassd that serves the registry. It owns the socket file, from `start` to `stop`.
Clients are not trusted: their number is bounded, each is served by its own task (connection.py), and identified by the
socket's peer credentials (peer.py), never by what it says.
"""

from __future__ import annotations

import asyncio
import grp
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

from appliance.api.connection import MAX_REQUEST, Budget, Connection, subscribe
from appliance.api.peer import peer
from appliance.api.rpc import (
    BUSY,
    INVALID_PARAMS,
    Caller,
    Param,
    Params,
    Registry,
    RpcError,
    add_version,
    caller,
    encode,
    error,
)
from appliance.api.schema import methods
from appliance.api.schema.methods import Topic
from appliance.api.schema.state import Topics
from appliance.errors import UnreachableError
from appliance.part import PATIENCE_NS, Alive, wait_alive
from appliance.transition import IllegalMoveError

__all__ = ["Caller", "ControlServer", "Param", "Params", "Registry", "RpcError", "add_version", "caller"]

MAX_CLIENTS: Final = 32
ADMIN_CLIENTS: Final = 4  # of these are reserved for administrators
MAX_PER_USER: Final = 12  # for one user who is not an administrator
CANCEL_AGAIN_S: Final = 0.2
GROUP: Final = "bypass"  # members of this group may open the socket, as viewers

log = logging.getLogger(__name__)
T = TypeVar("T")


class ControlServer:
    """The part of bypassd that serves a registry on a Unix socket."""

    name = "control"
    patience = PATIENCE_NS

    def __init__(self, path: Path, registry: Registry) -> None:
        self._path, self._registry = path, registry
        self._topics = tuple(topic.name for topic in methods.TOPICS)
        self._server: asyncio.AbstractServer | None = None
        self._connections: dict[asyncio.Task[None], Connection | None] = {}
        self._budgets: dict[int, Budget] = {}  # by user
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
        subscribe(topics)
        return Topics(list(topics))

    def _budget(self, who: Caller) -> Budget:
        """The client's limits.

        All connections of a user share one, so that reconnecting gains nothing. Each connection of an administrator
        has its own, because a pasted configuration is many requests.
        """
        if who.role == "admin":
            return Budget.full()
        if who.uid not in self._budgets:
            if len(self._budgets) >= MAX_CLIENTS:
                self._budgets.pop(next(iter(self._budgets)))  # the oldest
            self._budgets[who.uid] = Budget.full()
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
            link = Connection(reader, writer, peer(writer.get_extra_info("socket")))
            if refusal := self._no_room(link.who):
                await link.send(error(None, BUSY, refusal, "try again later"))
                return
            self._connections[task] = link
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
