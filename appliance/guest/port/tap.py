# SPDX-License-Identifier: GPL-2.0-only
"""The persistent taps of a guest: created, configured, opened for QEMU, removed.

A tap is persistent so that the datapath's programs, links and device maps that refer to it stay valid while guests and
bypassd come and go. It belongs to one hop and one side of one segment, and has no addresses: only the datapath and our
heartbeats use it. Taps live until the guests are reconfigured or the appliance reboots.

A tap with several queues keeps the frames that one of our processors receives in one queue, so that none overtakes
another one of its flow: processor N's are in queue N modulo their number. The kernel does so with what XDP sends
(tun_xdp_xmit). For all other frames, those of tc and our heartbeats, it would follow the queue by which the guest last
sent frames of the flow, which moves flows while frames of them wait, so they get a program that does the same.
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
from appliance.system import libbpf, netdev, netlink

_TUNSETIFF = 0x400454CA
_TUNSETPERSIST = 0x400454CB
_IFF_TAP = 0x0002
_TUNSETSTEERINGEBPF = 0x800454E0
_IFF_NO_PI = 0x1000
_IFF_MULTI_QUEUE = 0x0100

TAP_MTU = limits.MAX_MTU
"""The largest that a port can have, so that a tap never limits a frame."""

QUEUE = 1000
"""Frames that may wait in a tap for the guest: the kernel's own default, stated because it is set again after 0."""

_INSTRUCTION = struct.Struct("=BBhi")  # code, registers, offset, value
_BY_PROCESSOR = b"".join(
    _INSTRUCTION.pack(*line)
    for line in (
        (0x61, 0x16, 8, 0),  # r6 = skb->mark
        (0x15, 0x06, 3, 0),  # if it is 0: by the processor
        (0xBF, 0x60, 0, 0),  # r0 = r6 - 1: a heartbeat, for this queue (health/packet_socket.py)
        (0x07, 0x00, 0, -1),
        (0x95, 0, 0, 0),
        (0x85, 0, 0, 8),  # r0 = bpf_get_smp_processor_id()
        (0x95, 0, 0, 0),
    )
)
"""Which queue a frame goes to that XDP does not send: the kernel takes the result modulo the number in use."""

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
    return _open(name, _IFF_TAP | _IFF_NO_PI)


def open_queues(name: str, queues: int) -> tuple[int, ...]:
    """The same for a tap with so many queues: a descriptor for each."""
    if queues == 1:
        return (open_tap(name),)
    opened: list[int] = []
    try:
        if (there := _queues(name)) is not None and there.used + there.disabled:
            raise TapInUseError(f"tap {name} is in use by another process")
        opened += (_open(name, _IFF_TAP | _IFF_NO_PI | _IFF_MULTI_QUEUE) for _ in range(queues))
    except GuestError:
        for fd in opened:
            os.close(fd)
        raise
    return tuple(opened)


def _open(name: str, flags: int) -> int:
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise GuestError(f"no taps: /dev/net/tun: {error.strerror}") from error
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EBUSY:
            raise TapInUseError(f"tap {name} is in use by another process") from error
        raise GuestError(f"tap {name}: {error.strerror}") from error
    return fd


def _queues(name: str) -> netlink.TapQueues | None:
    """None: it can only have one. GuestError: it is gone."""
    try:
        return netlink.tap_queues(name)
    except OSError as error:
        raise GuestError(f"tap {name}: {error.strerror or error}") from error


def used_queues(name: str) -> int:
    """How many queues of a tap with several its guest uses. GuestError: it is gone. Waits like `netlink.tap_queues`."""
    found = _queues(name)
    return found.used if found is not None else 1


def make(name: str, queues: int = 1) -> None:
    """Create the tap if it is missing, set down; an existing one may be in use. OSError, GuestError: it is refused."""
    if name in [there for _, there in socket.if_nameindex()]:
        return
    if queues == 1:
        os.close(open_tap(name))
        return
    program = libbpf.load(_BY_PROCESSOR, libbpf.BPF_PROG_TYPE_SOCKET_FILTER, "queue")
    try:
        fd = _open(name, _IFF_TAP | _IFF_NO_PI | _IFF_MULTI_QUEUE)
        try:
            fcntl.ioctl(fd, _TUNSETSTEERINGEBPF, struct.pack("=i", program))
        finally:
            os.close(fd)
    finally:
        os.close(program)


def ensure(name: str, queues: int = 1) -> None:
    """Create the tap if it is missing; bring it up without addresses, with room for tagged frames.

    One that was made for a single queue, or for several, is replaced, since the kernel opens it only as it was made.
    A process that still has it open was started with another number of queues, and is ended by its guest.
    The queue is set although it is the default: a bypassd that was killed in `drop_queued` has left none.
    """
    try:
        if name in [there for _, there in socket.if_nameindex()] and (_queues(name) is None) is (queues > 1):
            netlink.remove_link(name)
        make(name, queues)
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
    fds = open_queues(name, 1 if _queues(name) is None else 2)
    try:
        fcntl.ioctl(fds[0], _TUNSETPERSIST, 0)
    finally:
        for fd in fds:
            os.close(fd)
