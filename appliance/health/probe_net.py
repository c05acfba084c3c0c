# SPDX-License-Identifier: GPL-2.0-only
"""One request to one address: ping, ARP, TCP connect. Each is a coroutine that returns when the good answer arrives.

Any other answer raises OSError (the kernel or the target refuses) or lets the caller's timeout expire: the caller
(probe.py) limits the time of every request. Sockets live as long as one request. Replies to other requests are read and
discarded, a bounded number of them, so that a flood cannot block the event loop. Needs root or CAP_NET_RAW.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import os
import socket
import struct
from functools import partial
from typing import NamedTuple

from appliance.system import netdev, packet
from appliance.system.namespace import Namespace

_STRAY = 64
"""At most this many replies to other requests are read for one request."""
_ETH_P_ARP = 0x0806
_ECHO = {socket.AF_INET: (8, 0), socket.AF_INET6: (128, 129)}  # request, reply
_ECHO_PROTOCOL = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_SOL_RAW, _ICMP_FILTER, _ICMP6_FILTER, _IP_RECVERR = 255, 1, 1, 11

_sequences = itertools.count(int.from_bytes(os.urandom(2), "big"))


class Via(NamedTuple):
    """The path of a request: by this device only ("" = as the routes say), in this network namespace."""

    device: str = ""
    space: Namespace | None = None  # None: where bypassd is

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A non-blocking socket. OSError; UnreachableError: there is no such namespace."""
        make = partial(socket.socket, family, kind | socket.SOCK_NONBLOCK, protocol)
        sock = make() if self.space is None else self.space.inside(make)
        try:
            if self.device:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.device.encode() + b"\0")
        except OSError:
            sock.close()
            raise
        return sock


ANY = Via()


def where(address: str, port: int, via: Via) -> tuple[socket.AddressFamily, tuple[str | int, ...]]:
    """Family and socket address; an IPv6 link-local address gets the scope of the device in `via`."""
    ip = ipaddress.ip_address(address)
    if ip.version == 4:
        return socket.AF_INET, (address, port)
    scope = socket.if_nametoindex(via.device) if via.device and ip.is_link_local else 0
    return socket.AF_INET6, (address, port, 0, scope)


def _checksum(data: bytes) -> int:
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


async def ping(address: str, via: Via = ANY) -> None:
    """An ICMP or ICMPv6 echo request and its reply (RFC 792, RFC 4443). ICMP errors are raised as OSError."""
    family, target = where(address, 0, via)
    request, reply = _ECHO[family]
    number, mark = next(_sequences) & 0xFFFF, os.urandom(8)
    loop = asyncio.get_running_loop()
    with via.socket(family, socket.SOCK_RAW, _ECHO_PROTOCOL[family]) as sock:
        if family == socket.AF_INET:
            sock.setsockopt(_SOL_RAW, _ICMP_FILTER, struct.pack("=I", ~(1 << reply) & 0xFFFFFFFF))
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        else:
            allowed = bytearray(b"\xff" * 32)
            struct.pack_into("=I", allowed, reply // 32 * 4, 0xFFFFFFFF & ~(1 << reply % 32))
            sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(allowed))
        sock.connect(target)
        body = struct.pack(">HH", os.getpid() & 0xFFFF, number) + mark
        head = struct.pack(">BBH", request, 0, 0)
        if family == socket.AF_INET:  # the kernel computes that of ICMPv6
            head = struct.pack(">BBH", request, 0, _checksum(head + body))
        await loop.sock_sendall(sock, head + body)
        for _ in range(_STRAY):
            data = await loop.sock_recv(sock, 2048)
            icmp = data[(data[0] & 15) * 4 :] if family == socket.AF_INET else data
            if icmp[:1] == bytes((reply,)) and icmp[4:] == body:
                return
    raise OSError(f"{_STRAY} replies, none of them to this request")


def _own_address(device: str) -> bytes:
    """The device's IPv4 address; 0.0.0.0 (an ARP probe, RFC 5227) when it has none."""
    try:
        return netdev.address(device)
    except OSError:
        return bytes(4)


async def arp(address: str, device: str) -> None:
    """An ARP request on a device and its reply (RFC 826)."""
    wanted = ipaddress.IPv4Address(address).packed
    loop = asyncio.get_running_loop()
    with packet.closing(ANY.socket(socket.AF_PACKET, socket.SOCK_RAW)) as sock:
        sock.bind((device, _ETH_P_ARP))
        ours: bytes = sock.getsockname()[4]
        request = struct.pack(">HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, ours, _own_address(device), bytes(6), wanted)
        await loop.sock_sendall(sock, b"\xff" * 6 + ours + struct.pack(">H", _ETH_P_ARP) + request.ljust(46, b"\0"))
        for _ in range(_STRAY):
            data = await loop.sock_recv(sock, 256)
            if len(data) >= 42 and data[20:22] == b"\0\2" and data[28:32] == wanted:
                return
    raise OSError(f"{_STRAY} ARP frames, none of them the reply")


async def connect(address: str, port: int, via: Via = ANY) -> socket.socket:
    """A TCP connection; the caller closes it."""
    family, target = where(address, port, via)
    sock = via.socket(family, socket.SOCK_STREAM)
    try:
        await asyncio.get_running_loop().sock_connect(sock, target)
    except BaseException:
        sock.close()
        raise
    return sock


async def tcp(address: str, port: int, via: Via = ANY) -> None:
    """Open a TCP connection and close it at once."""
    (await connect(address, port, via)).close()
