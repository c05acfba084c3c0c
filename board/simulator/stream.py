# SPDX-License-Identifier: GPL-2.0-only
"""Numbered frames across the link and their fate: lost, duplicated, out of order, longest gap.

One process per direction sends UDP datagrams from one host at absolute deadlines and receives them at the other (a
socket in each namespace). It appends a record of each to a file: number, time sent, time the kernel received it.
`Stream` owns that process; `analyse` is pure. All times are CLOCK_MONOTONIC in ns.

Frames have addresses of their own with fixed neighbours, so that the link is measured and never ARP's timeouts.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from simulator import netns
from simulator.host import Host
from simulator.wires import MACS

PACKET = struct.Struct("!QQ")
RECORD = struct.Struct("=QQQ")  # number, sent_ns, received_ns (0: the record says that it was sent)
PORT = 7007
ADDRESSES = {"lan": "10.77.1.1", "wan": "10.77.1.2"}
SO_TIMESTAMPNS = 35
LATE_NS = 1_000_000_000  # how long after the last frame was sent one may still arrive


class Record(NamedTuple):
    number: int
    sent_ns: int
    received_ns: int


@dataclass(frozen=True)
class Report:
    """The fate of the frames sent in a span of time; gaps are in ms."""

    sent: int
    received: int
    lost: int
    duplicates: int
    reordered: int
    longest_gap_ms: float  # between two arrivals, without the sender's own pauses
    longest_outage_ms: float  # from the frame sent before a run of lost ones to the one sent after it
    first_lost_ns: int | None
    back_ns: int | None  # arrival of the first frame after the last lost one; None: nothing lost, or not back yet

    @property
    def whole(self) -> bool:
        return self.lost == 0


def analyse(sent: dict[int, int], received: Iterable[Record], start_ns: int = 0, end_ns: int | None = None) -> Report:
    """Judge the frames sent in [start_ns, end_ns); `sent` maps number to time. Arrivals may be in any order."""
    wanted = {
        number: stamp for number, stamp in sent.items() if stamp >= start_ns and (end_ns is None or stamp < end_ns)
    }
    arrived: dict[int, int] = {}
    duplicates = reordered = 0
    highest = -1
    for record in received:
        if record.number not in wanted:
            continue
        if record.number in arrived:
            duplicates += 1
            continue
        arrived[record.number] = record.received_ns
        if record.number < highest:
            reordered += 1
        highest = max(highest, record.number)
    numbers = sorted(wanted)
    lost = [number for number in numbers if number not in arrived]
    back = min((stamp for number, stamp in arrived.items() if number > lost[-1]), default=None) if lost else None
    return Report(
        sent=len(numbers),
        received=len(arrived),
        lost=len(lost),
        duplicates=duplicates,
        reordered=reordered,
        longest_gap_ms=_longest_gap(wanted, arrived) / 1e6,
        longest_outage_ms=_longest_outage(numbers, wanted, arrived) / 1e6,
        first_lost_ns=wanted[lost[0]] if lost else None,
        back_ns=back,
    )


def _longest_gap(sent: dict[int, int], arrived: dict[int, int]) -> int:
    """Longest time between arrivals, less the delay of the sender itself in that time."""
    stamps = [sent[number] for number in sorted(sent)]
    steps = sorted(after - before for before, after in itertools.pairwise(stamps))
    pace = steps[len(steps) // 2] if steps else 0
    longest = 0
    for before, after in itertools.pairwise(sorted(arrived, key=arrived.__getitem__)):
        late = sent[after] - sent[before] - (after - before) * pace
        longest = max(longest, arrived[after] - arrived[before] - max(0, late))
    return longest


def _longest_outage(numbers: list[int], sent: dict[int, int], arrived: dict[int, int]) -> int:
    longest = 0
    begin: int | None = None
    previous: int | None = None
    for number in numbers:
        if number in arrived:
            if begin is not None:
                longest = max(longest, sent[number] - begin)
            begin = None
        elif begin is None:
            begin = sent[number] if previous is None else sent[previous]
        previous = number
    if begin is not None and numbers:
        longest = max(longest, sent[numbers[-1]] - begin)
    return longest


def longest_silence_ms(sent: dict[int, int], received: Iterable[Record], start_ns: int, end_ns: int) -> float:
    """The longest time without an arrival between two times, the end included. Delayed frames that arrive later count
    as absent, like lost ones."""
    inside = [record for record in received if record.received_ns < end_ns]
    last_ns = max((record.received_ns for record in inside), default=start_ns)
    gap_ms = analyse(sent, inside, start_ns, end_ns).longest_gap_ms
    return max(gap_ms, (end_ns - max(last_ns, start_ns)) / 1e6)


def read_records(path: Path) -> tuple[dict[int, int], list[Record]]:
    """The contents of a stream's file so far: frames sent (number to time), and frames received in order of arrival."""
    sent: dict[int, int] = {}
    received: list[Record] = []
    data = path.read_bytes()
    for fields in RECORD.iter_unpack(data[: len(data) // RECORD.size * RECORD.size]):
        record = Record(*fields)
        if record.received_ns:
            received.append(record)
        else:
            sent[record.number] = record.sent_ns
    return sent, received


class Peer(NamedTuple):
    host: Host
    name: str
    beyond: str


class Stream:
    """A running stream from one host to the other; `stop` ends it; reports are available at any time."""

    def __init__(self, source: Host, target: Host, path: Path, rate: int = 1000, size: int = 64) -> None:
        self.path = path
        self._source = source
        self._report: Report | None = None
        here, there = (host.namespace.rsplit("-", 1)[1] for host in (source, target))
        for host, name, peer in (Peer(source, here, there), Peer(target, there, here)):
            space = host.namespace
            netns.run("ip", "-n", space, "address", "replace", f"{ADDRESSES[name]}/24", "dev", "eth0")
            netns.run("ip", "-n", space, "neighbour", "replace", ADDRESSES[peer], "lladdr", MACS[peer],
                      "nud", "permanent", "dev", "eth0")  # fmt: skip
        path.unlink(missing_ok=True)
        path.touch()
        # by path, so that it runs in any namespace without a module path
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        self._process: subprocess.Popen[bytes] = source.popen(
            [sys.executable, "-m", "simulator.stream", source.namespace, target.namespace, here, there,
             str(path), str(rate), str(size)],
            env=environment, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"streaming\n":
            raise RuntimeError(f"the stream {here} -> {there} did not start")

    def stop(self) -> Report:
        """Stop sending, wait until frames in flight have arrived, and report on all frames."""
        if self._report is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait()
            self._report = self.report()
        return self._report

    def report(self, start_ns: int = 0, end_ns: int | None = None) -> Report:
        """The fate of the frames sent in the span. Frames in flight count as lost, so it should end in the past."""
        sent, received = read_records(self.path)
        return analyse(sent, received, start_ns, end_ns)

    def longest_silence_ms(self, start_ns: int, end_ns: int) -> float:
        """See `longest_silence_ms`."""
        return longest_silence_ms(*read_records(self.path), start_ns, end_ns)

    def arrivals(self, start_ns: int, end_ns: int) -> int:
        """Frames that arrived between two times, whenever they were sent: what a host's tap kept comes later."""
        return sum(start_ns < record.received_ns < end_ns for record in read_records(self.path)[1])

    def wait_arrival(self, after_ns: int, timeout: float = 30.0) -> int:
        """When the first frame sent after `after_ns` arrived; TimeoutError if none does.

        Follows the growing file: the recording process is paced by the frames themselves.
        """
        deadline = time.monotonic() + timeout
        with self.path.open("rb") as file:
            data = b""
            while time.monotonic() < deadline:
                data += file.read()
                whole = len(data) // RECORD.size * RECORD.size
                for _, sent_ns, received_ns in RECORD.iter_unpack(data[:whole]):
                    if received_ns and sent_ns > after_ns:
                        return int(received_ns)
                data = data[whole:]
                self._process_alive()
                time.sleep(0.005)
        raise TimeoutError(f"no frame sent after {after_ns} ns arrived within {timeout:g} s")

    def _process_alive(self) -> None:
        if self._process.poll() is not None and self._report is None:
            raise RuntimeError(f"the stream's process ended unexpectedly with status {self._process.returncode}")


def _flow(arguments: list[str]) -> None:
    """The process of one direction: send at every deadline, then process what has arrived."""
    source, target, source_name, target_name, path = arguments[:5]
    rate, size = int(arguments[5]), int(arguments[6])
    sender = netns.enter(source, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    receiver = netns.enter(target, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    receiver.bind((ADDRESSES[target_name], PORT))
    receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    receiver.setblocking(False)
    sender.bind((ADDRESSES[source_name], 0))
    sender.setblocking(False)
    address = (ADDRESSES[target_name], PORT)
    padding = bytes(max(0, size - 42 - PACKET.size))
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # a late sender looks like a gap
    except OSError:
        pass
    interval = 1_000_000_000 // rate
    with open(path, "ab", buffering=0) as file:
        print("streaming", flush=True)
        number, deadline = 0, time.monotonic_ns() + interval
        while not stopped:
            wait = deadline - time.monotonic_ns()
            if wait > 0:
                time.sleep(wait / 1e9)
            now = time.monotonic_ns()
            record = RECORD.pack(number, now, 0)
            try:
                sender.sendto(PACKET.pack(number, now) + padding, address)
            except OSError:
                pass  # an interface without carrier: the frame counts as lost
            file.write(record + _arrivals(receiver))
            number += 1
            # after a pause of this process frames keep their pace instead of following in a burst
            deadline = deadline + interval if now - deadline < 20 * interval else now + interval
        quiet_at = time.monotonic_ns() + LATE_NS
        while (left := quiet_at - time.monotonic_ns()) > 0:
            select.select([receiver], [], [], left / 1e9)
            file.write(_arrivals(receiver))


def _arrivals(receiver: socket.socket) -> bytes:
    out = b""
    while True:
        try:
            data, ancillary, _, _ = receiver.recvmsg(2048, 64)
        except BlockingIOError:
            return out
        number, sent_ns = PACKET.unpack_from(data)
        received_ns = time.monotonic_ns()
        for _, kind, value in ancillary:
            if kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = struct.unpack("=qq", value)
                # the kernel's timestamps are wall time; reading both clocks now converts them to ours
                received_ns -= time.time_ns() - (seconds * 1_000_000_000 + nanoseconds)
        out += RECORD.pack(number, sent_ns, received_ns)


if __name__ == "__main__":
    _flow(sys.argv[1:])
