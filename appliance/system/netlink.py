# SPDX-License-Identifier: GPL-2.0-only
"""The only module with netlink: message headers and attributes, link messages of rtnetlink, generic netlink requests.

Written by hand because these are a few structures, and pyroute2 takes seconds to load on a slow board. The caller owns
the sockets. Sources: linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/genetlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from appliance.system.netdev import IFF_LOWER_UP, IFF_UP

ROUTE, GENERIC = 0, 16  # NETLINK_ROUTE, NETLINK_GENERIC
RTM_NEWLINK, RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
_RTM_GETSTATS, _STATS_LINK_64 = 94, 1  # IFLA_STATS_LINK_64
_ERROR = 2  # NLMSG_ERROR
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300  # NLM_F_
_RTMGRP_LINK = 1
_IFLA_ADDRESS, _IFLA_MTU = 1, 4
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_STATS64, _IFLA_XDP = 3, 18, 23, 43
_IFLA_INFO_DATA = 2
_TUN_SEVERAL, _TUN_QUEUES, _TUN_DISABLED = 7, 8, 9  # IFLA_TUN_MULTI_QUEUE, _NUM_QUEUES, _NUM_DISABLED_QUEUES
_XDP_PROGRAMS = (5, 4, 6)  # IFLA_XDP_DRV_PROG_ID, _PROG_ID, _SKB_PROG_ID
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 16, 3, 1, 2
_RECEIVED = {"rx_errors": 4, "rx_dropped": 6, "rx_length_errors": 10, "rx_missed_errors": 15}  # rtnl_link_stats64
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_GENERIC_HEADER = struct.Struct("=BBH")  # command, version
_NUMBER = struct.Struct("=I")
_ATTRIBUTE = struct.Struct("=HH")  # length, type
_IFINFO = struct.Struct("=BxHiII")  # family, device type, index, flags, change
_STATS = struct.Struct("=8Q")  # packets in, out, bytes in, out, errors in, out, dropped in, out
_COUNTED = struct.Struct("=9Q")  # the same, and multicast in
_ANSWERS_S = 10.0  # timeout of a question about one link: a change of any link blocks the answers
_IFSTATS = struct.Struct("=BxxxII")  # family, index, bit set of what is asked for


class LinkMessage(NamedTuple):
    """One rtnetlink message about a link."""

    kind: int  # RTM_NEWLINK or RTM_DELLINK
    ifindex: int
    ifname: str
    up: bool  # administratively
    link: bool  # carrier
    flags: int = 0  # IFF_
    program: int = 0  # id of the attached XDP program, in any mode; 0: none
    sent: int = 0  # packets, as counted by the driver
    dropped: int = 0  # on the way out


class LinkCounters(NamedTuple):
    """A device's counters."""

    rx_packets: int
    tx_packets: int
    rx_dropped: int
    tx_dropped: int


class Interface(NamedTuple):
    """A device with what network management asks for. Counters are the kernel's, since the device exists."""

    mac: bytes
    mtu: int
    flags: int  # IFF_
    rx_packets: int
    tx_packets: int
    rx_bytes: int
    tx_bytes: int
    rx_errors: int
    tx_errors: int
    rx_dropped: int
    tx_dropped: int
    multicast: int  # received
    speed: int | None = None  # Mbit/s; of another question, which netlink does not answer for all drivers

    @property
    def up(self) -> bool:
        """Administratively."""
        return bool(self.flags & IFF_UP)

    @property
    def link(self) -> bool:
        """Whether it has a carrier."""
        return bool(self.flags & IFF_LOWER_UP)


class TapQueues(NamedTuple):
    """The queues of a tap that may have several: those that its reader uses, and those that it has open beside them."""

    used: int
    disabled: int


def open_socket(family: int, groups: int = 0) -> socket.socket:
    """A netlink socket of this family, member of these multicast groups. OSError: not supported by the kernel."""
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
    try:
        opened.bind((0, groups))
    except OSError:
        opened.close()
        raise
    return opened


def watch_links() -> socket.socket:
    """A non-blocking socket that receives a message for every change of a link; parse with `parse_links`."""
    opened = open_socket(ROUTE, _RTMGRP_LINK)
    opened.setblocking(False)
    return opened


def ask_links(opened: socket.socket) -> None:
    """Have the kernel send the state of all links; the answers arrive like any other message."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    opened.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETLINK, _REQUEST | _DUMP, 1, 0) + body)


def read_links(indexes: Iterable[int]) -> dict[int, LinkMessage | None]:
    """The present state of these links; None: there is no link with that index. OSError: no answer from the kernel.

    Waits while any link is being changed, which can take a driver seconds: call it in a thread.
    """
    found: dict[int, LinkMessage | None] = {}
    with open_socket(ROUTE) as opened:
        opened.settimeout(_ANSWERS_S)
        for index in indexes:
            body = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0)
            opened.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETLINK, _REQUEST, 1, 0) + body)
            answer = opened.recv(1 << 17)
            code = _error_of(answer)
            if code and code != errno.ENODEV:
                raise OSError(code, os.strerror(code))
            found[index] = next(parse_links(answer), None)
    return found


def tap_queues(ifname: str) -> TapQueues | None:
    """The queues of a tap; None: it can only have one. OSError: there is no such device.

    Waits while any link is being changed: call it in a thread.
    """
    said = dict(attributes(_ask_link(socket.if_nametoindex(ifname))[_HEADER.size + _IFINFO.size :]))
    data = dict(attributes(dict(attributes(said.get(_IFLA_LINKINFO, b""))).get(_IFLA_INFO_DATA, b"")))
    if data.get(_TUN_SEVERAL, b"\0")[:1] == b"\0":
        return None
    return TapQueues(*(int(_NUMBER.unpack(data[kind])[0]) for kind in (_TUN_QUEUES, _TUN_DISABLED)))


def remove_link(ifname: str) -> None:
    """Remove a device, also while a process has it open. OSError is the kernel's. Waits as `tap_queues` does."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, socket.if_nametoindex(ifname), 0, 0)
    with open_socket(ROUTE) as opened:
        opened.settimeout(_ANSWERS_S)
        opened.send(_HEADER.pack(_HEADER.size + len(body), RTM_DELLINK, _REQUEST | _ACK, 1, 0) + body)
        _raise_error(opened.recv(1 << 12))


def _ask_link(index: int, patience_s: float = _ANSWERS_S) -> bytes:
    """The kernel's answer about one link. OSError: there is no such link, or no answer."""
    body = _IFINFO.pack(socket.AF_UNSPEC, 0, index, 0, 0)
    with open_socket(ROUTE) as opened:
        opened.settimeout(patience_s)
        opened.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETLINK, _REQUEST, 1, 0) + body)
        answer = opened.recv(1 << 17)
    _raise_error(answer)
    return answer


def interface(ifname: str) -> Interface:
    """A device of this namespace. OSError: there is no such device, or no answer. Waits as `tap_queues` does."""
    answer = _ask_link(socket.if_nametoindex(ifname), 2.0)
    _, _, _, flags, _ = _IFINFO.unpack_from(answer, _HEADER.size)
    said = dict(attributes(answer[_HEADER.size + _IFINFO.size :]))
    counted = said.get(_IFLA_STATS64, b"")
    if len(counted) < _COUNTED.size:
        raise OSError("netlink: the device has no counters")
    mtu = _NUMBER.unpack(said[_IFLA_MTU])[0] if len(said.get(_IFLA_MTU, b"")) == _NUMBER.size else 0
    return Interface(said.get(_IFLA_ADDRESS, b""), mtu, flags, *_COUNTED.unpack_from(counted))


def receive_counters(ifname: str) -> dict[str, int]:
    """A device's receive counters, by the kernel's names. OSError: there is no such device."""
    answer = _ask_link(socket.if_nametoindex(ifname), 1.0)
    found = dict(attributes(answer[_HEADER.size + _IFINFO.size :])).get(_IFLA_STATS64, b"")
    if len(found) < 8 * max(_RECEIVED.values()) + 8:
        raise OSError("netlink: the device has no counters")
    return {name: struct.unpack_from("=Q", found, 8 * at)[0] for name, at in _RECEIVED.items()}


def link_counters(opened: socket.socket, ifindex: int) -> LinkCounters:
    """What a device has counted. OSError is the kernel's: there is no such device."""
    body = _IFSTATS.pack(socket.AF_UNSPEC, ifindex, 1 << _STATS_LINK_64 - 1)
    opened.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETSTATS, _REQUEST, 1, 0) + body)
    answer = opened.recv(1 << 12)
    _raise_error(answer)
    found = dict(attributes(answer[_HEADER.size + _IFSTATS.size :])).get(_STATS_LINK_64, b"")
    if len(found) < _STATS.size:
        raise OSError(f"netlink: no counters of device {ifindex}")
    values = _STATS.unpack_from(found)
    return LinkCounters(values[0], values[1], values[6], values[7])


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each attribute; ends at a truncated one."""
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        if size < _ATTRIBUTE.size or size > len(data):
            return
        yield kind & 0x3FFF, data[_ATTRIBUTE.size : size]
        data = data[(size + 3) & ~3 :]


def parse_links(data: bytes) -> Iterator[LinkMessage]:
    """The link messages in one datagram of rtnetlink, without other and truncated messages."""
    while len(data) >= _HEADER.size:
        length, kind, _, _, _ = _HEADER.unpack_from(data)
        if length < _HEADER.size or length > len(data):
            return
        body, data = data[_HEADER.size : length], data[(length + 3) & ~3 :]
        if kind not in (RTM_NEWLINK, RTM_DELLINK) or len(body) < _IFINFO.size:
            continue
        _, _, index, flags, _ = _IFINFO.unpack_from(body)
        said = dict(attributes(body[_IFINFO.size :]))
        text = said.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("ascii", "replace")
        program = _xdp_program(said.get(_IFLA_XDP, b""))
        counts = said.get(_IFLA_STATS64, b"")
        sent, dropped = _STATS.unpack_from(counts)[1::6] if len(counts) >= _STATS.size else (0, 0)
        up, link = bool(flags & IFF_UP), bool(flags & IFF_LOWER_UP)
        yield LinkMessage(kind, index, text, up, link, flags, program, sent, dropped)


def _xdp_program(nested: bytes) -> int:
    said = dict(attributes(nested))
    numbers = (said[kind] for kind in _XDP_PROGRAMS if len(said.get(kind, b"")) >= _NUMBER.size)
    return next((int(_NUMBER.unpack_from(number)[0]) for number in numbers), 0)


def _error_of(answer: bytes) -> int:
    """The errno in an answer; 0 if it is no error. OSError: the answer is truncated."""
    if len(answer) < _HEADER.size + 4:
        raise OSError("netlink: the answer is truncated")
    kind = _HEADER.unpack_from(answer)[1]
    return -int(struct.unpack_from("=i", answer, _HEADER.size)[0]) if kind == _ERROR else 0


def generic_family(opened: socket.socket, name: str) -> int:
    """The number of a generic netlink family. OSError: not supported by the kernel."""
    wanted = attribute(_CTRL_ATTR_FAMILY_NAME, name.encode() + b"\0")
    found = generic_request(opened, _GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, wanted)
    if _CTRL_ATTR_FAMILY_ID not in found:
        raise OSError(f"netlink family {name}: no number")
    return int(struct.unpack("=H", found[_CTRL_ATTR_FAMILY_ID])[0])


def generic_request(opened: socket.socket, family: int, command: int, body: bytes) -> dict[int, bytes]:
    """Send a request and return the attributes of the answer. OSError: from the kernel, or a timeout of the socket."""
    body = _GENERIC_HEADER.pack(command, 1, 0) + body
    opened.send(_HEADER.pack(_HEADER.size + len(body), family, _REQUEST, 1, 0) + body)
    answer = opened.recv(1 << 16)
    _raise_error(answer)
    return dict(attributes(answer[_HEADER.size + _GENERIC_HEADER.size :]))


def _raise_error(answer: bytes) -> None:
    """Raise OSError if the kernel's answer is an error."""
    if code := _error_of(answer):
        raise OSError(code, os.strerror(code))
