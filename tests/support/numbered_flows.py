# SPDX-License-Identifier: GPL-2.0-only
"""Numbered frames of many flows that come in on two processors, and whether one of them overtakes another of its flow.

A flow comes in on one processor, as a port's RSS sees to it: here the sender stays on one, and each processor has a
queue of the veth of its own (`numrxqueues`), into which its packet socket sends.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tests.support.wire import LAN_MAC, WAN_MAC

T = TypeVar("T")
Inside = Callable[[Callable[[], socket.socket]], socket.socket]
"""Runs a function in the namespace of a device."""

ALLOWED = sorted(os.sched_getaffinity(0))
EVEN, ODD = ([number for number in ALLOWED if number % 2 == odd] for odd in (0, 1))
QUEUES = f"numrxqueues {ALLOWED[-1] + 1} numtxqueues {ALLOWED[-1] + 1}".split()
"""For both ends of a veth: a queue for each processor."""

FLOWS = 32  # from each processor
WINDOW = 64  # frames that a sender lets be in flight
LOST_AFTER_S = 10.0
_QDISC_BYPASS, _SOL_PACKET, _SO_RCVBUFFORCE = 20, 263, 33


def frame(flow: int, number: int) -> bytes:
    """The `number`th frame of a flow."""
    ports = struct.pack("!HHHHQ", 1024 + flow, 53, 16, 0, number)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 36, 0, 0, 64, 17, 0, bytes((10, 0, 0, 1)), bytes((10, 1, 0, 1)))
    return WAN_MAC + LAN_MAC + b"\x08\x00" + ip + ports + bytes(10)


def what(data: bytes) -> tuple[int, int]:
    """(flow, number) of a frame."""
    return struct.unpack_from("!H", data, 34)[0] - 1024, struct.unpack_from("!Q", data, 42)[0]


def overtaken(arrived: list[tuple[int, int]]) -> int:
    """How many frames arrived after a later one of their flow."""
    newest: dict[int, int] = {}
    late = 0
    for flow, number in arrived:
        late += number < newest.get(flow, 0)
        newest[flow] = max(number, newest.get(flow, 0))
    return late


@contextmanager
def on(processor: int) -> Iterator[None]:
    """This thread stays on one processor, and with it the receiving end of the veths into which it sends."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {processor})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def opened(inside: Inside, device: str, *, send: bool) -> socket.socket:
    """A raw socket at the far end of a veth; what it sends, it gives to the queue of its processor."""

    def body() -> socket.socket:
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        made.setsockopt(_SOL_PACKET, _QDISC_BYPASS, 1)
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
        made.bind((device, 0 if send else 0x0800))
        return made

    return inside(body)


class Arrivals:
    """Reads at the WAN host; senders wait until what they sent is there, so that no queue has to drop."""

    def __init__(self, inside: Inside, device: str) -> None:
        self._socket = opened(inside, device, send=False)
        self._socket.settimeout(0.2)
        self.frames: list[tuple[int, int]] = []
        self.per_processor: Counter[int] = Counter()
        self.came = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._over:
            try:
                data = self._socket.recv(2048)
            except TimeoutError:
                continue
            if data[:6] == WAN_MAC:
                with self.came:
                    self.frames.append(what(data))
                    self.per_processor[what(data)[0] // FLOWS] += 1
                    self.came.notify_all()

    def close(self) -> None:
        self._over = True
        self._thread.join()
        self._socket.close()


def pour(out: socket.socket, processor: int, frames: int, arrivals: Arrivals) -> None:
    """Send many flows from one processor, frame by frame in turn; each window once the last one has arrived."""
    half = processor % 2
    with out, on(processor):
        for sent in range(frames):
            if sent % WINDOW == 0:
                with arrivals.came:
                    if not arrivals.came.wait_for(lambda: arrivals.per_processor[half] == sent, LOST_AFTER_S):  # noqa: B023
                        return  # frames are missing, and the test sees that
            out.send(frame(half * FLOWS + sent % FLOWS, sent // FLOWS))


def pour_from_both(inside: Inside, device: str, frames: int, arrivals: Arrivals) -> None:
    """The same from an even and an odd processor at once; returns when both have sent all, or lost one."""
    senders = [
        threading.Thread(target=pour, args=(opened(inside, device, send=True), processor, frames, arrivals))
        for processor in (EVEN[0], ODD[0])
    ]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
