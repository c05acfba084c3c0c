# SPDX-License-Identifier: GPL-2.0-only
"""Sends requests to servers through the management port and waits for their answers, within their times.

A server's answer is `NoAnswer` whenever nothing came that can be trusted; no exception leaves here but cancellation.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable
from typing import TypeVar

from appliance.aaa import radius, tacacs
from appliance.aaa.radius import Asker, ForgedError
from appliance.aaa.tacacs import BrokenError, Prompt, Where
from appliance.aaa.verdict import Accepted, Answer, NoAnswer, Rejected
from appliance.config.schema.model import Aaa, Radius, Tacacs
from appliance.errors import UnreachableError
from appliance.system.namespace import Namespace

MAX_DATAGRAM = 4096
MAX_SKIPPED = 64  # datagrams that are no answers, of one try
T = TypeVar("T")


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET


class Exchange:
    """How servers are asked. Owns nothing; `space` is the network namespace of the management port."""

    def __init__(self, space: Namespace, hostname: Callable[[], str]) -> None:
        self._space, self._hostname = space, hostname

    # -- RADIUS

    async def radius_login(self, server: Radius, aaa: Aaa, user: str, password: str, where: Where) -> Answer:
        """Ask a RADIUS server about a login."""
        asker = Asker(self._hostname(), where.address)
        if len(password.encode()) > radius.MAX_PASSWORD:
            return Rejected(f"RADIUS takes passwords of at most {radius.MAX_PASSWORD} bytes")
        await asyncio.to_thread(radius.load)
        request = radius.login(user, password, server.secret, asker)
        found = await self._datagram(server, server.port, request.data, lambda data: radius.judge(request, data, aaa))
        return NoAnswer(found) if isinstance(found, str) else found

    async def radius_account(
        self, server: Radius, kind: int, user: str, where: Where, *, session: str, seconds: int, remote: bool
    ) -> str:
        """Report the begin (1) or end (2) of a session; why that failed, or ""."""
        asker = Asker(self._hostname(), where.address)
        await asyncio.to_thread(radius.load)
        request = radius.account(kind, user, session, seconds=seconds, secret=server.secret, asker=asker, remote=remote)

        def confirmed(data: bytes) -> bool:
            radius.accounted(request, data)
            return True

        found = await self._datagram(server, server.accounting_port, request.data, confirmed)
        return found if isinstance(found, str) else ""

    async def _datagram(self, server: Radius, port: int, data: bytes, judge: Callable[[bytes], T]) -> T | str:
        """Send until an answer is good; else why none is. The socket hears the server's address and port alone."""
        loop = asyncio.get_running_loop()
        why = f"no answer within {server.timeout}" + f", {server.tries} times" * (server.tries > 1)
        try:
            link = await self._socket(_family(server.address), socket.SOCK_DGRAM)
        except (OSError, UnreachableError) as error:
            return _told(error)
        with link:
            for _ in range(server.tries):
                try:
                    async with asyncio.timeout(server.timeout / 1e9):
                        await loop.sock_connect(link, (server.address, port))
                        await loop.sock_sendall(link, data)
                        for _ in range(MAX_SKIPPED):
                            got = await loop.sock_recv(link, MAX_DATAGRAM)
                            try:
                                return judge(got)
                            except ForgedError as error:
                                why = str(error)
                except TimeoutError:
                    continue
                except OSError as error:
                    why = _told(error)
                    await asyncio.sleep(0.1)
        return why

    async def _socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        return await asyncio.to_thread(self._space.client, family, kind)  # it waits for a thread that enters it

    # -- TACACS+

    async def tacacs_login(self, server: Tacacs, user: str, password: str, where: Where) -> Answer:
        """Ask a TACACS+ server about a login, and for the role."""
        try:
            answer = await self._authenticate(server, user, password, where)
            if not isinstance(answer, Accepted):
                return answer
            session = tacacs.Session(tacacs.AUTHORIZATION, server.secret)
            async with self._stream(server) as link:
                return tacacs.authorization(await link.ask(session, tacacs.authorize(user, where)))
        except (BrokenError, OSError, UnreachableError, asyncio.IncompleteReadError, TimeoutError) as error:
            return NoAnswer(_told(error, server))

    async def _authenticate(self, server: Tacacs, user: str, password: str, where: Where) -> Answer:
        pap = server.login == "pap"
        session = tacacs.Session(tacacs.AUTHENTICATION, server.secret, minor=1 if pap else 0)
        if pap:
            if len(password.encode()) > tacacs.MAX_ARGUMENT:
                return Rejected("PAP takes passwords of at most 255 bytes")
            body = tacacs.pap_start(user, password, where)
        else:
            body = tacacs.ascii_start(user, where)
        wanted = {"user": user, "password": password}
        async with self._stream(server) as link:
            for _ in range(3):
                found = tacacs.authentication(await link.ask(session, body))
                if not isinstance(found, Prompt):
                    return found
                if found.what not in wanted:
                    return Rejected("asks for a second factor, which a login by password cannot give")
                body = tacacs.reply_to_prompt(wanted.pop(found.what))
        return NoAnswer("goes on asking")

    async def tacacs_account(self, server: Tacacs, flags: int, user: str, where: Where, arguments: list[str]) -> str:
        """Report something; why that failed, or ""."""
        session = tacacs.Session(tacacs.ACCOUNTING, server.secret)
        try:
            async with self._stream(server) as link:
                good = tacacs.accounted(await link.ask(session, tacacs.account(flags, user, where, arguments)))
        except (BrokenError, OSError, UnreachableError, asyncio.IncompleteReadError, TimeoutError) as error:
            return _told(error, server)
        return "" if good else "refuses the report"

    @contextlib.asynccontextmanager
    async def _stream(self, server: Tacacs):  # type: ignore[no-untyped-def]
        link = await self._socket(_family(server.address), socket.SOCK_STREAM)
        try:
            async with asyncio.timeout(server.timeout / 1e9):
                await asyncio.get_running_loop().sock_connect(link, (server.address, server.port))
            yield _Stream(link, server.timeout / 1e9)
        finally:
            link.close()


class _Stream:
    """A connection to a TACACS+ server."""

    def __init__(self, link: socket.socket, timeout_s: float) -> None:
        self._link, self._timeout_s = link, timeout_s

    async def ask(self, session: tacacs.Session, body: bytes) -> bytes:
        """Send a packet; the body of the answer."""
        async with asyncio.timeout(self._timeout_s):
            await asyncio.get_running_loop().sock_sendall(self._link, session.packet(body))
            size = session.size(await self._exactly(tacacs.HEADER.size))
            return session.body(await self._exactly(size))

    async def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await asyncio.get_running_loop().sock_recv(self._link, size - len(data))
            if not more:
                raise asyncio.IncompleteReadError(data, size)
            data += more
        return data


def _told(error: BaseException, server: Tacacs | None = None) -> str:
    if isinstance(error, TimeoutError) and server is not None:
        return f"no answer within {server.timeout}"
    if isinstance(error, asyncio.IncompleteReadError):
        return "closes the connection: another secret, or our address is not known there"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, ConnectionResetError):
        return "resets the connection: another secret, or our address is not known there"
    return (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
