# SPDX-License-Identifier: GPL-2.0-only
"""The messages between snmpd and a program that answers for a part of its tree: AgentX, RFC 2741. Pure.

Written by hand: a header, four shapes of values and a dozen kinds of messages; no library of it is kept.
Sent in network byte order, read in either. Contexts other than the default one are not served.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

Oid = tuple[int, ...]

HEADER_BYTES: Final = 20
MAX_PAYLOAD: Final = 1 << 16
"""Bytes; a message of snmpd is as long as an SNMP message at most."""
_INTERNET: Final = (1, 3, 6, 1)
_NETWORK_ORDER, _OTHER_CONTEXT = 0x10, 0x08
_MAX_SUBIDS: Final = 128


class Kind(IntEnum):
    """Kinds of messages (6.1)."""

    OPEN = 1
    CLOSE = 2
    REGISTER = 3
    GET = 5
    GET_NEXT = 6
    GET_BULK = 7
    TEST_SET = 8
    COMMIT_SET = 9
    UNDO_SET = 10
    CLEANUP_SET = 11
    NOTIFY = 12
    PING = 13
    RESPONSE = 18


class Type(IntEnum):
    """Types of values (5.4)."""

    INTEGER = 2
    STRING = 4
    NULL = 5
    OID = 6
    COUNTER32 = 65
    GAUGE32 = 66
    TICKS = 67
    COUNTER64 = 70
    NO_SUCH_OBJECT = 128
    NO_SUCH_INSTANCE = 129
    END = 130


NOT_WRITABLE: Final = 17
PARSE_ERROR: Final = 266
UNSUPPORTED_CONTEXT: Final = 262


class Value(NamedTuple):
    """A value: an int, bytes or an Oid, as its type has it; None for NULL and the three that say that there is none."""

    type: Type
    value: int | bytes | Oid | None = None


def integer(value: int) -> Value:
    """INTEGER, also of an enumeration."""
    return Value(Type.INTEGER, value)


def text(value: str | bytes) -> Value:
    """A text, at most 255 bytes of UTF-8 (SnmpAdminString)."""
    data = value if isinstance(value, bytes) else value.encode()[:255].decode(errors="ignore").encode()
    return Value(Type.STRING, data)


def gauge(value: int) -> Value:
    """Gauge32, which stays at its end."""
    return Value(Type.GAUGE32, min(max(value, 0), 0xFFFFFFFF))


def counter(value: int) -> Value:
    """Counter32, which wraps."""
    return Value(Type.COUNTER32, value & 0xFFFFFFFF)


def counter64(value: int) -> Value:
    """Counter64."""
    return Value(Type.COUNTER64, value & 0xFFFFFFFFFFFFFFFF)


def ticks(value: int) -> Value:
    """TimeTicks: hundredths of a second, which wrap."""
    return Value(Type.TICKS, value & 0xFFFFFFFF)


def oid(value: Oid) -> Value:
    """OBJECT IDENTIFIER."""
    return Value(Type.OID, value)


class Row(NamedTuple):
    """A name with its value (VarBind)."""

    name: Oid
    value: Value


class Range(NamedTuple):
    """What is asked for: from `start` (itself only with `include`) up to before `end`; () = no end."""

    start: Oid
    include: bool
    end: Oid


class Message(NamedTuple):
    """A message with its header; `payload` is in the byte order that `order` says ("!" or "<")."""

    kind: int
    flags: int
    session: int
    transaction: int
    packet: int
    payload: bytes
    order: str = "!"

    @property
    def other_context(self) -> bool:
        """Whether it is about another context than the default one."""
        return bool(self.flags & _OTHER_CONTEXT)


class Response(NamedTuple):
    """An answer of snmpd. `uptime`: hundredths of a second since its start."""

    uptime: int
    error: int


class AgentXError(Exception):
    """The other end sent what is no message of this protocol."""


# -- writing


def _oid(name: Oid, *, include: bool = False) -> bytes:
    prefix = 0
    if name[:4] == _INTERNET and len(name) > 4 and 0 < name[4] <= 0xFF:
        prefix, name = name[4], name[5:]
    return struct.pack(f"!BBBx{len(name)}I", len(name), prefix, include, *name)


def _string(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data + bytes(-len(data) % 4)


def _row(row: Row) -> bytes:
    kind, value = row.value
    head = struct.pack("!Hxx", kind) + _oid(row.name)
    if isinstance(value, bytes):
        return head + _string(value)
    if isinstance(value, tuple):
        return head + _oid(value)
    if value is None:
        return head
    return head + struct.pack({Type.INTEGER: "!i", Type.COUNTER64: "!Q"}.get(kind, "!I"), value)


def message(kind: Kind, payload: bytes, *, session: int = 0, transaction: int = 0, packet: int = 0) -> bytes:
    """A whole message."""
    flags = _NETWORK_ORDER
    return struct.pack("!BBBxIIII", 1, kind, flags, session, transaction, packet, len(payload)) + payload


def open_session(description: str, timeout_s: int) -> bytes:
    """The payload of OPEN: without an identity of our own, since no number is registered for us."""
    return struct.pack("!Bxxx", timeout_s) + _oid(()) + _string(description.encode())


def register(subtree: Oid, priority: int) -> bytes:
    """The payload of REGISTER: we answer for everything below `subtree`. A lower priority wins."""
    return struct.pack("!BBBx", 0, priority, 0) + _oid(subtree)


def rows(found: Iterable[Row]) -> bytes:
    """A list of names with values; the payload of NOTIFY."""
    return b"".join(map(_row, found))


def response(asked: Message, found: Iterable[Row] = (), error: int = 0, index: int = 0) -> bytes:
    """The answer to a message."""
    payload = struct.pack("!IHH", 0, error, index) + rows(found)
    return message(Kind.RESPONSE, payload, session=asked.session, transaction=asked.transaction, packet=asked.packet)


# -- reading. AgentXError: it is truncated, or no such message.


def header(data: bytes) -> tuple[Message, int]:
    """The header, and how many bytes of payload follow."""
    if len(data) != HEADER_BYTES:
        raise AgentXError("the connection ended within a message")
    version, kind, flags = data[:3]
    order = "!" if flags & _NETWORK_ORDER else "<"
    session, transaction, packet, length = struct.unpack(f"{order}IIII", data[4:])
    if version != 1 or length % 4 or length > MAX_PAYLOAD:
        raise AgentXError(f"no message of AgentX: version {version}, {length} bytes")
    return Message(kind, flags, session, transaction, packet, b"", order), length


class _Reader:
    def __init__(self, asked: Message, skip: int = 0) -> None:
        self._data, self._order, self._at = asked.payload, asked.order, skip

    @property
    def more(self) -> bool:
        return self._at < len(self._data)

    def take(self, shape: str) -> tuple[int, ...]:
        try:
            found = struct.unpack_from(self._order + shape, self._data, self._at)
        except struct.error as error:
            raise AgentXError("the message is truncated") from error
        self._at += struct.calcsize(self._order + shape)
        return found

    def oid(self) -> tuple[Oid, bool]:
        count, prefix, include = self.take("BBBx")
        if count > _MAX_SUBIDS:
            raise AgentXError(f"a name of {count} numbers")
        name = self.take(f"{count}I")
        return ((*_INTERNET, prefix, *name) if prefix else name), bool(include)

    def string(self) -> bytes:
        (size,) = self.take("I")
        data = self._data[self._at : self._at + size]
        if len(data) < size:
            raise AgentXError("the message is truncated")
        self._at += size + -size % 4
        return data


def ranges(asked: Message) -> list[Range]:
    """What GET and GET_NEXT ask for."""
    return _ranges(_Reader(asked))


def bulk(asked: Message) -> tuple[int, int, list[Range]]:
    """What GET_BULK asks for: how many of the names are asked for once, how often the others, and all names."""
    reader = _Reader(asked)
    once, repeated = reader.take("HH")
    return once, repeated, _ranges(reader)


def _ranges(reader: _Reader) -> list[Range]:
    found = []
    while reader.more:
        start, include = reader.oid()
        end, _ = reader.oid()
        found.append(Range(start, include, end))
    return found


def answered(got: Message) -> Response:
    """What RESPONSE says."""
    uptime, error, _ = _Reader(got).take("IHH")
    return Response(uptime, error)


_SHAPES: Final = {Type.INTEGER: "i", Type.COUNTER64: "Q", Type.COUNTER32: "I", Type.GAUGE32: "I", Type.TICKS: "I"}


def values(got: Message, skip: int = 0) -> list[Row]:
    """The names with values in a payload, from byte `skip` on (8 in a RESPONSE)."""
    reader, found = _Reader(got, skip), []
    while reader.more:
        (number,) = reader.take("Hxx")
        name, _ = reader.oid()
        try:
            kind = Type(number)
        except ValueError as error:
            raise AgentXError(f"a value of type {number}") from error
        if kind in _SHAPES:
            value: int | bytes | Oid | None = reader.take(_SHAPES[kind])[0]
        elif kind is Type.STRING:
            value = reader.string()
        else:
            value = reader.oid()[0] if kind is Type.OID else None
        found.append(Row(name, Value(kind, value)))
    return found


def all_of(pieces: Sequence[bytes]) -> list[Message]:
    """Whole messages from bytes that were sent."""
    found, data = [], b"".join(pieces)
    while data:
        got, length = header(data[:HEADER_BYTES])
        found.append(got._replace(payload=data[HEADER_BYTES : HEADER_BYTES + length]))
        data = data[HEADER_BYTES + length :]
    return found
