# SPDX-License-Identifier: GPL-2.0-only
"""Two neighbours that bundle the link by LACP with the fast timer, and what each receives from the other.

Each host sends one LACPDU a second, as in IEEE 802.1AX, and considers its partner gone after three seconds without
one. `Lacp` owns a thread and two packet sockets in the hosts' namespaces; `longest_gap_ms` is pure. Times are
CLOCK_MONOTONIC in ns.
"""

from __future__ import annotations

import itertools
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable
from typing import Final

from simulator import netns
from simulator.host import Host
from simulator.wires import MACS

GROUP: Final = bytes.fromhex("0180c2000002")
ETHERTYPE: Final = 0x8809
INTERVAL_NS: Final = 1_000_000_000
TIMEOUT_MS: Final = 3000.0
_ACTIVE_FAST_IN_SYNC: Final = 0x3F  # active, short timeout, aggregates, in sync, collects, distributes


def pdu(own: bytes, partner: bytes) -> bytes:
    """The LACPDU sent by a host, from its Ethernet header on."""

    def party(kind: int, station: bytes) -> bytes:
        return struct.pack(">BBH6sHHHB3x", kind, 20, 0x8000, station, 1, 0x8000, 1, _ACTIVE_FAST_IN_SYNC)

    body = b"\x01\x01" + party(1, own) + party(2, partner) + struct.pack(">BBH12x", 3, 16, 0) + bytes(52)
    return GROUP + own + ETHERTYPE.to_bytes(2, "big") + body


def longest_gap_ms(arrivals: Iterable[int], start_ns: int, end_ns: int) -> float:
    """The longest time without an arrival between two times, both ends included."""
    stamps = [start_ns, *(stamp for stamp in sorted(arrivals) if start_ns < stamp < end_ns), end_ns]
    return max(after - before for before, after in itertools.pairwise(stamps)) / 1e6


class Lacp:
    """Both neighbours; `close` ends them."""

    def __init__(self, *hosts: Host) -> None:
        names = [host.namespace.rsplit("-", 1)[1] for host in hosts]
        stations = [bytes.fromhex(MACS[name].replace(":", "")) for name in names]
        self._arrivals: dict[int, list[int]] = {}  # by descriptor of the socket they came to
        self._sockets: list[socket.socket] = []
        self._frames = [pdu(own, partner) for own, partner in zip(stations, reversed(stations), strict=True)]
        for host in hosts:
            self._sockets.append(netns.enter(host.namespace, _open))
            self._arrivals[self._sockets[-1].fileno()] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lacp")
        self._thread.start()

    def _run(self) -> None:
        due = time.monotonic_ns()
        while not self._ended.is_set():
            if time.monotonic_ns() >= due:
                due += INTERVAL_NS
                for sender, frame in zip(self._sockets, self._frames, strict=True):
                    try:
                        sender.send(frame)
                    except OSError:
                        pass  # no carrier
            left = max(0, due - time.monotonic_ns()) / 1e9
            ready, _, _ = select.select(self._sockets, [], [], min(left, 0.1))
            for receiver in ready:
                receiver.recv(2048)
                self._arrivals[receiver.fileno()].append(time.monotonic_ns())

    def longest_gap_ms(self, start_ns: int, end_ns: int) -> float:
        """The longest time without a LACPDU at either of the two."""
        return max(longest_gap_ms(tuple(stamps), start_ns, end_ns) for stamps in self._arrivals.values())

    def close(self) -> None:
        """End both."""
        self._ended.set()
        self._thread.join()
        for one in self._sockets:
            one.close()


def _open() -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
    made.bind(("eth0", ETHERTYPE))
    return made
