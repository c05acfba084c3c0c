# SPDX-License-Identifier: GPL-2.0-only
"""The part of rtnetlink that wires need: redirect a device's frames, undo that, set a link, watch links.

A request returns when the kernel has acknowledged it, so from that time on the frames take the new path; `tc` on a pipe
cannot report that. Layouts: include/uapi/linux/{rtnetlink,pkt_cls,pkt_sched}.h and tc_act/tc_mirred.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass

RTM_NEWLINK, RTM_DELLINK = 16, 17
RTM_NEWTFILTER, RTM_DELTFILTER = 44, 45
NLMSG_ERROR = 2
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE = 1, 4, 0x400
RTMGRP_LINK = 1
IFF_UP, IFF_LOWER_UP = 1, 0x10000
IFLA_IFNAME = 3
INGRESS = 0xFFFFFFF2  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
PRIORITY = 1
ETH_P_ALL = 0x0003
ONLY_NODE = 0x80000800  # u32's first node in its root table
TC_ACT_STOLEN, TCA_EGRESS_REDIR = 4, 1


@dataclass(frozen=True)
class Link:
    """One device as described by a link message."""

    name: str
    index: int
    admin_up: bool
    carrier: bool


def attribute(kind: int, payload: bytes) -> bytes:
    length = 4 + len(payload)
    return struct.pack("=HH", length, kind) + payload + bytes(-length % 4)


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


def redirect_filter(ifindex: int, to_ifindex: int) -> bytes:
    """Body of a filter that sends every frame from one device out of another one."""
    selector = struct.pack("=BBBxHHhhIIIii", 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)  # one key: mask 0, so every frame
    mirred = struct.pack("=IIiiiiI", 0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to_ifindex)
    action = attribute(1, attribute(1, b"mirred\0") + attribute(2, attribute(2, mirred)))
    options = attribute(5, selector) + attribute(7, action)
    return _tcmsg(ifindex, ONLY_NODE) + attribute(1, b"u32\0") + attribute(2, options)


def _tcmsg(ifindex: int, handle: int) -> bytes:
    return struct.pack("=BxxxiIII", 0, ifindex, handle, INGRESS, PRIORITY << 16 | socket.htons(ETH_P_ALL))


class Netlink:
    """A route socket of the namespace in which it is opened. Not thread-safe."""

    def __init__(self, groups: int = 0) -> None:
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self.socket.bind((0, groups))
        self._sequence = 0

    def close(self) -> None:
        self.socket.close()

    def redirect(self, ifindex: int, to_ifindex: int) -> None:
        """Frames that arrive at `ifindex` leave through `to_ifindex`; replaces a previous filter in one step."""
        self._request(RTM_NEWTFILTER, NLM_F_CREATE, redirect_filter(ifindex, to_ifindex))

    def cut(self, ifindex: int) -> None:
        """Frames that arrive at `ifindex` are no longer redirected anywhere."""
        try:
            self._request(RTM_DELTFILTER, 0, _tcmsg(ifindex, 0))
        except FileNotFoundError:
            pass
        except OSError as error:
            if error.errno != 22:  # EINVAL: no filter chain there yet
                raise

    def set_link(self, ifindex: int, up: bool) -> None:
        self._request(RTM_NEWLINK, 0, struct.pack("=BxHiII", 0, 0, ifindex, IFF_UP if up else 0, IFF_UP))

    def _request(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        header = struct.pack("=IHHII", 16 + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, self._sequence, 0)
        self.socket.send(header + body)
        while True:
            reply = self.socket.recv(65536)
            _, reply_kind, _, sequence, _ = struct.unpack_from("=IHHII", reply)
            if reply_kind == NLMSG_ERROR and sequence == self._sequence:
                (code,) = struct.unpack_from("=i", reply, 16)
                if code:
                    raise OSError(-code, f"netlink request {kind}: {os.strerror(-code)}")
                return

    def watch(self) -> list[Link]:
        """Read the waiting link messages, without blocking."""
        found: list[Link] = []
        while True:
            try:
                data = self.socket.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno == 105:  # ENOBUFS: messages were lost, later ones follow
                    continue
                raise
            found.extend(parse_links(data))


def parse_links(data: bytes) -> Iterator[Link]:
    """The devices in a block of netlink messages."""
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        if length < 16:
            return
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            index, flags = struct.unpack_from("=iI", data, 20)
            for attr, value in attributes(data[32:length]):
                if attr == IFLA_IFNAME:
                    name = value.rstrip(b"\0").decode()
                    gone = kind == RTM_DELLINK
                    yield Link(name, index, bool(flags & IFF_UP) and not gone, bool(flags & IFF_LOWER_UP) and not gone)
        data = data[(length + 3) & ~3 :]
