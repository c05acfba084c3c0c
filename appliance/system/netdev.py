# SPDX-License-Identifier: GPL-2.0-only
"""The only module with interface ioctls: state, names, addresses, offloads and properties of network devices.

Functions act on the network namespace of the calling thread. Nothing is owned; each opens what it needs for one call.
They raise OSError, except `set_up` and `prepare`, which name the port in a HardwareError. These few ioctls are written
by hand because pyroute2 takes seconds to load on a slow board. Sources: linux/sockios.h, linux/if.h, linux/ethtool.h.
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from pathlib import Path

from appliance.errors import HardwareError

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFNAME, _SIOCETHTOOL = 0x8913, 0x8914, 0x8923, 0x8946
_SIOCGIFADDR, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8915, 0x8916, 0x891C
_SIOCGIFMTU, _SIOCSIFMTU = 0x8921, 0x8922
_SIOCSIFTXQLEN = 0x8943
IFF_UP, IFF_NOARP, IFF_PROMISC, IFF_LOWER_UP = 0x1, 0x80, 0x100, 0x10000
TRANSPARENT = IFF_UP | IFF_PROMISC | IFF_NOARP
"""The flags of a port of a transparent device, see `prepare`."""
_ETHTOOL_GSET, _ETHTOOL_GDRVINFO = 0x1, 0x3
_NO_SPEED = 0xFFFFFFFF
_IFREQ = struct.Struct("=16sH22x")
_IFREQ_NUMBER = struct.Struct("=16si20x")
_SYSCTL = Path("/proc/sys/net")


def _ioctl(request: int, data: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as handle:
        return fcntl.ioctl(handle.fileno(), request, data)


def flags(ifname: str) -> int:
    """The IFF_ flags."""
    return int(_IFREQ.unpack(_ioctl(_SIOCGIFFLAGS, _IFREQ.pack(ifname.encode(), 0)))[1])


def change_flags(ifname: str, on: int, off: int = 0) -> None:
    """Set and clear IFF_ flags."""
    old = flags(ifname)
    new = (old | on) & ~off
    if new != old:
        _ioctl(_SIOCSIFFLAGS, _IFREQ.pack(ifname.encode(), new & 0xFFFF))


def mtu(ifname: str) -> int:
    """The MTU: the longest packet in bytes, without the Ethernet header."""
    return int(_IFREQ_NUMBER.unpack(_ioctl(_SIOCGIFMTU, _IFREQ_NUMBER.pack(ifname.encode(), 0)))[1])


def set_mtu(ifname: str, size: int) -> None:
    """Change the MTU; some drivers restart the device for it."""
    _ioctl(_SIOCSIFMTU, _IFREQ_NUMBER.pack(ifname.encode(), size))


def set_queue_length(ifname: str, frames: int) -> None:
    """Set how many frames may wait in the device's transmit queue; a tap drops at once what is more."""
    _ioctl(_SIOCSIFTXQLEN, _IFREQ_NUMBER.pack(ifname.encode(), frames))


def address(ifname: str) -> bytes:
    """The first IPv4 address, 4 bytes; OSError if there is none."""
    return _ioctl(_SIOCGIFADDR, struct.pack("=16s24x", ifname.encode()))[20:24]


def set_address(ifname: str, own: str, netmask: str) -> None:
    """Set the device's only IPv4 address."""
    for request, value in ((_SIOCSIFADDR, own), (_SIOCSIFNETMASK, netmask)):
        inet = struct.pack("=HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
        _ioctl(request, struct.pack("=16s16s8x", ifname.encode(), inet))


def driver(ifname: str) -> str:
    """The name of the kernel driver, or "unknown"."""
    try:
        about = ethtool(ifname, struct.pack("=I192x", _ETHTOOL_GDRVINFO))
    except OSError:
        return "unknown"
    return about[4:36].split(b"\0")[0].decode()


def speed(ifname: str) -> int | None:
    """The speed of its link in Mbit/s; None: there is no link, or the driver does not say."""
    try:
        said = ethtool(ifname, struct.pack("=I40x", _ETHTOOL_GSET))
    except OSError:
        return None
    low, high = struct.unpack_from("=H", said, 12)[0], struct.unpack_from("=H", said, 28)[0]
    found = int(low | high << 16)
    return found if 0 < found < _NO_SPEED and found != 0xFFFF else None


def disable_ipv6(ifname: str) -> None:
    """Disable IPv6 on the device, so that the kernel assigns it no address."""
    set_sysctl(f"ipv6/conf/{ifname}/disable_ipv6", "1")


def enable_ipv6(ifname: str) -> None:
    """Enable IPv6 on a device of a namespace in which it is disabled by default."""
    set_sysctl(f"ipv6/conf/{ifname}/disable_ipv6", "0")


def set_sysctl(name: str, value: str) -> None:
    """Write a setting below /proc/sys/net; does nothing if the kernel has no such setting."""
    path = _SYSCTL / name
    if path.exists():
        path.write_text(value, encoding="ascii")


def set_up(ifname: str, up: bool) -> None:
    """Set the port administratively up or down. HardwareError: gone, or not permitted."""
    try:
        change_flags(ifname, IFF_UP if up else 0, 0 if up else IFF_UP)
    except OSError as error:
        raise HardwareError(f"port {ifname}: cannot be set {'up' if up else 'down'}: {error.strerror}") from error


def rename(ifname: str, name: str) -> str:
    """Rename the port to its board name, for readability; returns its present name, because that may be refused."""
    if ifname == name:
        return name
    try:
        _ioctl(_SIOCSIFNAME, struct.pack("=16s16s8x", ifname.encode(), name.encode()))
    except OSError:
        return ifname  # the name is taken, or the port is busy: it is identified by its index anyway
    return name


def prepare(ifname: str) -> list[str]:
    """Set a port up as part of a transparent device; returns the settings that it refused, one line each.

    It is promiscuous, or it would drop frames for the neighbours; without ARP and IPv6, because a wire sends nothing of
    its own. Offloads that change frames are switched off when the port is attached (offloads.py). HardwareError: gone,
    or not permitted.
    """
    refused = []
    try:
        disable_ipv6(ifname)
    except OSError as error:
        refused.append(f"IPv6 off: {error.strerror}")
    try:
        change_flags(ifname, TRANSPARENT)
    except OSError as error:
        raise HardwareError(f"port {ifname}: flags cannot be set: {error.strerror}") from error
    return refused


def ethtool(ifname: str, request: bytes) -> bytes:
    """Send a request to the driver; returns the request as filled in. OSError: not supported."""
    data = array.array("B", request)
    _ioctl(_SIOCETHTOOL, struct.pack("=16sQ16x", ifname.encode(), data.buffer_info()[0]))
    return data.tobytes()
