# SPDX-License-Identifier: GPL-2.0-only
"""The filter in the kernel that stands before the heartbeats' socket, on a pair of local datagram sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from appliance.health import packet_socket
from appliance.health.inband import ETHERTYPE, Direction, Lane, key_of, make_nonce
from appliance.health.inband_routed import IPV4, IPV6, Route
from appliance.system import packet

KEY = 0x12345678
OTHER = bytes.fromhex("020000000001020000000002")
V4 = Route(bytes(6), ip_address("198.18.0.1"), ip_address("198.18.0.2"), 9)
V6 = Route(bytes(6), ip_address("2001:2::1"), ip_address("2001:2::2"), 9)

Passes = Callable[[int, bytes], bool]


@pytest.fixture
def passes() -> Iterator[Passes]:
    pairs: list[socket.socket] = []

    def one(ethertype: int, frame: bytes) -> bool:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        pairs.extend((ours, theirs))
        ours.setblocking(False)
        packet.attach(ours, packet_socket.code(ethertype, key_of(make_nonce(KEY))))
        theirs.send(frame)
        try:
            return bool(ours.recv(256))
        except BlockingIOError:
            return False

    yield one
    for opened in pairs:
        opened.close()


def lane(key: int, route: Route | None = None, template: bytes = b"") -> bytes:
    return Lane(3, Direction.LAN_TO_WAN, make_nonce(key), template, route=route).send(1)


def routed(key: int, route: Route) -> bytes:
    """As it comes out of a router: other addresses."""
    return OTHER + lane(key, route)[12:]


def test_what_holds_the_key_passes(passes: Passes) -> None:
    assert passes(ETHERTYPE, lane(KEY))
    assert passes(0x0806, lane(KEY, template=bytes(12) + b"\x08\x06" + bytes(46)))
    assert passes(IPV4, routed(KEY, V4))
    options = routed(KEY, V4)
    assert passes(IPV4, options[:14] + b"\x46" + options[15:34] + b"\x94\x04\0\0" + options[34:])
    assert passes(IPV6, routed(KEY, V6))


def test_nothing_else_does(passes: Passes) -> None:
    """Our EtherType and magic are known to anybody; the key is not."""
    assert not passes(ETHERTYPE, lane(KEY ^ 1))
    assert not passes(IPV4, routed(KEY ^ 1, V4))
    assert not passes(IPV6, routed(KEY ^ 1, V6))
    assert not passes(IPV4, routed(KEY, V4)[:50])
    assert not passes(IPV6, routed(KEY, V4))
    assert not passes(ETHERTYPE, OTHER)
