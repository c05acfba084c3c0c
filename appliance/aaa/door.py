# SPDX-License-Identifier: GPL-2.0-only
"""Where the SSH server and the console ask about logins: a socket of packets that root alone may open.

The parts of a question are separated by zeros: `name USER` (which number does this user get?) is answered by
`uid NUMBER HOME` or `none`; `check USER ADDRESS NUMBER PASSWORD` by `accept GROUP NUMBER ROLE HOME`, `refuse` or
`local` (the hash in the configuration decides). The C side is appliance/login-hook/login_hook.c, the console's
`remote_login.py`. Whoever asks is a process of its own, so an answer may take as long as the servers do.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Awaitable
from pathlib import Path
from typing import Final, Protocol

from appliance.errors import UnreachableError

MAX_QUESTION: Final = 2048
MAX_GUESTS: Final = 64  # connections; the SSH server has 30 at most before their login
IDLE_S: Final = 330.0  # the SSH server gives a login 300 s

log = logging.getLogger(__name__)


class Desk(Protocol):
    """Who answers. `held`: numbers given to this connection."""

    async def number(self, user: str, held: set[int]) -> tuple[int, str] | None:
        """Number and home of a user that only a server can know; None: this name cannot log in."""
        ...

    async def check(self, user: str, address: str, number: int, password: str, pid: int) -> str:
        """The answer to `check`."""
        ...

    def left(self, held: set[int]) -> None:
        """The connection has ended: its numbers are free, unless their users were accepted."""
        ...


class Door:
    """The socket. Owned by the service (service.py), open while servers are asked about logins."""

    def __init__(self, path: Path, desk: Desk) -> None:
        self._path, self._desk = path, desk
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Listen. UnreachableError: the socket cannot be made."""
        if self._listener is not None:
            return
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._path.unlink(missing_ok=True)
            old = os.umask(0o177)
            try:
                listener.bind(str(self._path))
            finally:
                os.umask(old)
            listener.listen(MAX_GUESTS)
            listener.setblocking(False)
        except OSError as error:
            listener.close()
            raise UnreachableError(f"logins by servers: {self._path}: {error.strerror}") from error
        self._listener = listener
        self._start(self._accept(listener))

    def close(self) -> None:
        """Stop listening; whoever waits falls back to the local users."""
        if self._listener is None:
            return
        self._path.unlink(missing_ok=True)
        for task in self._tasks:
            task.cancel()
        self._listener.close()
        self._listener = None

    def _start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                link, _ = await loop.sock_accept(listener)
            except OSError as error:
                log.error("logins by servers: %s", error)
                await asyncio.sleep(1)
                continue
            pid, uid, _ = struct.unpack("3i", link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid not in (0, os.geteuid()) or len(self._tasks) > MAX_GUESTS:
                link.close()
                continue
            link.setblocking(False)
            self._start(self._serve(link, pid))

    async def _serve(self, link: socket.socket, pid: int) -> None:
        loop, held = asyncio.get_running_loop(), set[int]()
        try:
            with link:
                while True:
                    async with asyncio.timeout(IDLE_S):
                        question = await loop.sock_recv(link, MAX_QUESTION)
                    if not question:
                        return
                    await loop.sock_sendall(link, (await self._answer(question, pid, held)).encode())
        except (OSError, TimeoutError):
            return
        finally:
            self._desk.left(held)

    async def _answer(self, question: bytes, pid: int, held: set[int]) -> str:
        parts = [part.decode("utf-8", "replace") for part in question.split(b"\0")]
        if parts[0] == "name" and len(parts) == 2:
            found = await self._desk.number(parts[1], held)
            return "none" if found is None else f"uid {found[0]} {found[1]}"
        if parts[0] == "check" and len(parts) == 5 and parts[3].isascii() and parts[3].isdigit():
            return await self._desk.check(parts[1], parts[2], int(parts[3]), parts[4], pid)
        return "refuse"
