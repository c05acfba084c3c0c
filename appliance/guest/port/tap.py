# SPDX-License-Identifier: GPL-2.0-only
"""The persistent taps of a guest: created, configured, opened for QEMU, removed.

A tap is persistent so that the datapath's programs, links and device maps that refer to it stay valid while guests and
bypassd come and go. It belongs to one hop and one side of one segment, and has no addresses: only the datapath and our
heartbeats use it. Taps live until the guests are reconfigured or the appliance reboots.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct

from appliance.config.schema import limits
from appliance.errors import GuestError
from appliance.system import netdev

_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000

TAP_MTU = limits.MAX_MTU
"""The largest that a port can have, so that a tap never limits a frame."""

QUEUE = 1000
"""Frames that may wait in a tap for the guest: the kernel's own default, stated because it is set again after 0."""

_NAME = re.compile(r"tw\d+\.\d+[lw]")


class TapInUseError(GuestError):
    """Another process has the tap open."""


def tap_name(hop: int, segment: int, side: int) -> str:
    """Name of the tap of `hop` at `side` (0 LAN, 1 WAN) of the segment with this index: "tw3.0l"."""
    return f"tw{hop}.{segment}{'lw'[side]}"


def open_tap(name: str) -> int:
    """Open the tap, and create it if it is missing; the file descriptor is QEMU's end of it.

    Frames have no virtio header, so they are always complete, with tc and XDP (the kernel segments offloaded ones).
    TapInUseError: another process holds the tap; GuestError: the kernel has no taps.
    """
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise GuestError(f"no taps: /dev/net/tun: {error.strerror}") from error
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI))
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EBUSY:
            raise TapInUseError(f"tap {name} is in use by another process") from error
        raise GuestError(f"tap {name}: {error.strerror}") from error
    return fd


def make(name: str) -> None:
    """Create the tap if it is missing, set down; an existing one may be in use."""
    if name not in [there for _, there in socket.if_nameindex()]:
        os.close(open_tap(name))


def ensure(name: str) -> None:
    """Create the tap if it is missing; bring it up without addresses, with room for tagged frames.

    The queue is set although it is the default: a bypassd that was killed in `drop_queued` has left none.
    """
    make(name)
    try:
        netdev.set_queue_length(name, QUEUE)
        netdev.disable_ipv6(name)
        netdev.set_mtu(name, TAP_MTU)
        netdev.change_flags(name, netdev.IFF_UP)
    except OSError as error:
        raise GuestError(f"tap {name} cannot be set up: {error.strerror}") from error


def drop_queued(name: str) -> None:
    """Drop the frames that wait in the tap for its reader; OSError if it is gone.

    Threads may do this at the same time (a guest fails while it is being resumed). So the length to set again must not
    be read from the tap, where it may be the other thread's 0: the guest would never get a frame again.
    """
    try:
        netdev.set_queue_length(name, 0)
    finally:
        netdev.set_queue_length(name, QUEUE)


def existing() -> list[str]:
    """The names of all taps that look like ours."""
    return [name for _, name in socket.if_nameindex() if _NAME.fullmatch(name)]


def remove(name: str) -> None:
    """Remove the tap; GuestError while a process holds it."""
    fd = open_tap(name)
    try:
        fcntl.ioctl(fd, _TUNSETPERSIST, 0)
    finally:
        os.close(fd)
