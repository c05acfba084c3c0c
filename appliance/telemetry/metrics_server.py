# SPDX-License-Identifier: GPL-2.0-only
"""The metrics endpoint: a small HTTP/1.1 server with one page, on the management port.

Clients are not trusted: connections, time and request size are bounded, and the page is generated at most once a second
however often it is requested, so that no client can keep bypassd busy. Off unless enabled in the configuration.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

from appliance.errors import UnreachableError
from appliance.system.namespace import Namespace
from appliance.telemetry.openmetrics import OPENMETRICS, PROMETHEUS, Family, render, wants_openmetrics

log = logging.getLogger(__name__)

MAX_CLIENTS = 8
MAX_REQUEST = 8192  # bytes of request line and headers
TIMEOUT = 5.0  # seconds for a whole exchange
FRESH = 1.0  # seconds for which a generated page is served


class Endpoint:
    """The server. Owned by the part "access". `collect` returns the families."""

    def __init__(self, collect: Callable[[], Iterable[Family]], space: Namespace) -> None:
        self._collect, self._space = collect, space
        self._server: asyncio.AbstractServer | None = None
        self._clients = 0
        self._pages: dict[bool, tuple[float, bytes]] = {}
        self.port = 0  # 0 = off
        self.reads = 0

    async def apply(self, port: int) -> None:
        """Listen on this TCP port of the management port; 0: do not listen. UnreachableError if that fails."""
        if port == self.port and (self._server is not None or not port):
            return
        self.stop()
        if not port:
            return
        try:
            listener = self._space.listen_tcp(port)
            self._server = await asyncio.start_server(self._serve, sock=listener, limit=MAX_REQUEST)
        except OSError as error:
            raise UnreachableError(f"metrics: port {port}: {error.strerror or error}") from error
        self.port = port

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._clients >= MAX_CLIENTS:
            writer.close()
            return
        self._clients += 1
        try:
            async with asyncio.timeout(TIMEOUT):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self.answer(head))
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # a client that is too slow, sends too much, or has left
        finally:
            self._clients -= 1
            writer.close()

    def answer(self, head: bytes) -> bytes:
        """The response to a request's header."""
        first, *rest = head.decode("latin-1").split("\r\n")
        words = first.split()
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response("400 Bad Request", b"")
        headers = {key.strip().lower(): value for key, _, value in (line.partition(":") for line in rest) if key}
        method, path = words[0], words[1].partition("?")[0]
        if method not in ("GET", "HEAD"):
            return _response("405 Method Not Allowed", b"", ("Allow", "GET, HEAD"))
        if path != "/metrics":
            return _response("404 Not Found", b"the metrics are at /metrics\n")
        openmetrics = wants_openmetrics(headers.get("accept", ""))
        try:
            page = self._page(openmetrics)
        except Exception:  # a bug in a metric must not end the supervisor
            log.exception("metrics cannot be generated")
            return _response("500 Internal Server Error", b"")
        self.reads += 1
        kind = OPENMETRICS if openmetrics else PROMETHEUS
        return _response("200 OK", page, ("Content-Type", kind), body=method == "GET")

    def _page(self, openmetrics: bool) -> bytes:
        now = time.monotonic()
        at, page = self._pages.get(openmetrics, (0.0, b""))
        if not page or now - at > FRESH:
            page = render(self._collect(), openmetrics).encode()
            self._pages[openmetrics] = (now, page)
        return page


def _response(status: str, content: bytes, *headers: tuple[str, str], body: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", "Connection: close"]
    lines += [f"{key}: {value}" for key, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + (content if body else b"")
