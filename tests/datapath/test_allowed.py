# SPDX-License-Identifier: GPL-2.0-only
"""Who may reach the services of the management port, with a real kernel and frames by hand."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulator import netns

from appliance.config.schema.model import Management
from appliance.filter import libpcap
from appliance.hardware import board
from appliance.management import allowed
from appliance.management.network import Seen
from appliance.management.port import ManagementPort
from appliance.system.namespace import Namespace
from appliance.system.service import Program
from appliance.tunnel import guard

PORT = "mgmt0"
NETWORKS = ("10.88.0.0/28", "fd00:88::/112")
_counter = itertools.count()


class Net:
    """The port at 10.88.0.2 and a host with an address that is allowed (.1) and one that is not (.99)."""

    def __init__(self, folder: Path) -> None:
        key = f"tw{os.getpid()}w{next(_counter)}"
        self.space, self.host = Namespace(f"{key}a"), f"{key}h"
        for name in (self.space.name, self.host):
            netns.create(name)
        self.ip(self.space.name, "link", "add", PORT, "type", "veth", "peer", "name", "eth0", "netns", self.host)
        for name, device, addresses in (
            (self.space.name, PORT, ("10.88.0.2/24", "fd00:88::2/64")),
            (self.host, "eth0", ("10.88.0.1/24", "10.88.0.99/24", "fd00:88::1/64", "fd00:88::99:1/64")),
        ):
            for address in addresses:
                self.ip(name, "address", "add", address, "dev", device, *(["nodad"] if ":" in address else []))
            self.ip(name, "link", "set", device, "up")
        ports = [board.Port(name=PORT, mac="02:ff:ff:ff:ff:01", role="management")]
        self.port = ManagementPort(ports, self.space, Program("dhcp", folder, folder / "log"), folder / "lease")
        self.port.seen = Seen(there=True)

    def ip(self, name: str, *words: str) -> None:
        netns.run("ip", "-n", name, *words)

    def let(self, *networks: str) -> None:
        asyncio.run(self.port.allow(Management(address="10.88.0.2/24", allow=networks), [22, 9469], [161]))

    def reaches(self, source: str, port: int = 22) -> bool:
        """Whether a connection from this address opens."""
        family = socket.AF_INET6 if ":" in source else socket.AF_INET
        target = "fd00:88::2" if ":" in source else "10.88.0.2"

        def listen() -> socket.socket:
            return socket.create_server((target, port), family=family)

        def connect() -> bool:
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.settimeout(1.5)
                sock.bind((source, 0))
                try:
                    sock.connect((target, port))
                except TimeoutError:
                    return False
                return True

        with netns.enter(self.space.name, listen):
            return netns.enter(self.host, connect)

    def close(self) -> None:
        for name in (self.space.name, self.host):
            netns.delete(name)


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    made = Net(tmp_path)
    yield made
    made.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_who_reaches_the_services(net: Net) -> None:
    net.let()
    assert net.reaches("10.88.0.99")
    net.let(*NETWORKS)
    assert [net.reaches(source) for source in ("10.88.0.1", "10.88.0.99")] == [True, False]
    assert [net.reaches(source) for source in ("fd00:88::1", "fd00:88::99:1")] == [True, False]
    assert net.reaches("10.88.0.99", 5001), "other ports are not its business"
    net.let("10.88.0.99")
    assert [net.reaches(source) for source in ("10.88.0.1", "10.88.0.99", "fd00:88::1")] == [False, True, False]
    net.let()
    assert net.reaches("10.88.0.1")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_next_filter_sees_what_is_let_in(net: Net) -> None:
    """That of tunnels is behind it at the same port (tunnel/guard.py)."""
    net.let(*NETWORKS)
    assert net.reaches("10.88.0.1")
    next_one = f"dev {PORT} ingress protocol all pref {guard.PREFERENCE} bpf direct-action bytecode"
    netns.run("tc", "-n", net.space.name, "filter", "add", *next_one.split(), "1,6 0 0 2")  # drops everything
    assert not net.reaches("10.88.0.1")


def frame(source: str, port: int, *, header: int = 6) -> bytes:
    """The beginning of a segment to a port: of TCP, if no other header is given."""
    segment = port.to_bytes(2, "big") * 2 + bytes(16)
    if ":" in source:
        sent, to = (socket.inet_pton(socket.AF_INET6, address) for address in (source, "fd00:88::2"))
        return bytes(12) + b"\x86\xdd" + b"\x60\0\0\0\0\x14" + bytes((header, 64)) + sent + to + segment
    ends = socket.inet_aton(source) + socket.inet_aton("10.88.0.2")
    return bytes(12) + b"\x08\0" + b"\x45\0\0\x28\0\0\0\0\x40" + bytes((header, 0, 0)) + ends + segment


def test_frames_that_are_dropped() -> None:
    """A port behind an extension header cannot be seen: such frames of others are dropped whatever they carry."""
    program = libpcap.make_program(libpcap.compile_text(allowed.expression(NETWORKS, [22, 9469], [161])))

    def dropped(data: bytes) -> bool:
        return bool(libpcap.run(program, data))

    assert [dropped(frame("10.88.0.99", port)) for port in (22, 9469, 23)] == [True, True, False]
    assert [dropped(frame("10.88.0.3", port)) for port in (22, 9469, 23)] == [False, False, False]
    assert [dropped(frame("fd00:99::1", 22, header=header)) for header in (6, 0, 44, 60)] == [True] * 4
    assert [dropped(frame("fd00:99::1", 23, header=header)) for header in (6, 17, 58)] == [False] * 3
    assert [dropped(frame("fd00:88::7", 22, header=header)) for header in (6, 0, 44)] == [False] * 3
    for source, allowed_one in (("10.88.0.99", "10.88.0.3"), ("fd00:99::1", "fd00:88::7")):
        assert dropped(frame(source, 161, header=17))
        assert not dropped(frame(source, 161)), "TCP is not that service"
        assert not dropped(frame(source, 22, header=17))
        assert not dropped(frame(allowed_one, 161, header=17))
