# SPDX-License-Identifier: GPL-2.0-only
"""TACACS+ packets (RFC 8907): requests to send, and what answers mean. Pure.

Written here because no client library is kept: the one on PyPI was archived in 2024, and the protocol is a header of
12 bytes, a pad of MD5 sums and three small bodies. The pad hides and does not authenticate: whoever can change packets
on the way can let users in. So an answer is refused at the first thing that does not fit, unencrypted ones above all.
"""

from __future__ import annotations

import hashlib
import secrets
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from appliance.aaa.verdict import Accepted, Answer, NoAnswer, Rejected

AUTHENTICATION, AUTHORIZATION, ACCOUNTING = 1, 2, 3
HEADER: Final = struct.Struct("!BBBBII")
MAX_BODY: Final = 1 << 16
_MAJOR: Final = 0xC0
_PLAIN: Final = 0x01  # flag: the body is not hidden
_LOGIN, _ASCII, _PAP, _LOGIN_SERVICE, _TACACS = 1, 1, 2, 1, 6
_PASS, _FAIL, _GET_DATA, _GET_USER, _GET_PASS, _RESTART, _ERROR, _FOLLOW = 1, 2, 3, 4, 5, 6, 7, 0x21
_ADDED, _REPLACED, _DENIED = 1, 2, 0x10
_ACCOUNTED: Final = 1
_ROLE_KEYS: Final = ("role", "shell:roles", "local-user-name")
_KNOWN: Final = ("service", "cmd", "protocol", "idletime", "timeout")
START, STOP = 0x02, 0x04
MAX_ARGUMENT: Final = 255


class BrokenError(Exception):
    """An answer that breaks the protocol, and how."""


class Where(NamedTuple):
    """Where the user is: the line ("ssh" or "console") and the address."""

    line: str
    address: str


class Session:
    """One session: a connection and its packets, numbered in turn."""

    def __init__(self, kind: int, secret: str, minor: int = 0) -> None:
        self._kind, self._secret, self._version = kind, secret.encode(), _MAJOR | minor
        self._id, self._number = secrets.randbits(32), 0

    def packet(self, body: bytes) -> bytes:
        """The next packet of ours."""
        self._number += 1
        head = HEADER.pack(self._version, self._kind, self._number, 0, self._id, len(body))
        return head + self._hide(body, self._number)

    def size(self, head: bytes) -> int:
        """How long the body is that follows the header of an answer. BrokenError: it is not the next answer."""
        version, kind, number, flags, session, size = HEADER.unpack(head)
        if version & 0xF0 != _MAJOR or kind != self._kind:
            raise BrokenError("does not answer in TACACS+")
        if session != self._id or number != self._number + 1:
            raise BrokenError("answers another request")
        if flags & _PLAIN:
            raise BrokenError("answers unencrypted")
        if size > MAX_BODY:
            raise BrokenError(f"announces {size} bytes")
        return int(size)

    def body(self, hidden: bytes) -> bytes:
        """The body of the answer whose header was read."""
        self._number += 1
        return self._hide(hidden, self._number)

    def _hide(self, body: bytes, number: int) -> bytes:
        seed = struct.pack("!I", self._id) + self._secret + bytes((self._version, number))
        pad, last = b"", b""
        while len(pad) < len(body):
            last = hashlib.md5(seed + last, usedforsecurity=False).digest()
            pad += last
        return bytes(a ^ b for a, b in zip(body, pad, strict=False))


def _short(*parts: bytes) -> list[bytes]:
    """The parts, none longer than a length of one byte can tell."""
    return [part[:MAX_ARGUMENT] for part in parts]


def ascii_start(user: str, where: Where) -> bytes:
    """The body that begins a login; the password is asked for then."""
    return _start(_ASCII, user, where, b"")


def pap_start(user: str, password: str, where: Where) -> bytes:
    """The body that begins a login with the password."""
    return _start(_PAP, user, where, password.encode())


def _start(kind: int, user: str, where: Where, data: bytes) -> bytes:
    name, port, address, data = _short(user.encode(), where.line.encode(), where.address.encode(), data)
    head = struct.pack("!8B", _LOGIN, 1, kind, _LOGIN_SERVICE, len(name), len(port), len(address), len(data))
    return head + name + port + address + data


def reply_to_prompt(text: str) -> bytes:
    """The body that answers what the server asked for."""
    data = text.encode()
    return struct.pack("!HHB", len(data), 0, 0) + data


class Prompt(NamedTuple):
    """The server wants the user's name or password next."""

    what: str


def authentication(body: bytes) -> Prompt | Answer:
    """What the server says in a login. BrokenError."""
    if len(body) < 6:
        raise BrokenError("sends a login reply that is too short")
    status, _, said, data = struct.unpack("!BBHH", body[:6])
    if len(body) != 6 + said + data:
        raise _lengths()
    text = body[6 : 6 + said].decode("utf-8", "replace")
    if status == _PASS:
        return Accepted()
    if status == _FAIL:
        return Rejected(_said("refused", text))
    if status in (_GET_USER, _GET_PASS):
        return Prompt("user" if status == _GET_USER else "password")
    if status == _GET_DATA:
        return Rejected("asks for a second factor, which a login by password cannot give")
    if status == _RESTART:
        return NoAnswer("wants another kind of login: set `login` of the server")
    if status == _FOLLOW:
        return NoAnswer("points to another server, which is not followed")
    if status == _ERROR:
        return NoAnswer(_said("reports an error", text))
    raise BrokenError(f"answers a login with status {status}")


def authorize(user: str, where: Where) -> bytes:
    """The body that asks for what a user may do on a command line."""
    return _body(b"", user, where, ("service=shell", "cmd="))


def account(flags: int, user: str, where: Where, arguments: Iterable[str]) -> bytes:
    """The body that reports something."""
    return _body(bytes((flags,)), user, where, arguments)


def _body(before: bytes, user: str, where: Where, arguments: Iterable[str]) -> bytes:
    name, port, address = _short(user.encode(), where.line.encode(), where.address.encode())
    listed = _short(*(text.encode() for text in arguments))
    head = struct.pack("!8B", _TACACS, 0, _ASCII, _LOGIN_SERVICE, len(name), len(port), len(address), len(listed))
    sizes = bytes(len(argument) for argument in listed)
    return before + head + sizes + name + port + address + b"".join(listed)


def authorization(body: bytes) -> Answer:
    """The role that the server gives. BrokenError."""
    if len(body) < 6:
        raise BrokenError("sends an authorization reply that is too short")
    status, count, said, data = struct.unpack("!BBHH", body[:6])
    sizes = body[6 : 6 + count]
    start = 6 + count + said + data
    if len(sizes) != count or len(body) != start + sum(sizes):
        raise _lengths()
    text = body[6 + count : 6 + count + said].decode("utf-8", "replace")
    if status == _DENIED:
        return Rejected(_said("does not authorize a command line", text))
    if status not in (_ADDED, _REPLACED):
        return NoAnswer(_said(f"answers an authorization with status {status}", text))
    level, values = -1, []
    for size in sizes:
        argument = body[start : start + size].decode("utf-8", "replace")
        start += size
        key, mark, value = _split(argument)
        if key == "priv-lvl":
            if not (value.isascii() and value.isdigit() and len(value) < 3):
                raise BrokenError("sends a privilege level that is no number")
            level = int(value)
        elif key in _ROLE_KEYS:
            values.append(value.strip('"'))
        elif mark == "=" and key not in _KNOWN:  # RFC 8907, 6.1: what is mandatory and unknown is a refusal
            return Rejected(_said("refused, as this is mandatory and not known here", argument))
    return Accepted(tuple(values), level)


def _split(argument: str) -> tuple[str, str, str]:
    """Name, separator ("=": mandatory, "*": optional) and value."""
    place = min((found for mark in "=*" if (found := argument.find(mark)) >= 0), default=len(argument))
    return argument[:place], argument[place : place + 1], argument[place + 1 :]


def accounted(body: bytes) -> bool:
    """Whether the server confirms a report. BrokenError."""
    if len(body) < 5:
        raise BrokenError("sends an accounting reply that is too short")
    said, data, status = struct.unpack("!HHB", body[:5])
    if len(body) != 5 + said + data:
        raise _lengths()
    return bool(status == _ACCOUNTED)


def _lengths() -> BrokenError:
    return BrokenError("sends an answer that does not fit its lengths: another secret, or forged")


def _said(what: str, text: str) -> str:
    clean = "".join(c if c.isprintable() else " " for c in text).strip()[:80]
    return f"{what}: {clean}" if clean else what
