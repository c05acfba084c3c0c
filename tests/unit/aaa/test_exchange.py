# SPDX-License-Identifier: GPL-2.0-only
"""RADIUS and TACACS+ with servers of other makers' code: what lets a user in, and everything that must not."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, cast

import pytest

from appliance.aaa import tacacs
from appliance.aaa.exchange import Exchange
from appliance.aaa.tacacs import Where
from appliance.aaa.verdict import Accepted, NoAnswer, Rejected
from appliance.config.schema.model import Aaa, Radius, Tacacs
from appliance.system.namespace import Namespace
from appliance.units import Duration
from tests.support.aaa_servers import SECRET, RadiusServer, TacacsServer, running

HERE = Where("ssh", "192.0.2.99")
FILTER_ID = Aaa()
PATIENCE = Duration(20 * 10**9)  # for answers that come, on a busy machine too
SHORT = Duration(10**9)  # for answers that never do
USERS = {"ann": ("correct horse", "admin"), "bob": ("battery", "")}
LEVELS = {"ann": ("correct horse", "priv-lvl=15"), "bob": ("battery", "priv-lvl=1 acl=3")}


class Here:
    """Stands for the management port's namespace: sockets of this one."""

    @staticmethod
    def client(family: int, kind: int) -> socket.socket:
        made = socket.socket(family, kind)
        made.setblocking(False)
        return made


EXCHANGE = Exchange(cast(Namespace, Here()), lambda: "wire1")


def radius(server: RadiusServer, **more: Any) -> Radius:
    wish: dict[str, Any] = {"name": "r", "address": "127.0.0.1", "secret": SECRET, "port": server.port, "tries": 1}
    return Radius(**(wish | {"accounting_port": server.port, "timeout": PATIENCE} | more))


def tacacs_server(server: TacacsServer, **more: Any) -> Tacacs:
    wish: dict[str, Any] = {"name": "t", "address": "127.0.0.1", "secret": SECRET, "port": server.port}
    return Tacacs(**(wish | {"timeout": PATIENCE} | more))


def login(server: RadiusServer, user: str, password: str, aaa: Aaa = FILTER_ID, **more: Any) -> object:
    async def go() -> object:
        return await EXCHANGE.radius_login(radius(server, **more), aaa, user, password, HERE)

    return asyncio.run(go())


def enter(server: TacacsServer, user: str, password: str, **more: Any) -> object:
    async def go() -> object:
        return await EXCHANGE.tacacs_login(tacacs_server(server, **more), user, password, HERE)

    return asyncio.run(go())


# -- RADIUS


def test_radius_lets_in_with_the_right_password_alone() -> None:
    """The role's attribute comes along; the server sees who asks, from where, and a right Message-Authenticator."""
    server = RadiusServer(USERS)
    with running(server):
        assert login(server, "ann", "correct horse") == Accepted(("admin",))
        assert login(server, "bob", "battery") == Accepted(())
        assert login(server, "ann", "wrong") == Rejected("refused: no entry ")
        assert login(server, "eve", "x" * 128) == Rejected("refused: no entry ")
    assert server.refused == 0
    request = server.asked[0]
    assert next(iter(request)) == 80, "the Message-Authenticator comes first"
    assert (request[32], request[31]) == ([b"wire1"], [b"192.0.2.99"])
    assert request[2][0] != b"correct horse"


@pytest.mark.parametrize(
    ("aaa", "attribute", "value"),
    [
        (Aaa(role_attribute="class"), 25, "admin"),
        (Aaa(role_attribute="vendor"), (9, 1), "shell:priv-lvl=15"),
        (Aaa(role_attribute="vendor", vendor=4711, vendor_attribute=7), (4711, 7), "root"),
    ],
)
def test_radius_reads_the_attribute_that_is_asked_for(aaa: Aaa, attribute: Any, value: str) -> None:
    server = RadiusServer({"ann": ("pw", value)}, attribute=attribute)
    with running(server):
        assert login(server, "ann", "pw", aaa) == Accepted((value,))
        assert login(server, "ann", "pw", Aaa()) == Accepted(()), "another attribute gives nothing"


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("silent", "no answer within 1s"),
        ("unsigned", "without a Message-Authenticator"),
        ("forged", "not made with our secret"),
        ("other", "an answer to another request"),
        ("broken", "malformed"),
    ],
)
def test_radius_answers_that_are_none(mood: str, said: str) -> None:
    """A right password with such an answer lets nobody in, and the reason is told. CVE-2024-3596 is `unsigned`."""
    server = RadiusServer(USERS, mood=mood)
    with running(server):
        found = login(server, "ann", "correct horse", timeout=SHORT)
    assert isinstance(found, NoAnswer)
    assert said in found.why


def test_radius_answers_of_before_are_none() -> None:
    """An acceptance that was recorded lets nobody in later, under the number of the new request too."""
    server = RadiusServer(USERS)
    with running(server):
        assert login(server, "ann", "correct horse") == Accepted(("admin",))
        server.mood = "replay"
        found = login(server, "ann", "wrong", timeout=SHORT)
    assert isinstance(found, NoAnswer)
    assert "not made with our secret" in found.why


def test_radius_waits_on_behind_noise() -> None:
    """Datagrams that are no answers end nothing: the good one after them counts."""
    server = RadiusServer(USERS, mood="noisy")
    with running(server):
        assert login(server, "ann", "correct horse") == Accepted(("admin",))


def test_radius_with_another_secret_or_port() -> None:
    server = RadiusServer(USERS, secret="the server has another one")
    with running(server):
        found = login(server, "ann", "correct horse", timeout=SHORT)
        assert isinstance(found, NoAnswer)
        assert server.refused == 1, "the Message-Authenticator shows it before the password is looked at"
    gone = login(server, "ann", "correct horse")
    assert gone == NoAnswer("nothing listens there")


def test_radius_sends_the_same_packet_again() -> None:
    server = RadiusServer(USERS, mood="silent")
    with running(server):
        began = time.monotonic()
        assert isinstance(login(server, "ann", "correct horse", tries=3, timeout=SHORT), NoAnswer)
        assert time.monotonic() - began > 2.9
    assert [request.raw_packet for request in server.asked] == [server.asked[0].raw_packet] * 3


def test_radius_challenge_is_a_refusal() -> None:
    server = RadiusServer(USERS, mood="challenge")
    with running(server):
        found = login(server, "ann", "correct horse")
    assert isinstance(found, Rejected)
    assert "second factor" in found.why


def test_radius_replies_from_elsewhere_are_not_heard() -> None:
    """A right answer that comes from another port is never read."""
    server, stranger = RadiusServer(USERS), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    class Elsewhere(RadiusServer):
        def serve(self, link: socket.socket, ends: Any) -> None:
            while not ends.is_set():
                try:
                    data, who = link.recvfrom(4096)
                except TimeoutError:
                    continue
                for reply in self.answer(data):
                    stranger.sendto(reply, who)

    server = Elsewhere(USERS)
    with stranger, running(server):
        found = login(server, "ann", "correct horse", timeout=SHORT)
    assert server.asked
    assert found == NoAnswer("no answer within 1s")


def test_radius_accounting() -> None:
    server = RadiusServer()

    async def go(kind: int) -> str:
        return await EXCHANGE.radius_account(radius(server), kind, "ann", HERE, session="7-9", seconds=61, remote=True)

    with running(server):
        assert asyncio.run(go(1)) == ""
        assert asyncio.run(go(2)) == ""
    begin, end = server.reports
    assert (begin[40], end[40], end[46]) == (struct.pack("!I", 1), struct.pack("!I", 2), struct.pack("!I", 61))
    assert (end[1], end[44], 46 in begin) == (b"ann", b"7-9", False)


# -- TACACS+


@pytest.mark.parametrize("kind", ["ascii", "pap"])
def test_tacacs_lets_in_with_the_right_password_alone(kind: str) -> None:
    server = TacacsServer(LEVELS)
    with running(server):
        assert enter(server, "ann", "correct horse", login=kind) == Accepted((), 15)
        assert enter(server, "ann", "wrong", login=kind) == Rejected("refused")
        assert enter(server, "eve", "", login=kind) == Rejected("refused")
        limited = enter(server, "bob", "battery", login=kind)
    assert limited == Rejected("refused, as this is mandatory and not known here: acl=3")
    assert server.asked[:2] == ["login ann from 192.0.2.99", "authorize ann from 192.0.2.99"]


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        ("silent", "no answer within 1s"),
        ("plain", "answers unencrypted"),
        ("closes", "closes the connection"),
        ("long", "announces 16777216 bytes"),
        ("other", "answers another request"),
        ("cut", "does not fit its lengths"),
        ("restart", "wants another kind of login"),
        ("error", "reports an error"),
    ],
)
def test_tacacs_answers_that_are_none(mood: str, said: str) -> None:
    server = TacacsServer(LEVELS, mood=mood)
    with running(server):
        found = enter(server, "ann", "correct horse", timeout=SHORT)
    assert isinstance(found, NoAnswer)
    assert said in found.why


def test_tacacs_with_another_secret_lets_nobody_in() -> None:
    """Whatever the pad makes of the answers; nothing raises."""
    for number in range(20):
        server = TacacsServer(LEVELS, secret=f"another secret {number}")
        with running(server):
            found = enter(server, "ann", "correct horse", timeout=Duration(100_000_000))
        assert isinstance(found, NoAnswer | Rejected), found


def test_tacacs_without_a_server() -> None:
    assert enter(TacacsServer(port=1), "ann", "x") == NoAnswer("nothing listens there")


def test_tacacs_accounting() -> None:
    server = TacacsServer()

    async def go() -> str:
        return await EXCHANGE.tacacs_account(tacacs_server(server), tacacs.STOP, "ann", HERE, ["task_id=7", "cmd=x"])

    with running(server):
        assert asyncio.run(go()) == ""
    assert server.reports == [(tacacs.STOP, "ann", ["task_id=7", "cmd=x"])]


@pytest.mark.parametrize("read", [tacacs.authentication, tacacs.authorization, tacacs.accounted])
def test_tacacs_bodies_of_any_bytes(read: Callable[[bytes], object]) -> None:
    """No body raises anything but that it is broken; no short or garbled one accepts."""
    for length in range(12):
        for first in range(256):
            body = bytes((first, 255 - first)) * length
            try:
                found = read(body[:length])
            except tacacs.BrokenError:
                continue
            assert found is not True or length >= 5
