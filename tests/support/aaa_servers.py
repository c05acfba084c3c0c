# SPDX-License-Identifier: GPL-2.0-only
"""A RADIUS server (pyrad) and a TACACS+ server (packets by scapy) on threads, which can also misbehave.

Users are name -> (password, what gives the role). `mood` says how a server behaves; what it was told is kept.
"""

from __future__ import annotations

import hmac
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pyrad.dictionary import Dictionary
from pyrad.packet import AcctPacket, AuthPacket, Packet
from scapy.contrib import tacacs as wire

SECRET = "a secret of many words"
Make = Callable[[socket.SocketKind], socket.socket]


def local(kind: socket.SocketKind) -> socket.socket:
    """A socket on this machine, at a free port."""
    made = socket.socket(socket.AF_INET, kind)
    made.bind(("127.0.0.1", 0))
    return made


def authentic(data: bytes, secret: str) -> bool:
    """Whether an Access-Request has a right Message-Authenticator, computed here by RFC 2869 5.14."""
    place = 20
    while place + 2 <= len(data):
        if data[place] == 80:
            zeroed = data[: place + 2] + bytes(16) + data[place + 18 :]
            return hmac.digest(secret.encode(), zeroed, "md5") == data[place + 2 : place + 18]
        place += max(data[place + 1], 2)
    return False


@dataclass
class RadiusServer:
    """See the module.

    Moods: good, silent, unsigned (no Message-Authenticator), forged (another secret), other (another request's number),
    replay (the first answer again, with the right number), broken (no RADIUS), noisy (broken ones, then the good one),
    challenge.
    """

    users: dict[str, tuple[str, str]] = field(default_factory=dict)
    mood: str = "good"
    secret: str = SECRET
    attribute: int | tuple[int, int] = 11
    asked: list[Any] = field(default_factory=list)
    reports: list[dict[int, bytes]] = field(default_factory=list)
    first: bytes = b""
    refused: int = 0  # requests without a right Message-Authenticator
    port: int = 0

    def answer(self, data: bytes) -> list[bytes]:
        """The datagrams that answer a request."""
        if data[0] == 4:
            got = AcctPacket(secret=self.secret.encode(), packet=data, dict=Dictionary())
            if not got.VerifyAcctRequest():
                return []
            self.reports.append({key: values[0] for key, values in got.items() if isinstance(key, int)})
            return [got.CreateReply().ReplyPacket()]
        if not authentic(data, self.secret):
            self.refused += 1
            return []
        got = AuthPacket(secret=self.secret.encode(), packet=data, dict=Dictionary())
        self.asked.append(got)
        if self.mood == "silent":
            return []
        name, password = got[1][0].decode(), got.PwDecrypt(got[2][0])
        known = self.users.get(name)
        good = known is not None and known[0] == password
        extra = {"message_authenticator": False} if self.mood == "unsigned" else {}
        reply = got.CreateReply(**extra)
        reply.code = 11 if self.mood == "challenge" else 2 if good else 3
        if good and known and known[1]:
            reply[self.attribute] = [known[1].encode()]
        elif not good:
            reply[18] = [b"no entry\x07"]
        if self.mood == "forged":
            reply.secret = b"another secret"
        if self.mood == "other":
            reply.id = (reply.id + 1) % 256
        sent = bytes(reply.ReplyPacket())
        self.first = self.first or sent
        if self.mood == "replay":
            sent = self.first[:1] + sent[1:2] + self.first[2:]
        broken = [b"", b"\x02", struct.pack("!BBH", 2, got.id, 4000) + bytes(30), sent[:-1], bytes(200)]
        return {"broken": broken, "noisy": [*broken, sent]}.get(self.mood, [sent])

    def serve(self, link: socket.socket, ends: threading.Event) -> None:
        """Answer until it ends."""
        while not ends.is_set():
            try:
                data, who = link.recvfrom(4096)
            except TimeoutError:
                continue
            for reply in self.answer(data):
                link.sendto(reply, who)


@dataclass
class TacacsServer:
    """See the module. Moods: good, silent, plain (unencrypted), closes, long, other, cut, restart, error."""

    users: dict[str, tuple[str, str]] = field(default_factory=dict)
    mood: str = "good"
    secret: str = SECRET
    asked: list[str] = field(default_factory=list)
    reports: list[tuple[int, str, list[str]]] = field(default_factory=list)
    port: int = 0

    def serve(self, listener: socket.socket, ends: threading.Event) -> None:
        """Take one connection after another until it ends."""
        listener.listen(8)
        while not ends.is_set():
            try:
                link, _ = listener.accept()
            except TimeoutError:
                continue
            with link:
                link.settimeout(5)
                try:
                    self._session(link, ends)
                except (OSError, EOFError):
                    continue

    def _session(self, link: socket.socket, ends: threading.Event) -> None:
        name = ""
        while True:
            version, kind, number, _, session, size = struct.unpack("!BBBBII", _exactly(link, 12))
            body = wire.obfuscate(_exactly(link, size), self.secret, session, version, number)
            if self.mood == "silent":
                ends.wait(5)
                return
            if self.mood == "closes":
                return
            last, reply, name = self._reply(kind, number, body, name)
            data = bytes(reply)
            if self.mood == "cut":
                data = data[:-1]
            flags = 1 if self.mood == "plain" else 0
            hidden = data if flags else wire.obfuscate(data, self.secret, session, version, number + 1)
            length = 1 << 24 if self.mood == "long" else len(hidden)
            session += self.mood == "other"
            link.sendall(struct.pack("!BBBBII", version, kind, number + 1, flags, session, length) + hidden)
            if last:
                return

    def _reply(self, kind: int, number: int, body: bytes, name: str) -> tuple[bool, Any, str]:
        if kind == 1:
            return self._login(number, body, name)
        if kind == 2:
            got = wire.TacacsAuthorizationRequest(body)
            name = got.user.decode("utf-8", "replace")
            self.asked.append(f"authorize {name} from {got.rem_addr.decode('utf-8', 'replace')}")
            told = [each for each in self.users.get(name, ("", ""))[1].split(" ") if each]
            made = wire.TacacsAuthorizationReply(status=1, arg_cnt=len(told), arg_len_list=[len(each) for each in told])
            return True, bytes(made) + "".join(told).encode(), name
        got = wire.TacacsAccountingRequest(body)
        words, place = [], len(body) - sum(got.arg_len_list)
        for size in got.arg_len_list:
            words.append(body[place : place + size].decode())
            place += size
        self.reports.append((got.flags, got.user.decode("utf-8", "replace"), words))
        return True, wire.TacacsAccountingReply(status=1), name

    def _login(self, number: int, body: bytes, name: str) -> tuple[bool, Any, str]:
        if self.mood in ("restart", "error"):
            return True, wire.TacacsAuthenticationReply(status=6 if self.mood == "restart" else 7), name
        if number == 1:
            got = wire.TacacsAuthenticationStart(body)
            name = got.user.decode("utf-8", "replace")
            self.asked.append(f"login {name} from {got.rem_addr.decode('utf-8', 'replace')}")
            if got.authen_type == 1:
                return False, wire.TacacsAuthenticationReply(status=5, server_msg="Password: "), name
            password = got.data.decode("utf-8", "replace")
        else:
            password = wire.TacacsAuthenticationContinue(body).user_msg.decode("utf-8", "replace")
        known = self.users.get(name)
        good = known is not None and known[0] == password
        return True, wire.TacacsAuthenticationReply(status=1 if good else 2), name


def _exactly(link: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = link.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


@contextmanager
def running(*servers: RadiusServer | TacacsServer, make: Make = local) -> Iterator[None]:
    """Serve on threads in this block; each server's `port` is set."""
    ends = threading.Event()
    threads, links = [], []
    for server in servers:
        link = make(socket.SOCK_DGRAM if isinstance(server, RadiusServer) else socket.SOCK_STREAM)
        link.settimeout(0.1)
        server.port = link.getsockname()[1]
        links.append(link)
        threads.append(threading.Thread(target=server.serve, args=(link, ends)))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ends.set()
        for thread in threads:
            thread.join()
        for link in links:
            link.close()


__all__ = ["SECRET", "Packet", "RadiusServer", "TacacsServer", "local", "running"]
