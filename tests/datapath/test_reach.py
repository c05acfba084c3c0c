# SPDX-License-Identifier: GPL-2.0-only
"""`ping`, `traceroute`, `dns` and `tcp` from a namespace, over a router, with the programs of the image (busybox)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest
from simulator import netns

from appliance.errors import RefusedError, UnreachableError
from appliance.management.reach import Reach, addresses, name_in, reply, trouble
from appliance.system.namespace import Namespace

T = TypeVar("T")
_counter = itertools.count()
root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Net:
    """appliance (10.88.0.2) - router - host (10.99.0.2); the port of the appliance is in its namespace."""

    def __init__(self) -> None:
        key = f"tw{os.getpid()}r{next(_counter)}"
        self.space, self.router, self.host = Namespace(f"{key}a"), f"{key}r", f"{key}h"
        for name in (self.space.name, self.router, self.host):
            netns.create(name)
            self.ip(name, "link", "set", "lo", "up")
        self.join(self.space.name, ("10.88.0.2/24", "fd00:88::2/64"), self.router, ("10.88.0.1/24", "fd00:88::1/64"))
        self.join(self.router, ("10.99.0.1/24", "fd00:99::1/64"), self.host, ("10.99.0.2/24", "fd00:99::2/64"))
        for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            netns.run("ip", "netns", "exec", self.router, "sh", "-c", f"echo 1 >/proc/sys/net/{name}")
        for name, via4, via6 in ((self.space.name, "10.88.0.1", "fd00:88::1"), (self.host, "10.99.0.1", "fd00:99::1")):
            self.ip(name, "route", "add", "default", "via", via4)
            self.ip(name, "route", "add", "default", "via", via6)

    def ip(self, name: str, *words: str) -> None:
        netns.run("ip", "-n", name, *words)

    def join(self, one: str, addresses: tuple[str, str], other: str, there: tuple[str, str]) -> None:
        a, b = f"e{next(_counter)}", f"e{next(_counter)}"
        self.ip(one, "link", "add", a, "type", "veth", "peer", "name", b, "netns", other)
        for name, device, each in ((one, a, addresses), (other, b, there)):
            for address in each:
                self.ip(name, "address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
            self.ip(name, "link", "set", device, "up")

    def close(self) -> None:
        for name in (self.space.name, self.router, self.host):
            netns.delete(name)


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    made = Net()
    yield made
    made.close()


def ask(net: Net, question: Callable[[Reach], Callable[[dict[str, Any]], Awaitable[T]]], **params: object) -> T:
    async def body() -> T:
        return await question(Reach(net.space))(params)

    return asyncio.run(body())


@root
@pytest.mark.parametrize("address", ["10.99.0.2", "fd00:99::2"])
def test_an_echo_and_its_absence(net: Net, address: str) -> None:
    there = ask(net, lambda reach: reach.ping, address=address, size=1000)
    assert there.ms is not None
    assert there.ttl == 63
    router = ask(net, lambda reach: reach.ping, address="192.0.2.77")
    assert (router.ms, router.ttl) == (None, None)
    assert router.detail


@root
@pytest.mark.parametrize(("address", "first"), [("10.99.0.2", "10.88.0.1"), ("fd00:99::2", "fd00:88::1")])
def test_each_hop_in_turn(net: Net, address: str, first: str) -> None:
    hops = [ask(net, lambda reach: reach.hop, address=address, hop=hop) for hop in (1, 2)]
    assert [(hop.address, hop.last) for hop in hops] == [(first, False), (address, True)]


@root
def test_a_connection_and_why_there_is_none(net: Net) -> None:
    def listen() -> socket.socket:
        return socket.create_server(("10.99.0.2", 0))

    with netns.enter(net.host, listen) as server:
        port = server.getsockname()[1]
        assert ask(net, lambda reach: reach.tcp, address="10.99.0.2", port=port).port == port
    with pytest.raises(UnreachableError, match=f"port {port}: connection refused"):
        ask(net, lambda reach: reach.tcp, address="10.99.0.2", port=port)


def _answer(question: bytes) -> bytes:
    """example.net has an address of either family; any other name does not exist."""
    end = question.index(b"\0", 12) + 5
    kind = struct.unpack(">H", question[end - 4 : end - 2])[0]
    known = b"\x07example\x03net" in question
    data = {1: socket.inet_aton("10.99.0.2"), 28: socket.inet_pton(socket.AF_INET6, "fd00:99::2")}.get(kind, b"")
    there = known and bool(data)
    head = question[:2] + (b"\x81\x80" if known else b"\x81\x83") + struct.pack(">HHHH", 1, int(there), 0, 0)
    record = b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 60, len(data)) + data
    return head + question[12:end] + (record if there else b"")


@root
def test_a_name_is_asked_through_the_port(net: Net) -> None:
    def listen() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("10.99.0.2", 53))
        return made

    server = netns.enter(net.host, listen)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                question, whom = server.recvfrom(512)
                if not question:
                    return
                server.sendto(_answer(question), whom)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        found = ask(net, lambda reach: reach.name, host="example.net", server="10.99.0.2")
        assert found.addresses == ["10.99.0.2", "fd00:99::2"]
        with pytest.raises(UnreachableError, match=r"nothing\.example: there is no such name"):
            ask(net, lambda reach: reach.name, host="nothing.example", server="10.99.0.2")
        with pytest.raises(UnreachableError, match=r"example\.net: 10\.99\.0\.1 does not answer as a name server"):
            ask(net, lambda reach: reach.name, host="example.net", server="10.99.0.1")
    finally:
        server.close()


@root
def test_without_a_management_port() -> None:
    with pytest.raises(UnreachableError, match="give it an address"):
        asyncio.run(Reach(Namespace("tw-nobody")).ping({"address": "10.99.0.2"}))


def test_what_may_stand_on_a_command_line() -> None:
    assert [name_in(text) for text in ("192.0.2.1", "2001:DB8::1", "ntp.example.net")] == [
        "192.0.2.1",
        "2001:db8::1",
        "ntp.example.net",
    ]
    for text in ("-f", "a b", "x;y", "", "256.1.1.1", "a" * 64):
        with pytest.raises(RefusedError, match="is not an address or a name"):
            name_in(text)


def test_texts_of_busybox() -> None:
    said = "Server:\t\t10.0.0.1\nAddress:\t10.0.0.1:53\n\nName:\tx.y\nAddress: 192.0.2.1\nAddress 2: 192.0.2.2\n"
    assert addresses(said) == ["192.0.2.1", "192.0.2.2"]
    assert addresses(";; connection timed out; no servers could be reached\n\n") == []
    assert reply("64 bytes from ::1: seq=0 ttl=64 time=0.047 ms") == (0.047, 64)
    assert trouble("PING 192.0.2.1 (192.0.2.1): 56 data bytes\nping: sendto: Network is unreachable\n") == (
        "Network is unreachable"
    )
    assert trouble("ping: bad address 'x'\n") == "bad address 'x'"
    assert subprocess.run(["busybox", "nslookup", "--help"], check=False, capture_output=True).returncode in (0, 1)
