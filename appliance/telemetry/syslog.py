# SPDX-License-Identifier: GPL-2.0-only
"""Events to syslog servers: RFC 5424 messages, over UDP (RFC 5426), TCP (RFC 6587) or TLS (RFC 5425), octets counted.

They are sent by the management port as soon as it has an address. Events that cannot be sent are queued, at most QUEUE
for each server, until the server can be reached again; events that had to be dropped meanwhile are counted and reported
to that server. Each server has its own task, so nothing else waits for it. The format is pure.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

from appliance.api.schema import access
from appliance.config.schema import model
from appliance.counted import counted
from appliance.errors import UnreachableError
from appliance.system.namespace import Namespace
from appliance.telemetry.events import Event, Events
from appliance.telemetry.subject import Kind, Notice, Severity, Subject

if TYPE_CHECKING:
    import ssl

log = logging.getLogger(__name__)

FACILITY = 16  # local0
ENTERPRISE = 32473  # RFC 5612: for documentation; we have no registered number
QUEUE = 1000
FIRST_RETRY, LAST_RETRY, TIMEOUT = 1.0, 60.0, 10.0  # seconds
QUIET = 600.0  # seconds between two log lines about the same server
DEFAULT_PORTS = {"udp": 514, "tcp": 601, "tls": 6514}


class Server(NamedTuple):
    """A syslog server."""

    transport: str
    address: str
    port: int
    ca: str = ""  # tls: PEM of the certificate authority that is trusted
    name: str = ""  # tls: the name in its certificate

    @classmethod
    def parse(cls, url: str, ca: str = "", name: str = "") -> Server:
        """Parse a URL from the configuration, which has been checked already."""
        parts = urlsplit(url)
        server = cls(parts.scheme, parts.hostname or "", parts.port or DEFAULT_PORTS[parts.scheme])
        return server._replace(ca=ca, name=name or server.address) if server.transport == "tls" else server

    @property
    def place(self) -> tuple[str, str, int]:
        """What identifies the server, regardless of its certificate."""
        return self.transport, self.address, self.port

    @property
    def family(self) -> socket.AddressFamily:
        """Its address family."""
        return socket.AF_INET6 if ipaddress.ip_address(self.address).version == 6 else socket.AF_INET

    def tls(self) -> ssl.SSLContext | None:
        """The TLS settings; None for other transports."""
        if self.transport != "tls":
            return None
        import ssl  # slow to import and rarely used

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # name and certificate are checked, TLS 1.2 or newer
        context.load_verify_locations(cadata=self.ca)
        return context


def message(event: Event, hostname: str, pid: int) -> bytes:
    """One RFC 5424 message. The byte order mark at the start of the text marks it as UTF-8."""
    when = event.when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{event.when.microsecond:06d}Z"
    priority = FACILITY * 8 + event.severity
    data = f'[bypass@{ENTERPRISE} source="{_value(str(event.subject))}" cause="{_value(event.cause)}"]'
    head = f"<{priority}>1 {when} {_name(hostname, 255)} bypassd {pid} {_name(event.subject.kind, 32)} {data} "
    return head.encode("utf-8") + b"\xef\xbb\xbf" + _text(f"{event.subject}: {event.text}").encode("utf-8")


def _name(text: str, limit: int) -> str:
    """A header field: printable ASCII without spaces, or "-"."""
    return "".join(c for c in text if "!" <= c <= "~")[:limit] or "-"


def _value(text: str) -> str:
    """A parameter value, with the three special characters escaped."""
    return _text(text).replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")


def _text(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:2000].encode("utf-8", "replace").decode("utf-8")


class Sender:
    """One server with its queue, and the task that empties it. Lives while the server is configured."""

    def __init__(self, server: Server, space: Namespace, hostname: Callable[[], str], pid: int) -> None:
        self.server, self._space, self._hostname, self._pid = server, space, hostname, pid
        self.sent = self.lost = 0
        self.trouble = ""
        self._queue: deque[Event] = deque()
        self._sending: Event | None = None  # taken from the queue but not sent yet
        self._unsaid = 0  # dropped events not yet reported to the server
        self._new = asyncio.Event()

    def put(self, event: Event) -> None:
        """Queue an event; if the queue is full, the oldest one is dropped."""
        if len(self._queue) >= QUEUE:
            self._queue.popleft()
            self.lost += 1
            self._unsaid += 1
        self._queue.append(event)
        self._new.set()

    @property
    def label(self) -> str:
        """The server's name, for display and as a metrics label."""
        return f"{self.server.transport}://{self.server.address} port {self.server.port}"

    @property
    def waiting(self) -> int:
        """The number of events not sent yet."""
        return len(self._queue) + (self._sending is not None)

    async def run(self) -> None:
        """Send until cancelled."""
        delay, said = FIRST_RETRY, -QUIET
        while True:
            try:
                await (self._datagrams() if self.server.transport == "udp" else self._stream())
            except (OSError, UnreachableError, TimeoutError) as error:
                why = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or "no answer"
                delay = min(2 * delay, LAST_RETRY) if self.trouble else FIRST_RETRY
                if time.monotonic() - said > QUIET:
                    said = time.monotonic()
                    log.warning("syslog server %s: %s: events are queued", self.server.address, why)
                self.trouble = why
            await asyncio.sleep(delay)

    async def _datagrams(self) -> None:
        link = self._space.client(self.server.family, socket.SOCK_DGRAM)
        try:
            link.connect((self.server.address, self.server.port))
            while True:
                event = await self._next()
                # Raises if an ICMP error came back for an earlier message.
                link.send(message(event, self._hostname(), self._pid))
                self._done()
        finally:
            link.close()

    async def _stream(self) -> None:
        loop = asyncio.get_running_loop()
        link = self._space.client(self.server.family, socket.SOCK_STREAM)
        try:
            async with asyncio.timeout(TIMEOUT):
                await loop.sock_connect(link, (self.server.address, self.server.port))
                context = await asyncio.to_thread(self.server.tls)  # a slow import, the first time
                name = self.server.name if context else None
                reader, writer = await asyncio.open_connection(sock=link, ssl=context, server_hostname=name)
        except BaseException:
            link.close()
            raise
        try:
            # drain() then waits until everything is sent. With high=0 it would never end under TLS.
            writer.transport.set_write_buffer_limits(high=1, low=0)
            while True:
                text = message(await self._next_or_hang_up(reader), self._hostname(), self._pid)
                async with asyncio.timeout(TIMEOUT):
                    writer.write(f"{len(text)} ".encode() + text)
                    await writer.drain()
                self._done()
        finally:
            writer.transport.abort()

    async def _next_or_hang_up(self, reader: asyncio.StreamReader) -> Event:
        """The next event; ConnectionResetError if the server closes the connection first."""
        event = asyncio.ensure_future(self._next())
        left = asyncio.ensure_future(reader.read(256))
        try:
            await asyncio.wait({event, left}, return_when=asyncio.FIRST_COMPLETED)
            if left.done() and not left.result():
                raise ConnectionResetError("the server closed the connection")
            return await event
        finally:
            for task in (event, left):
                task.cancel()
            await asyncio.gather(event, left, return_exceptions=True)

    async def _next(self) -> Event:
        """The event to send now; the same one until `_done` is called."""
        while self._sending is None:
            if self._queue:
                self._sending = self._queue.popleft()
            else:
                self._new.clear()
                await self._new.wait()
        return self._sending

    def _done(self) -> None:
        assert self._sending is not None
        when, self._sending, self.trouble = self._sending.when, None, ""
        self.sent += 1
        if self._unsaid:
            text = f"{counted(self._unsaid, 'event was', 'events were')} not sent: this server could not be reached"
            self._queue.appendleft(Event(when, Notice.EVENTS_LOST.severity, Subject(Kind.SYSLOG), text, ""))
            self._unsaid = 0


class Syslog:
    """All servers. Owned by the part "access", which knows when the management port has an address."""

    def __init__(self, events: Events, space: Namespace, hostname: Callable[[], str], pid: int) -> None:
        self._space, self._hostname, self._pid = space, hostname, pid
        self._events, self._applied = events, False
        self._severity = Severity.INFO
        self._senders: dict[tuple[str, str, int], tuple[Sender, asyncio.Task[None]]] = {}
        events.listen(self._event)

    def apply(self, tasks: asyncio.TaskGroup, wish: model.Syslog) -> None:
        """Send to these servers from now on, in tasks of this group.

        A server that was configured before keeps its queue. If its CA or name changed, it is retried at once. Those of
        the start also get what happened before it: a crash is reported before the management port is up.
        """
        self._severity = Severity[wish.severity.upper()]
        wanted = {
            server.place: server for server in (Server.parse(url, wish.ca, wish.server_name) for url in wish.servers)
        }
        for place in [place for place in self._senders if place not in wanted]:
            self._senders.pop(place)[1].cancel()
        for place, server in wanted.items():
            sender, task = self._senders.get(place, (None, None))
            if sender and task:
                if sender.server == server:
                    continue
                task.cancel()
                sender.server = server
            else:
                sender = Sender(server, self._space, self._hostname, self._pid)
                for event in () if self._applied else self._events.newest(severity=self._severity):
                    sender.put(event)
            self._senders[place] = (sender, tasks.create_task(sender.run(), name=f"syslog {server.address}"))
        self._applied = True

    def stop(self) -> None:
        """End all tasks."""
        for _, task in self._senders.values():
            task.cancel()
        self._senders.clear()

    def senders(self) -> list[Sender]:
        """One sender for each server."""
        return [sender for sender, _ in self._senders.values()]

    def show(self) -> list[access.Syslog]:
        """All servers, as the API shows them."""
        return [
            access.Syslog(sender.label, sender.sent, sender.waiting, sender.lost, sender.trouble)
            for sender in self.senders()
        ]

    def _event(self, event: Event) -> None:
        if event.severity <= self._severity:
            for sender, _ in self._senders.values():
                sender.put(event)


__all__ = ["Sender", "Server", "Syslog", "message"]
