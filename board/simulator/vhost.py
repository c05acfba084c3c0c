# SPDX-License-Identifier: GPL-2.0-only
"""vhost-user backend of the GPIO and I2C devices: QEMU shares the guest's memory and queues, we answer the requests.

One `Backend` serves one connection to one QEMU process and ends with it. It runs in the loop's thread and maps the
guest's memory while connected. Protocol: QEMU's docs/interop/vhost-user.rst; queues: virtio specification 1.2, 2.7.
The split queue needs no barriers here: x86 keeps stores in order, Python adds no reordering of its own, and reading
early does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

F_VERSION_1, F_PROTOCOL_FEATURES = 1 << 32, 1 << 30
P_MQ, P_REPLY_ACK, P_CONFIG = 1 << 0, 1 << 3, 1 << 9
VERSION, REPLY, NEED_REPLY = 1, 4, 8
(GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE) = range(1, 6)
(SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE, SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR) = range(
    8, 15
)
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
GET_CONFIG = 24
REQUESTS, QUEUES = 0, 2  # the request queue's number; QEMU 7.2 sets up the interrupt queue too
NEXT, WRITE = 1, 2  # descriptor flags


class Device(Protocol):
    """What answers the driver's requests. `features`: bits of the device's own kind."""

    @property
    def features(self) -> int: ...

    @property
    def config(self) -> bytes: ...

    def request(self, data: bytes, room: int) -> bytes:
        """Execute one request and return the response, of which the driver takes at most `room` bytes."""

    def release(self, cause: str) -> None:
        """The driver is gone: the machine was reset, has no power, or its emulator ended."""


class ProtocolError(Exception):
    """QEMU, or the driver in the guest, violated the protocol."""


@dataclass
class Region:
    guest: int
    size: int
    user: int
    offset: int
    memory: mmap.mmap


@dataclass
class Queue:
    size: int = 0
    desc: int = 0
    used: int = 0
    avail: int = 0
    last: int = 0
    kick: int = -1
    call: int = -1
    enabled: bool = False


@dataclass
class Backend:
    """Serves `connection` (a stream socket to QEMU's chardev) until it ends; `ended` is then called once."""

    connection: socket.socket
    device: Device
    ended: Callable[[], None]
    note: Callable[[str], None] = lambda text: None
    _regions: list[Region] = field(default_factory=list)
    _queues: list[Queue] = field(default_factory=lambda: [Queue() for _ in range(QUEUES)])

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.connection.setblocking(True)
        loop.add_reader(self.connection.fileno(), self._readable)

    def close(self) -> None:
        """Release memory and queues, and the lines if they are still driven."""
        if self.connection.fileno() < 0:
            return
        self._loop.remove_reader(self.connection.fileno())
        self.connection.close()
        for queue in self._queues:
            self._set_kick(queue, -1)
            _close(queue.call)
        self._unmap()
        self.device.release("qemu exited")
        self.ended()

    def _readable(self) -> None:
        try:
            if not self._message():
                self.close()
        except (ProtocolError, OSError, struct.error, IndexError, ValueError) as error:
            self.note(f"vhost-user connection closed: {error}")
            self.close()

    def _message(self) -> bool:
        header, fds, _, _ = socket.recv_fds(self.connection, 12, 8)
        if not header:
            return False
        if len(header) < 12:
            header += self.connection.recv(12 - len(header), socket.MSG_WAITALL)
        kind, flags, size = struct.unpack("<III", header)
        if size > 4096:
            raise ProtocolError(f"message {kind} of {size} bytes")
        body = self.connection.recv(size, socket.MSG_WAITALL) if size else b""
        reply = self._handle(kind, body, fds)
        if reply is None and flags & NEED_REPLY:
            reply = struct.pack("<Q", 0)
        if reply is not None:
            self.connection.sendall(struct.pack("<III", kind, VERSION | REPLY, len(reply)) + reply)
        return True

    def _handle(self, kind: int, body: bytes, fds: list[int]) -> bytes | None:
        if kind == GET_FEATURES:
            return struct.pack("<Q", F_VERSION_1 | F_PROTOCOL_FEATURES | self.device.features)
        if kind == GET_PROTOCOL_FEATURES:
            return struct.pack("<Q", P_MQ | P_CONFIG | P_REPLY_ACK)
        if kind == GET_QUEUE_NUM:
            return struct.pack("<Q", QUEUES)
        if kind == GET_CONFIG:
            offset, length, flags = struct.unpack_from("<III", body)
            config = (self.device.config[offset:] + bytes(length))[:length]
            return struct.pack("<III", offset, length, flags) + config
        if kind == SET_MEM_TABLE:
            self._map(body, fds)
        elif kind in (SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR):
            (value,) = struct.unpack_from("<Q", body)
            fd = fds[0] if fds and not value & 0x100 else -1
            if kind == SET_VRING_KICK:
                self._set_kick(self._queues[value & 0xFF], fd)
            elif kind == SET_VRING_CALL:
                queue = self._queues[value & 0xFF]
                _close(queue.call)
                queue.call = fd
                self._call(queue)  # an interrupt may have gone to the previous descriptor, which QEMU no longer watches
            else:
                _close(fd)
        elif kind == SET_VRING_ADDR:
            number, _, desc, used, avail, _ = struct.unpack_from("<IIQQQQ", body)
            queue = self._queues[number]
            queue.desc, queue.used, queue.avail = desc, used, avail
        elif kind in (SET_VRING_NUM, SET_VRING_BASE, SET_VRING_ENABLE, GET_VRING_BASE):
            number, value = struct.unpack_from("<II", body)
            return self._ring(kind, number, value)
        elif kind not in (SET_FEATURES, SET_OWNER, RESET_OWNER, SET_PROTOCOL_FEATURES):
            raise ProtocolError(f"request {kind} is not supported")
        return None

    def _ring(self, kind: int, number: int, value: int) -> bytes | None:
        queue = self._queues[number]
        if kind == SET_VRING_NUM:
            queue.size = value
        elif kind == SET_VRING_BASE:
            queue.last = value & 0xFFFF
        elif kind == SET_VRING_ENABLE:
            queue.enabled = bool(value)
            self._serve(queue)
        else:
            self._set_kick(queue, -1)
            queue.enabled = False
            if number == REQUESTS:
                self.device.release("queue stopped")
            return struct.pack("<II", number, queue.last)
        return None

    def _map(self, body: bytes, fds: list[int]) -> None:
        self._unmap()
        (count,) = struct.unpack_from("<I", body)
        try:
            if count != len(fds):
                raise ProtocolError(f"{count} memory regions with {len(fds)} file descriptors")
            for number, fd in enumerate(fds):
                guest, size, user, offset = struct.unpack_from("<QQQQ", body, 8 + 32 * number)
                self._regions.append(Region(guest, size, user, 0, mmap.mmap(fd, size, offset=offset)))
        finally:
            for fd in fds:
                _close(fd)

    def _unmap(self) -> None:
        for region in self._regions:
            region.memory.close()
        self._regions.clear()

    def _set_kick(self, queue: Queue, fd: int) -> None:
        if queue.kick >= 0:
            self._loop.remove_reader(queue.kick)
            _close(queue.kick)
        queue.kick = fd
        if fd >= 0:
            self._loop.add_reader(fd, self._kicked, queue)

    def _kicked(self, queue: Queue) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(queue.kick, 8)
        try:
            self._serve(queue)
        except (ProtocolError, struct.error) as error:
            self.note(f"vhost-user queue stopped: {error}")
            self.close()

    def _find(self, address: int, user: bool) -> tuple[mmap.mmap, int]:
        for region in self._regions:
            start = region.user if user else region.guest
            if start <= address < start + region.size:
                return region.memory, address - start
        raise ProtocolError(f"address {address:#x} is not in any memory region")

    def _serve(self, queue: Queue) -> None:
        """Answer all waiting requests in the request queue; the interrupt queue's buffers are left alone."""
        if queue is not self._queues[REQUESTS] or not queue.size or not queue.desc or not queue.enabled:
            return
        avail, at = self._find(queue.avail, True)
        used, used_at = self._find(queue.used, True)
        answered = False
        while queue.last != struct.unpack_from("<H", avail, at + 2)[0]:
            (head,) = struct.unpack_from("<H", avail, at + 4 + 2 * (queue.last % queue.size))
            written = self._answer(queue, head)
            struct.pack_into("<II", used, used_at + 4 + 8 * (queue.last % queue.size), head, written)
            queue.last = (queue.last + 1) & 0xFFFF
            struct.pack_into("<H", used, used_at + 2, queue.last)
            answered = True
        if answered:
            self._call(queue)

    def _call(self, queue: Queue) -> None:
        """Interrupt the driver. It tolerates one interrupt too many, but with one too few it waits for ever during the
        kernel's start. So its flag to suppress interrupts is ignored: checking it would need a barrier."""
        if queue.call >= 0:
            os.write(queue.call, struct.pack("<Q", 1))

    def _answer(self, queue: Queue, head: int) -> int:
        """Execute the request in the chain at `head`; returns the number of bytes written into it."""
        table, at = self._find(queue.desc, True)
        request, response, index = b"", b"", head
        places: list[tuple[mmap.mmap, int, int]] = []
        for _ in range(queue.size):
            address, length, flags, following = struct.unpack_from("<QIHH", table, at + 16 * (index % queue.size))
            memory, place = self._find(address, False)
            if flags & WRITE:
                places.append((memory, place, length))
            else:
                request += memory[place : place + length]
            if not flags & NEXT:
                break
            index = following
        response = self.device.request(request, sum(length for _, _, length in places))
        written = 0
        for memory, place, length in places:
            part = response[written : written + length]
            memory[place : place + len(part)] = part
            written += len(part)
        return written


def _close(fd: int) -> None:
    if fd >= 0:
        os.close(fd)
