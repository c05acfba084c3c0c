# SPDX-License-Identifier: GPL-2.0-only
"""Numbered frames from one device to another in the same network namespace, recorded like simulator.stream.

`FrameStream` is the owner; the process is this module's `main`, started by a thread that is in the namespace. One flow:
UDP between two addresses, so that a drain leaves it with its guest. Times are CLOCK_MONOTONIC in ns.
"""

from __future__ import annotations

import select
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from simulator.stream import PACKET, RECORD, Report, analyse, read_records

LATE_NS = 500_000_000  # how long after the last frame was sent one may still arrive
_HEAD = bytes.fromhex("0200000000020200000000010800")
_SOURCE, _TARGET = b"\x0a\x4d\x01\x01", b"\x0a\x4d\x01\x02"
_PORT = 7007
_SO_TIMESTAMPNS = 35


def frame(number: int, sent_ns: int) -> bytes:
    """One frame, checksum of the IP header included; UDP may go without."""
    body: bytes = PACKET.pack(number, sent_ns)
    udp = struct.pack("!HHHH", _PORT, _PORT, 8 + len(body), 0)
    length = 20 + len(udp) + len(body)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 0, 0, 64, 17, 0, _SOURCE, _TARGET)
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    made: bytes = (_HEAD + ip[:10] + checksum.to_bytes(2, "big") + ip[12:] + udp + body).ljust(60, b"\0")
    return made


class FrameStream:
    """A running stream. Create it in a thread of the namespace in which it should run."""

    def __init__(self, source: str, target: str, path: Path, rate: int = 1000) -> None:
        path.touch()
        self.path = path
        words = [sys.executable, "-m", "tests.support.frame_stream", source, target, str(path), str(rate)]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"streaming\n":
            raise RuntimeError(f"the stream {source} -> {target} did not start")

    def report(self, start_ns: int = 0, end_ns: int | None = None) -> Report:
        """The fate of the frames sent in the span, which must have ended shortly before."""
        return analyse(*read_records(self.path), start_ns, end_ns)

    def first_after(self, start_ns: int) -> int:
        """When the first frame sent after `start_ns` arrived."""
        _, received = read_records(self.path)
        return min(record.received_ns for record in received if record.sent_ns >= start_ns)

    def stop(self) -> None:
        """End it when the frames in flight have arrived."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def main(source: str, target: str, path: str, rate: str) -> int:
    """Send at absolute deadlines and record what arrives, until SIGTERM."""
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ending.append(time.monotonic_ns()))
    step = 1_000_000_000 // int(rate)
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as out,
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as into,
        open(path, "ab", buffering=0) as log,
    ):
        out.bind((source, 0))
        into.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        into.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        into.bind((target, 0x0800))
        into.setblocking(False)
        print("streaming", flush=True)
        number, due = 0, time.monotonic_ns()
        while not ending or time.monotonic_ns() < ending[0] + LATE_NS:
            now = time.monotonic_ns()
            if not ending and now >= due:
                out.send(frame(number, now))
                log.write(RECORD.pack(number, now, 0))
                number, due = number + 1, due + step
            ready, _, _ = select.select([into], [], [], max(0, (due if not ending else now + step) - now) / 1e9)
            if ready:
                log.write(b"".join(_arrivals(into)))
    return 0


def _arrivals(into: socket.socket) -> list[bytes]:
    """The waiting frames, with their time of arrival in the kernel."""
    shift = time.time_ns() - time.monotonic_ns()
    found: list[bytes] = []
    while True:
        try:
            data, extra, _, address = into.recvmsg(256, 64)
        except BlockingIOError:
            return found
        if address[2] == socket.PACKET_OUTGOING or data[36:38] != _PORT.to_bytes(2, "big"):
            continue
        stamp = next((value for _, kind, value in extra if kind == _SO_TIMESTAMPNS), None)
        seconds, nanoseconds = struct.unpack("qq", stamp) if stamp else divmod(time.time_ns(), 1_000_000_000)
        number, sent = PACKET.unpack_from(data, 42)
        found.append(RECORD.pack(number, sent, seconds * 1_000_000_000 + nanoseconds - shift))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
