# SPDX-License-Identifier: GPL-2.0-only
"""The GPIO device: what counts as driven, and the vhost-user protocol spoken as QEMU speaks it."""

from __future__ import annotations

import array
import asyncio
import mmap
import os
import socket
import struct
from collections.abc import Coroutine
from typing import Any

import pytest
from simulator import gpio, vhost
from simulator.gpio import Lines

Change = tuple[str, bool, str]


def lines() -> tuple[Lines, list[Change]]:
    changes: list[Change] = []
    return Lines(["relay-inline", "led-status"], lambda *change: changes.append(change)), changes


def ask(controller: Lines, kind: int, line: int = 0, value: int = 0) -> bytes:
    return controller.request(struct.pack("<HHI", kind, line, value))


def test_names_and_configuration() -> None:
    controller, _ = lines()
    assert ask(controller, gpio.GET_NAMES) == b"\0relay-inline\0led-status\0"
    assert struct.unpack("<HHI", controller.config) == (2, 0, 24)


def test_driven_needs_direction_and_value() -> None:
    """The kernel sets the value first and the direction after it; only both together drive the relay."""
    controller, changes = lines()
    ask(controller, gpio.SET_VALUE, 0, 1)
    assert changes == []
    ask(controller, gpio.SET_DIRECTION, 0, gpio.OUT)
    assert changes == [("relay-inline", True, "line driven")]
    ask(controller, gpio.SET_VALUE, 0, 0)
    assert changes[-1] == ("relay-inline", False, "line released")
    ask(controller, gpio.SET_VALUE, 0, 1)
    ask(controller, gpio.SET_DIRECTION, 0, gpio.NONE)
    assert changes[-1] == ("relay-inline", False, "line released")
    assert ask(controller, gpio.GET_VALUE, 0) == b"\0\1"
    assert ask(controller, gpio.GET_DIRECTION, 0) == b"\0\0"


def test_release_falls_once_with_its_cause() -> None:
    controller, changes = lines()
    for line in (0, 1):
        ask(controller, gpio.SET_VALUE, line, 1)
        ask(controller, gpio.SET_DIRECTION, line, gpio.OUT)
    changes.clear()
    controller.release("power cut")
    controller.release("qemu exited")
    assert changes == [("relay-inline", False, "power cut"), ("led-status", False, "power cut")]


@pytest.mark.parametrize(
    "request_bytes",
    [b"", b"\1", struct.pack("<HHI", 3, 2, 1), struct.pack("<HHI", 3, 0, 9), struct.pack("<HHI", 5, 0, 2),
     struct.pack("<HHI", 6, 0, 1), struct.pack("<HHI", 99, 0, 0)],
)  # fmt: skip
def test_bad_requests_are_answered_with_an_error_and_change_nothing(request_bytes: bytes) -> None:
    controller, changes = lines()
    assert controller.request(request_bytes)[0] == gpio.ERROR
    assert changes == []


MEMORY, USER, GUEST = 1 << 16, 0x7000_0000_0000, 0x10_0000
DESC, AVAIL, USED, DATA, SIZE = 0x0000, 0x1000, 0x2000, 0x3000, 8


class Front:
    """QEMU's side: memory, one queue, messages. Speaks the real protocol over a real socket."""

    def __init__(self, controller: Lines) -> None:
        ours, theirs = socket.socketpair()
        self.socket = ours
        self.socket.settimeout(5)
        self.memory_fd = os.memfd_create("guest")
        os.ftruncate(self.memory_fd, MEMORY)
        self.memory = mmap.mmap(self.memory_fd, MEMORY)
        self.kick = os.eventfd(0, os.EFD_NONBLOCK)
        self.call = os.eventfd(0, os.EFD_NONBLOCK)
        self.ended = 0
        self.notes: list[str] = []
        self.count = 0
        backend = vhost.Backend(theirs, controller, self._end, self.notes.append)
        backend.start(asyncio.get_running_loop())

    def _end(self) -> None:
        self.ended += 1

    def tell(self, kind: int, body: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        data = struct.pack("<III", kind, 1, len(body)) + body
        self.socket.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])

    async def reply(self, kind: int, body: bytes = b"") -> bytes:
        self.tell(kind, body)
        data = await asyncio.get_running_loop().run_in_executor(None, self.socket.recv, 4096)
        got, flags, size = struct.unpack_from("<III", data)
        assert (got, flags & 7, size) == (kind, 5, len(data) - 12)
        return data[12:]

    async def set_up(self) -> None:
        features = struct.unpack("<Q", await self.reply(vhost.GET_FEATURES))[0]
        assert features & vhost.F_VERSION_1
        self.tell(vhost.SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, GUEST, MEMORY, USER, 0), (self.memory_fd,))
        self.tell(vhost.SET_VRING_NUM, struct.pack("<II", 0, SIZE))
        self.tell(vhost.SET_VRING_BASE, struct.pack("<II", 0, 0))
        addresses = (USER + DESC, USER + USED, USER + AVAIL, 0)
        self.tell(vhost.SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, *addresses))
        self.tell(vhost.SET_VRING_KICK, struct.pack("<Q", 0), (self.kick,))
        self.tell(vhost.SET_VRING_CALL, struct.pack("<Q", 0), (self.call,))
        self.tell(vhost.SET_VRING_ENABLE, struct.pack("<II", 0, 1))
        await self.reply(vhost.GET_QUEUE_NUM)  # all before it has been handled when its reply is here
        os.read(self.call, 8)  # a new one is always told

    async def request(self, kind: int, line: int, value: int, response: int = 2) -> bytes:
        """One request through the queue, as the driver does it."""
        struct.pack_into("<HHI", self.memory, DATA, kind, line, value)
        struct.pack_into("<QIHH", self.memory, DESC, GUEST + DATA, 8, vhost.NEXT, 1)
        struct.pack_into("<QIHH", self.memory, DESC + 16, GUEST + DATA + 64, response, vhost.WRITE, 0)
        struct.pack_into("<H", self.memory, AVAIL + 4 + 2 * (self.count % SIZE), 0)
        self.count += 1
        struct.pack_into("<H", self.memory, AVAIL + 2, self.count & 0xFFFF)
        loop, called = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.call, called.set)
        os.write(self.kick, struct.pack("<Q", 1))
        await asyncio.wait_for(called.wait(), 5)
        loop.remove_reader(self.call)
        os.read(self.call, 8)
        assert struct.unpack_from("<H", self.memory, USED + 2)[0] == self.count & 0xFFFF
        head, written = struct.unpack_from("<II", self.memory, USED + 4 + 8 * ((self.count - 1) % SIZE))
        assert head == 0
        return bytes(self.memory[DATA + 64 : DATA + 64 + written])

    async def drive(self) -> None:
        await self.request(gpio.SET_VALUE, 0, 1)
        await self.request(gpio.SET_DIRECTION, 0, gpio.OUT)


def in_loop(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_requests_through_the_queue() -> None:
    """Names, values and a driven line, more requests than the queue has places."""

    async def body() -> None:
        controller, changes = lines()
        front = Front(controller)
        await front.set_up()
        assert await front.request(gpio.GET_NAMES, 0, 0, response=25) == b"\0relay-inline\0led-status\0"
        for _ in range(2 * SIZE):
            assert await front.request(gpio.GET_VALUE, 0, 0) == b"\0\0"
        await front.drive()
        assert changes == [("relay-inline", True, "line driven")]

    in_loop(body())


def test_an_answer_told_to_the_call_before_is_told_to_the_new_one() -> None:
    """The driver unmasks its interrupt while an answer is on its way: without a second call its kernel waits."""

    async def body() -> None:
        controller, _ = lines()
        front = Front(controller)
        await front.set_up()
        await front.request(gpio.GET_NAMES, 0, 0, response=25)  # told to the one that nobody listens to
        front.call = os.eventfd(0, os.EFD_NONBLOCK)
        front.tell(vhost.SET_VRING_CALL, struct.pack("<Q", 0), (front.call,))
        await front.reply(vhost.GET_QUEUE_NUM)
        assert os.read(front.call, 8) == struct.pack("<Q", 1)

    in_loop(body())


def test_an_answer_is_told_whatever_the_driver_wished() -> None:
    """Its flag is a hint, and reading it too early would lose an interrupt."""

    async def body() -> None:
        front = Front(lines()[0])
        await front.set_up()
        struct.pack_into("<H", front.memory, AVAIL, 1)
        assert await front.request(gpio.GET_VALUE, 0, 0) == b"\0\0"

    in_loop(body())


def test_configuration_space() -> None:
    async def body() -> None:
        controller, _ = lines()
        front = Front(controller)
        answer = await front.reply(vhost.GET_CONFIG, struct.pack("<III", 0, 8, 0) + bytes(8))
        assert answer[12:] == struct.pack("<HHI", 2, 0, 24)

    in_loop(body())


def test_stopped_queue_releases_and_starts_again() -> None:
    """A reset stops the queue: lines fall, the place in the queue is handed back."""

    async def body() -> None:
        controller, changes = lines()
        front = Front(controller)
        await front.set_up()
        await front.drive()
        answer = await front.reply(vhost.GET_VRING_BASE, struct.pack("<II", 0, 0))
        assert struct.unpack("<II", answer) == (0, 2)
        assert changes[-1] == ("relay-inline", False, "queue stopped")
        assert front.ended == 0

    in_loop(body())


def test_end_of_file_releases_and_gives_the_memory_back() -> None:
    async def body() -> None:
        controller, changes = lines()
        ended = asyncio.Event()
        front = Front(controller)
        await front.set_up()
        await front.drive()
        front._end = ended.set  # type: ignore[method-assign]
        front.socket.close()
        while changes[-1][2] != "qemu exited":
            await asyncio.sleep(0)
        assert changes[-1] == ("relay-inline", False, "qemu exited")

    in_loop(body())


@pytest.mark.parametrize("wild", [0xFFFF_FFFF_0000, GUEST + MEMORY])
def test_wild_descriptor_ends_the_connection_in_bypass(wild: int) -> None:
    """A driver that points outside the guest's memory gets nothing from ours, and loses the relay."""

    async def body() -> None:
        controller, changes = lines()
        front = Front(controller)
        await front.set_up()
        await front.drive()
        struct.pack_into("<QIHH", front.memory, DESC, wild, 8, 0, 0)
        struct.pack_into("<H", front.memory, AVAIL + 4 + 2 * (front.count % SIZE), 0)
        struct.pack_into("<H", front.memory, AVAIL + 2, front.count + 1)
        os.write(front.kick, struct.pack("<Q", 1))
        while not front.ended:
            await asyncio.sleep(0)
        assert changes[-1] == ("relay-inline", False, "qemu exited")
        assert "not in any memory region" in front.notes[0]

    in_loop(body())


def test_unknown_message_ends_the_connection_with_a_note() -> None:
    async def body() -> None:
        controller, _ = lines()
        front = Front(controller)
        front.tell(77)
        while not front.ended:
            await asyncio.sleep(0)
        assert "77" in front.notes[0]

    in_loop(body())
