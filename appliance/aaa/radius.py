# SPDX-License-Identifier: GPL-2.0-only
"""RADIUS packets: requests to send, and whether a datagram is the server's answer to one. Pure; pyrad encodes.

Every request carries a Message-Authenticator, and an answer to a login without one is worth nothing (CVE-2024-3596:
whoever is on the way can otherwise turn a refusal into an acceptance). An answer must have the request's number, a
Response Authenticator made with the secret, and no Proxy-State that was not sent; pyrad checks that. A datagram that
fails is skipped, because anybody may send one: waiting goes on, and the reason is told when nothing better comes.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from appliance.aaa.verdict import Accepted, Answer, Rejected
from appliance.config.schema.model import Aaa

USER_NAME, PASSWORD, SERVICE_TYPE, FILTER_ID, REPLY_MESSAGE, CLASS = 1, 2, 6, 11, 18, 25
CALLING_STATION, NAS_IDENTIFIER, PORT_TYPE = 31, 32, 61
STATUS_TYPE, SESSION_ID, AUTHENTIC, SESSION_TIME = 40, 44, 45, 46
REQUEST, ACCEPT, REJECT, ACCOUNTED, CHALLENGE = 1, 2, 3, 5, 11
NAS_PROMPT: Final = 7  # Service-Type: a command line
VIRTUAL: Final = 5  # NAS-Port-Type
MAX_NAME: Final = 253  # bytes of an attribute
MAX_PASSWORD: Final = 128


class Asker(NamedTuple):
    """Who asks, as the server sees it."""

    hostname: str
    address: str  # where the user is


class Request(NamedTuple):
    """A packet to send, and pyrad's object that knows the answer to it."""

    data: bytes
    packet: Any


class ForgedError(Exception):
    """A datagram that is not the server's answer, and why."""


def load() -> None:
    """Import what encodes packets; in a thread, because it reads files."""
    import pyrad.dictionary
    import pyrad.packet  # noqa: F401


def login(user: str, password: str, secret: str, asker: Asker) -> Request:
    """An Access-Request with a password (PAP)."""
    from pyrad.packet import AccessRequest, AuthPacket  # only where a server is configured

    packet = AuthPacket(code=AccessRequest, secret=secret.encode(), dict=_dictionary())
    packet.authenticator = packet.CreateAuthenticator()
    packet[USER_NAME] = [user.encode()[:MAX_NAME]]
    packet[PASSWORD] = [packet.PwCrypt(password.encode()[:MAX_PASSWORD])]
    packet[SERVICE_TYPE] = [struct.pack("!I", NAS_PROMPT)]
    _origin(packet, asker)
    packet.add_message_authenticator()
    return Request(packet.RequestPacket(), packet)


def account(kind: int, user: str, session: str, *, seconds: int, secret: str, asker: Asker, remote: bool) -> Request:
    """An Accounting-Request: `kind` 1 begins a session, 2 ends it."""
    from pyrad.packet import AcctPacket

    packet = AcctPacket(secret=secret.encode(), dict=_dictionary())
    packet[STATUS_TYPE] = [struct.pack("!I", kind)]
    packet[USER_NAME] = [user.encode()[:MAX_NAME]]
    packet[SESSION_ID] = [session.encode()]
    packet[AUTHENTIC] = [struct.pack("!I", 1 if remote else 2)]
    if kind == 2:
        packet[SESSION_TIME] = [struct.pack("!I", min(seconds, 0xFFFFFFFF))]
    _origin(packet, asker)
    return Request(packet.RequestPacket(), packet)


def _origin(packet: Any, asker: Asker) -> None:
    packet[NAS_IDENTIFIER] = [asker.hostname.encode()[:MAX_NAME]]
    packet[CALLING_STATION] = [asker.address.encode()[:MAX_NAME]]
    packet[PORT_TYPE] = [struct.pack("!I", VIRTUAL)]


def _dictionary() -> Any:
    from pyrad.dictionary import Dictionary

    return Dictionary()  # empty: attributes go by number


def _reply(request: Request, data: bytes) -> Any:
    """The decoded answer. ForgedError: it is none."""
    from pyrad.packet import Packet, PacketError

    sent = request.packet
    try:
        reply = Packet(secret=sent.secret, packet=data, dict=sent.dict)
        if reply.id != sent.id:
            raise ForgedError("an answer to another request")
        good = sent.VerifyReply(reply, data, enforce_ma=False)
        if not good:
            raise ForgedError("an answer that is not made with our secret: another secret, or forged")
        if sent.code == REQUEST and not reply.message_authenticator:
            raise ForgedError("an answer without a Message-Authenticator, which could be forged: update the server")
    except (PacketError, struct.error, ValueError, IndexError, KeyError, TypeError) as error:
        raise ForgedError(f"a malformed answer ({error})"[:120]) from error
    return reply


def judge(request: Request, data: bytes, aaa: Aaa) -> Answer:
    """What the server says about a login. ForgedError: the datagram is not its answer."""
    reply = _reply(request, data)
    if reply.code == ACCEPT:
        return Accepted(tuple(_texts(reply, _attribute(aaa))))
    said = "".join(_texts(reply, REPLY_MESSAGE))
    if reply.code == REJECT:
        return Rejected(f"refused{f': {_clean(said)}' if said else ''}")
    if reply.code == CHALLENGE:
        return Rejected("asks for a second factor, which a login by password cannot give")
    raise ForgedError(f"an answer with code {reply.code}, which is none to a login")


def accounted(request: Request, data: bytes) -> None:
    """Whether the datagram confirms an Accounting-Request. ForgedError: it does not."""
    if (code := _reply(request, data).code) != ACCOUNTED:
        raise ForgedError(f"an answer with code {code}, which is none to accounting")


def _attribute(aaa: Aaa) -> int | tuple[int, int]:
    if aaa.role_attribute == "vendor":
        return aaa.vendor, aaa.vendor_attribute
    return FILTER_ID if aaa.role_attribute == "filter-id" else CLASS


def _texts(reply: Any, key: int | tuple[int, int]) -> list[str]:
    values = reply.get(key, [])
    return [value.decode("utf-8", "replace") for value in values if isinstance(value, bytes)]


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:80]
