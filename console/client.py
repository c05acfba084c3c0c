# SPDX-License-Identifier: GPL-2.0-only
"""Python client of the control socket, used by the shell itself.

It opens one connection per call, so a restart of bypassd between two commands goes unnoticed, and an idle session
occupies no connection. It imports nothing heavy: one-shot commands must start quickly.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any

from appliance import errors

DEFAULT_SOCKET = "/run/bypass/control.sock"
MAX_ANSWER = 64 << 20  # bytes; more than any valid answer

_NO_METHOD, _INTERNAL, _FORBIDDEN = -32601, -32603, -32001
_STARTING = "Starting"  # kind of the refusal of a method whose part is still starting (appliance/api/rpc.py)
START_S = 20.0
"""How long a request is repeated while the part that serves it is starting: bypassd lets each wait for some seconds."""


class RemoteError(errors.BypassError):
    """The daemon refused or failed: JSON-RPC `code`, `kind` of error, `hint` on what to do."""

    def __init__(self, message: str, code: int, kind: str = "", hint: str = "") -> None:
        self.code, self.kind, self.hint = code, kind, hint
        super().__init__(message)

    @property
    def internal(self) -> bool:
        """Whether the daemon is at fault, not the request."""
        return self.code == _INTERNAL


class Client:
    """Calls methods of bypassd. Raises UnreachableError and RemoteError, with one clear line each."""

    def __init__(self, path: str = "") -> None:
        self.path = path or os.environ.get("BYPASS_SOCKET", "") or DEFAULT_SOCKET
        self.waiting = False  # a request has been sent and not been answered, also after a KeyboardInterrupt

    def call(self, method: str, params: dict[str, object] | None = None, wait: float = 5.0) -> Any:
        """The result of a method; `wait`: the maximum time for the answer in seconds."""
        with self._connect(wait) as link:
            return self._request(link, _Lines(link), method, params or {}, wait)

    def raw(self, request: object, wait: float) -> Any:
        """The answer to a request, or a batch, as it is on the wire; errors in it are the caller's."""
        with self._connect(wait) as link:
            return self._ask(link, _Lines(link), "the request", request, wait)

    def take_over(self, method: str, params: dict[str, object]) -> tuple[Any, socket.socket, bytes]:
        """Call a method that turns the connection into a stream; its result, the socket, and bytes received so far."""
        link = self._connect(5.0)
        try:
            lines = _Lines(link)
            result = self._request(link, lines, method, params, 5.0)
            link.settimeout(None)
        except BaseException:
            link.close()
            raise
        return result, link, lines.rest

    def many(self, calls: Sequence[tuple[str, dict[str, object]]], wait: float = 5.0) -> list[Any]:
        """The results of several methods in one request; None for each that was refused or failed."""
        requests = [
            {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            for number, (method, params) in enumerate(calls)
        ]
        with self._connect(wait) as link:
            answers = self._ask(link, _Lines(link), "a batch", requests, wait)
        results: list[Any] = [None] * len(calls)
        for answer in answers if isinstance(answers, list) else []:
            results[int(answer["id"])] = answer.get("result")
        return results

    def follow(self, topics: list[str]) -> Follow:
        """Events from now on, for callers that also wait for other things; the caller closes it."""
        link = self._connect(5.0)
        try:
            lines = _Lines(link)
            self._request(link, lines, "events.subscribe", {"topics": topics}, 5.0)
        except BaseException:
            link.close()
            raise
        return Follow(link, lines)

    def events(self, topics: list[str] | None = None) -> Iterator[tuple[str, Any]]:
        """(topic, data) of each event from now on, until the daemon ends."""
        with self._connect(5.0) as link:
            lines = _Lines(link)
            self._request(link, lines, "events.subscribe", {"topics": topics} if topics else {}, 5.0)
            link.settimeout(None)
            while line := lines.next():
                message = json.loads(line)
                if message.get("method") == "event":
                    yield message["params"]["topic"], message["params"]["data"]

    def borrow(self, method: str, params: dict[str, object]) -> tuple[Any, int, socket.socket]:
        """The result of a method that lends a descriptor, the descriptor, and the connection it is tied to.

        The caller closes both; the loan ends with the connection.
        """
        link = self._connect(10.0)
        try:
            lines = _Lines(link)
            result = self._request(link, lines, method, params, 10.0)
            if len(lines.descriptors) != 1:
                raise errors.UnreachableError(f"{self.path} does not speak the control protocol")
        except BaseException:
            link.close()
            raise
        link.settimeout(None)
        return result, lines.descriptors[0], link

    def _connect(self, wait: float) -> socket.socket:
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.waiting = False
        try:
            link.settimeout(wait)
            link.connect(self.path)
        except OSError as error:
            link.close()
            raise errors.UnreachableError(self._why(error)) from error
        return link

    def _why(self, error: OSError) -> str:
        if isinstance(error, PermissionError):
            return f"permission denied for {self.path}: requires root or membership in the group bypass"
        if isinstance(error, FileNotFoundError):
            why = f"{self.path} does not exist"
        elif isinstance(error, ConnectionRefusedError):
            why = f"nothing listens on {self.path}"
        else:
            why = f"{self.path}: {error.strerror or error}"
        return f"bypassd is not running ({why}); the keeper restarts it automatically: try again in a few seconds"

    def _request(self, link: socket.socket, lines: _Lines, method: str, params: dict[str, object], wait: float) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        ends = time.monotonic() + START_S
        answer = self._ask(link, lines, method, request, wait)
        while _starting(answer) and time.monotonic() < ends:
            answer = self._ask(link, lines, method, request, wait)
        if "error" in answer:
            raise _remote(method, answer["error"])
        return answer.get("result")

    def _ask(self, link: socket.socket, lines: _Lines, method: str, request: object, wait: float) -> Any:
        """The answer to a request, or to a batch of requests."""
        self.waiting = True
        try:
            link.sendall(json.dumps(request).encode() + b"\n")
            line = lines.next(time.monotonic() + wait)
            self.waiting = False
        except TimeoutError as error:
            what = f"bypassd did not answer {method} within {wait:g} s; if it hangs, the keeper restarts it: try again"
            raise errors.NoAnswerError(what) from error
        except OSError as error:
            raise errors.UnreachableError(f"bypassd exited while it processed {method}: try again") from error
        if not line:
            raise errors.UnreachableError(f"bypassd exited while it processed {method}: try again")
        try:
            return json.loads(line)
        except ValueError as error:
            raise errors.UnreachableError(f"{self.path} does not speak the control protocol") from error


def _starting(answer: dict[str, Any]) -> bool:
    return ((answer.get("error") or {}).get("data") or {}).get("kind") == _STARTING


def _remote(method: str, error: dict[str, Any]) -> RemoteError:
    code, data = int(error.get("code", _INTERNAL)), error.get("data") or {}
    message, hint = str(error.get("message", "no reason given")), str(data.get("hint", ""))
    if code == _NO_METHOD:
        state = "is still starting" if data.get("kind") == _STARTING else "is not running"
        message = f"{method} is currently not available: the part that serves it {state}"
        hint = "`show status` says which part is not running, and why"
    return RemoteError(message, code, str(data.get("kind", "")), hint)


class Follow:
    """Events of one subscription, to be read when `fileno` is readable. Owns the connection."""

    def __init__(self, link: socket.socket, lines: _Lines) -> None:
        self._link, self._lines = link, lines
        link.setblocking(False)

    def fileno(self) -> int:
        """For poll."""
        return self._link.fileno()

    def read(self) -> list[tuple[str, Any]]:
        """(topic, data) of the events received. UnreachableError when bypassd has exited."""
        found: list[tuple[str, Any]] = []
        try:
            while line := self._lines.next():
                message = json.loads(line)
                if message.get("method") == "event":
                    found.append((message["params"]["topic"], message["params"]["data"]))
        except BlockingIOError:
            return found
        except OSError:
            pass
        if not found:
            raise errors.UnreachableError("bypassd exited: events continue when it is back")
        return found

    def close(self) -> None:
        """End the subscription."""
        self._link.close()


class _Lines:
    """Reads lines from a socket."""

    def __init__(self, link: socket.socket) -> None:
        self._link, self._buffer = link, bytearray()
        self.descriptors: list[int] = []  # received with the lines

    @property
    def rest(self) -> bytes:
        """Bytes read beyond the last line."""
        return bytes(self._buffer)

    def next(self, until: float | None = None) -> bytes:
        """The next line, b"" at the end; TimeoutError if it is not complete at `until` (seconds, monotonic)."""
        seen = 0
        while (end := self._buffer.find(b"\n", seen)) < 0:
            seen = len(self._buffer)
            if seen > MAX_ANSWER:
                raise ConnectionAbortedError("answer too long")
            if until is not None:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                self._link.settimeout(left)
            data, came, _, _ = socket.recv_fds(self._link, 1 << 16, 1)
            self.descriptors += came
            if not data:
                return b""
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line
