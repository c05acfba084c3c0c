# SPDX-License-Identifier: GPL-2.0-only
"""A QEMU whose guest floods bypassd, as a separate process at the other end of a Unix socket.

    python -m tests.support.flood qmp SOCKET EVENTS     speaks QMP, and sends so many GUEST_CRASHLOADED, then RESET
    python -m tests.support.flood raw SOCKET BYTES LINE sends LINE again and again, so many bytes in all

Both send as fast as the reader allows; the first answers commands in between.
"""

from __future__ import annotations

import contextlib
import json
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

AT_ONCE = 100  # events between two looks at the commands


def _line(message: dict[str, object]) -> bytes:
    return json.dumps(message).encode() + b"\r\n"


def _event(number: int, name: str, **data: object) -> bytes:
    stamp = {"seconds": 1700000000 + number // 9000, "microseconds": number % 1000000}
    return _line({"timestamp": stamp, "event": name, "data": data})


def _requests(text: str) -> tuple[list[dict[str, Any]], str]:
    """The whole JSON objects of a text, and what is left. A client of QMP need not end them with a newline."""
    found, decoder = [], json.JSONDecoder()
    with contextlib.suppress(ValueError):
        while text := text.lstrip():
            request, end = decoder.raw_decode(text)
            found.append(request)
            text = text[end:]
    return found, text


def _answer(asked: dict[str, Any]) -> bytes:
    answers: dict[str, object] = {"query-name": {"name": "ips1"}, "query-kvm": {"enabled": True, "present": True}}
    return _line({"return": answers.get(asked["execute"], {}), "id": asked.get("id")})


def qmp(link: socket.socket, events: int) -> None:
    link.sendall(_line({"QMP": {"version": {"qemu": {"major": 8, "minor": 0, "micro": 0}}, "capabilities": []}}))
    rest, sent, begun = "", 0, False
    while True:
        if select.select([link], [], [], 0 if begun and sent < events else None)[0]:
            data = link.recv(65536)
            if not data:
                return
            requests, rest = _requests(rest + data.decode())
            for request in requests:
                link.sendall(_answer(request))
                begun = begun or request["execute"] == "query-kvm"
        if begun and sent < events:
            count = min(AT_ONCE, events - sent)
            flood = [_event(sent + n, "GUEST_CRASHLOADED", action="run") for n in range(count)]
            sent += count
            if sent == events:
                flood.append(_event(sent, "RESET", guest=True, reason="guest-reset"))
            link.sendall(b"".join(flood))


def raw(link: socket.socket, size: int, line: str) -> None:
    block = (line.encode() + b"\n") * (65536 // (len(line) + 1) + 1)
    while size > 0:
        link.sendall(block)
        size -= len(block)
    link.shutdown(socket.SHUT_WR)
    while link.recv(65536):
        pass


@contextlib.contextmanager
def flooding(kind: str, path: Path, *more: object) -> Iterator[None]:
    """Run one; it listens when the block is entered, and has ended when it is left."""
    words = [sys.executable, "-m", "tests.support.flood", kind, str(path), *map(str, more)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        yield
    finally:
        process.kill()
        process.communicate()


def main(kind: str, path: str, number: str, *more: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        print("listening", flush=True)
        link, _ = listener.accept()
    with link, contextlib.suppress(ConnectionError):
        if kind == "qmp":
            qmp(link, int(number))
        else:
            raw(link, int(number), *more)


if __name__ == "__main__":
    main(*sys.argv[1:])
