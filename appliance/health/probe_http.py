# SPDX-License-Identifier: GPL-2.0-only
"""One HTTP or HTTPS request: checks status and body of the response, bounded in size; the caller bounds the time.

Uses HTTP/1.0 (RFC 1945), which every server answers without chunked encoding before it closes the connection. Redirects
are not followed; their status is judged. TLS is the standard library's.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Collection
from urllib.parse import urlsplit

from appliance.counted import counted
from appliance.health import probe_net

HEAD_BYTES = 16 << 10
BODY_BYTES = 64 << 10
_STATUS = re.compile(rb"HTTP/\d\.\d (\d{3})\b")


class BadAnswerError(Exception):
    """The server answered, but not as expected; the text is for display."""


def tls(verify: bool) -> ssl.SSLContext:
    """A context for https. Reads the system's certificates, which takes some milliseconds, once per probe."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


async def http(
    url: str,
    via: probe_net.Via = probe_net.ANY,
    *,
    status: Collection[int] = (),
    body: str = "",
    context: ssl.SSLContext | None = None,
) -> None:
    """GET `url`, whose host is an address. BadAnswerError unless status (none named: 200 .. 399) and body are good."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    sock = await probe_net.connect(host, port, via)
    try:
        name = host if context is not None else None
        reader, writer = await asyncio.open_connection(sock=sock, limit=HEAD_BYTES, ssl=context, server_hostname=name)
    except BaseException:
        sock.close()
        raise
    try:
        path = parts.path or "/"
        query = f"?{parts.query}" if parts.query else ""
        words = f"GET {path}{query} HTTP/1.0\r\nHost: {parts.netloc.rpartition('@')[2]}\r\nConnection: close\r\n"
        writer.write(f"{words}User-Agent: throughwire\r\nAccept: */*\r\n\r\n".encode("ascii"))
        await _judge(reader, status, body)
    finally:
        writer.transport.abort()  # the response has been judged; an orderly TLS shutdown would wait once more


async def _judge(reader: asyncio.StreamReader, status: Collection[int], body: str) -> None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        raise BadAnswerError(f"the response header is longer than {HEAD_BYTES} bytes") from None
    except asyncio.IncompleteReadError as cut:
        if not cut.partial:
            raise BadAnswerError("the connection was closed without a response") from None
        head = cut.partial
    found = _STATUS.match(head)
    if not found:
        raise BadAnswerError("the response is not HTTP")
    code = int(found[1])
    if code not in status if status else not 200 <= code < 400:
        raise BadAnswerError(f"status {code}")
    if body:
        text, wanted = b"", body.encode()
        while wanted not in text:
            piece = await reader.read(BODY_BYTES - len(text)) if len(text) < BODY_BYTES else b""
            if not piece:
                read = counted(len(text), "byte")
                raise BadAnswerError(f'status {code}, but "{body}" is not in the first {read} of the body')
            text += piece
