# SPDX-License-Identifier: GPL-2.0-only
"""What a network device can do with XDP, asked of the kernel's generic netlink family "netdev" (Linux 6.3 and newer).

Source: Documentation/netlink/specs/netdev.yaml, include/uapi/linux/netdev.h. No state; one socket a call.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from enum import IntFlag

_GENERIC, _CONTROL = 16, 16  # NETLINK_GENERIC, GENL_ID_CTRL
_ERROR, _REQUEST = 2, 1
_GET_FAMILY, _FAMILY_ID, _FAMILY_NAME = 3, 1, 2
_DEV_GET, _DEV_IFINDEX, _DEV_XDP_FEATURES = 1, 1, 3


class XdpFeature(IntFlag):
    """enum netdev_xdp_act, as far as we ask."""

    BASIC = 1
    REDIRECT = 2
    SEND = 4  # others may redirect frames to it
    SEND_SEVERAL = 64  # also frames that lie in several buffers


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        size, kind = struct.unpack_from("=HH", data)
        if size < 4:
            return
        yield kind & 0x3FFF, data[4:size]
        data = data[size + 3 & ~3 :]


def _ask(opened: socket.socket, family: int, command: int, attribute: bytes) -> dict[int, bytes]:
    body = struct.pack("=BBH", command, 1, 0) + attribute
    opened.send(struct.pack("=IHHII", 16 + len(body), family, _REQUEST, 1, 0) + body)
    answer = opened.recv(1 << 16)
    kind = struct.unpack_from("=H", answer, 4)[0]
    if kind == _ERROR:
        raise OSError(-struct.unpack_from("=i", answer, 16)[0], "netlink")
    return dict(_attributes(answer[20:]))


def xdp_features(ifindex: int) -> XdpFeature | None:
    """Its features now (some drivers gain SEND only with a program attached); None when the kernel cannot tell."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _GENERIC) as opened:
            opened.settimeout(1.0)
            opened.bind((0, 0))
            family = _ask(opened, _CONTROL, _GET_FAMILY, _attribute(_FAMILY_NAME, b"netdev\0"))
            number = struct.unpack("=H", family[_FAMILY_ID])[0]
            found = _ask(opened, number, _DEV_GET, _attribute(_DEV_IFINDEX, struct.pack("=I", ifindex)))
            return XdpFeature(struct.unpack("=Q", found[_DEV_XDP_FEATURES])[0] & 0x47)
    except (OSError, KeyError, struct.error):
        return None
