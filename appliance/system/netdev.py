# SPDX-License-Identifier: GPL-2.0-only
"""What the datapath needs of a network port, set through ioctls: up, promiscuous, no addresses of its own, offloads.

No pyroute2 here: it takes seconds to import on a slow board, and these are six ioctls. Constants: linux/sockios.h,
linux/if.h, linux/ethtool.h. Nothing is owned; every function opens what it needs for one call.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct
from pathlib import Path

from appliance.errors import HardwareError

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFNAME, _SIOCETHTOOL = 0x8913, 0x8914, 0x8923, 0x8946
IFF_UP, IFF_NOARP, IFF_PROMISC, IFF_LOWER_UP = 0x1, 0x80, 0x100, 0x10000
_ETHTOOL_GFLAGS, _ETHTOOL_SFLAGS = 0x25, 0x26
_FLAG_RXVLAN, _FLAG_LRO = 1 << 8, 1 << 15
_IFREQ = struct.Struct("=16sH22x")


def _ioctl(request: int, data: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        return fcntl.ioctl(handle.fileno(), request, data)


def _flags(ifname: str) -> int:
    _, flags = _IFREQ.unpack(_ioctl(_SIOCGIFFLAGS, _IFREQ.pack(ifname.encode(), 0)))
    return int(flags)


def _change_flags(ifname: str, on: int, off: int) -> None:
    try:
        old = _flags(ifname)
        new = (old | on) & ~off
        if new != old:
            _ioctl(_SIOCSIFFLAGS, _IFREQ.pack(ifname.encode(), new & 0xFFFF))
    except OSError as error:
        raise HardwareError(f"port {ifname}: flags cannot be set: {error.strerror}") from error


def set_up(ifname: str, up: bool) -> None:
    """Administratively up or down. HardwareError: gone, or not permitted."""
    _change_flags(ifname, IFF_UP if up else 0, 0 if up else IFF_UP)


def rename(ifname: str, name: str) -> str:
    """Give the port its board name and return the name it has now: renaming is for people, and may be refused."""
    if ifname == name:
        return name
    try:
        _ioctl(_SIOCSIFNAME, struct.pack("=16s16s8x", ifname.encode(), name.encode()))
    except OSError:
        return ifname  # the name is taken, or the port is busy: it is known by its index and number anyway
    return name


def prepare(ifname: str) -> list[str]:
    """Make a port a port of a transparent device; returns what it did not want to do, as words.

    Promiscuous, or it would drop what is for the neighbours; no ARP and no IPv6, because a wire sends nothing of its
    own. Receive offloads that merge frames (LRO) or take tags away (VLAN stripping) would change what we forward.
    HardwareError: gone, or not permitted.
    """
    refused = []
    disable = Path(f"/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6")
    try:
        if disable.exists():
            disable.write_text("1", encoding="ascii")
    except OSError as error:
        refused.append(f"IPv6 off: {error.strerror}")
    try:
        _offloads_off(ifname, _FLAG_LRO | _FLAG_RXVLAN)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            refused.append(f"LRO and VLAN stripping off: {error.strerror}")
    _change_flags(ifname, IFF_UP | IFF_PROMISC | IFF_NOARP, 0)
    return refused


def _offloads_off(ifname: str, flags: int) -> None:
    value = array.array("I", [_ETHTOOL_GFLAGS, 0])
    request = struct.pack("=16sQ16x", ifname.encode(), value.buffer_info()[0])
    _ioctl(_SIOCETHTOOL, request)
    if value[1] & flags:
        value[0], value[1] = _ETHTOOL_SFLAGS, value[1] & ~flags
        _ioctl(_SIOCETHTOOL, request)
