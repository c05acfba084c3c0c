# SPDX-License-Identifier: GPL-2.0-only
"""The one place for netlink: message headers and attributes, link messages of rtnetlink, requests to generic netlink.

Written by hand because these are a few structures, and pyroute2 takes seconds to load on a slow board. Whoever opens a
socket owns it. Sources: linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/genetlink.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

from appliance.system.netdev import IFF_LOWER_UP, IFF_UP

ROUTE, GENERIC = 0, 16  # NETLINK_ROUTE, NETLINK_GENERIC
RTM_NEWLINK, RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_GETSTATS, _STATS_LINK_64 = 94, 1  # IFLA_STATS_LINK_64
_ERROR = 2  # NLMSG_ERROR
_REQUEST, _DUMP = 0x1, 0x300  # NLM_F_
_RTMGRP_LINK = 1
_IFLA_IFNAME = 3
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_GENERIC_HEADER = struct.Struct("=BBH")  # command, version
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_IFINFO = struct.Struct("=BxHiII")  # family, device type, index, flags, change
_STATS = struct.Struct("=BxxxII")  # family, index, bit set of what is asked for
_LINK_64 = struct.Struct("=8Q")  # packets, bytes, errors, dropped; received and sent of each


class LinkMessage(NamedTuple):
    """One rtnetlink message about a link."""

    kind: int  # RTM_NEWLINK or RTM_DELLINK
    ifindex: int
    ifname: str
    up: bool  # administratively
    link: bool  # carrier


class LinkCounters(NamedTuple):
    """What a device has counted."""

    rx_packets: int
    tx_packets: int
    rx_dropped: int
    tx_dropped: int


def open_socket(family: int, groups: int = 0) -> socket.socket:
    """A netlink socket of this family, member of these multicast groups. OSError: the kernel has none."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
    try:
        opened.bind((0, groups))
    except OSError:
        opened.close()
        raise
    return opened


def watch_links() -> socket.socket:
    """A non-blocking socket that gets a message for every change of a link; read it with `parse_links`."""
    opened = open_socket(ROUTE, _RTMGRP_LINK)
    opened.setblocking(False)
    return opened


def ask_links(opened: socket.socket) -> None:
    """Have the kernel send the state of all links; the answers come like any other message."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    opened.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETLINK, _REQUEST | _DUMP, 1, 0) + body)


def link_counters(opened: socket.socket, ifindex: int) -> LinkCounters:
    """What a device has counted. OSError is the kernel's: there is no such device."""
    body = _STATS.pack(socket.AF_UNSPEC, ifindex, 1 << _STATS_LINK_64 - 1)
    opened.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETSTATS, _REQUEST, 1, 0) + body)
    answer = opened.recv(1 << 12)
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind == _ERROR:
        code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        raise OSError(code, os.strerror(code))
    found = dict(attributes(answer[_HEADER.size + _STATS.size :])).get(_STATS_LINK_64, b"")
    if len(found) < _LINK_64.size:
        raise OSError(f"netlink: no counters of device {ifindex}")
    values = _LINK_64.unpack_from(found)
    return LinkCounters(values[0], values[1], values[6], values[7])


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each attribute; ends at one that is cut off."""
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if size < _ATTRIBUTE.size or size > len(data):
            return
        yield kind & 0x3FFF, data[_ATTRIBUTE.size : size]
        data = data[(size + 3) & ~3 :]


def parse_links(data: bytes) -> Iterator[LinkMessage]:
    """The link messages in one datagram of rtnetlink. Other messages, and cut off ones, are left out."""
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        if length < _HEADER.size or length > len(data):
            return
        body, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
        if kind not in (RTM_NEWLINK, RTM_DELLINK) or len(body) < _IFINFO.size:
            continue
        _, _, index, flags, _ = _IFINFO.unpack_from(body)
        name = dict(attributes(body[_IFINFO.size :])).get(_IFLA_IFNAME, b"")
        text = name.rstrip(b"\0").decode("ascii", "replace")
        yield LinkMessage(kind, index, text, bool(flags & IFF_UP), bool(flags & IFF_LOWER_UP))


def generic_family(opened: socket.socket, name: str) -> int:
    """The number of a generic netlink family. OSError: the kernel does not have it."""
    wanted = attribute(_CTRL_ATTR_FAMILY_NAME, name.encode() + b"\0")
    found = generic_request(opened, _GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, wanted)
    if _CTRL_ATTR_FAMILY_ID not in found:
        raise OSError(f"netlink family {name}: no number")
    return int(struct.unpack("=H", found[_CTRL_ATTR_FAMILY_ID])[0])


def generic_request(opened: socket.socket, family: int, command: int, body: bytes) -> dict[int, bytes]:
    """Ask, and return the attributes of the answer. OSError is the kernel's, or a time-out of the socket."""
    body = _GENERIC_HEADER.pack(command, 1, 0) + body
    opened.send(_HEADER.pack(_HEADER.size + len(body), family, _REQUEST, 1, 0) + body)
    answer = opened.recv(1 << 16)
    if len(answer) < _HEADER.size + 4:
        raise OSError("netlink: the answer is cut off")
    _, kind, _, _, _ = _HEADER.unpack_from(answer)
    if kind == _ERROR:
        code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        raise OSError(code, os.strerror(code))
    return dict(attributes(answer[_HEADER.size + _GENERIC_HEADER.size :]))
