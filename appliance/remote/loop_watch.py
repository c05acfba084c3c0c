# SPDX-License-Identifier: GPL-2.0-only
"""Finds loops: heartbeats of our own remotes, where frames of others come in.

That is the tunnels of a [[serve]], for a loop over several appliances, and the ports of a segment with remotes, for a
far end that is bridged into its network. Every appliance of a loop sends heartbeats into it, and knows its own by the
key in their source address, a secret of this run of bypassd; one that comes in has gone round. So no hop limit has to
be carried, in frames that nobody may change.

A socket that sees every frame of a device costs each of them some time. It is open for a while after a change, then
for a part of the time: loops come about when something is changed, at any of the ends.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

from appliance.system import packet

log = logging.getLogger(__name__)

_ALL = 0x0003  # ETH_P_ALL: before the datapath takes the frame
_READ_LIMIT = 32
_KEY_AT = 8  # of a frame: the last four bytes of its source address
_FULL = 250  # keys of one filter, whose jumps have eight bits
FIRST_NS, LISTEN_NS, PERIOD_NS = 5_000_000_000, 300_000_000, 1_500_000_000
"""It listens so long after it was opened, and then so long in each period: three heartbeats of the usual interval."""


def code(keys: Sequence[int]) -> list[packet.Line]:
    """Classic BPF: keep 64 bytes of frames with one of the keys, drop others."""
    wanted = list(dict.fromkeys(keys))[:_FULL]
    compare = [(0x15, len(wanted) - at, 0, key) for at, key in enumerate(wanted)]  # jeq: to the last line
    return [(0x20, 0, 0, _KEY_AT), *compare, (0x06, 0, 0, 0), (0x06, 0, 0, 64)]


class LoopWatch:
    """At the two devices of one pair. Times are ns of CLOCK_MONOTONIC."""

    def __init__(self, key: Callable[[str], int], heard: Callable[[str], None]) -> None:
        """`key(remote)`: that of its heartbeats; `heard(remote)`: one of them came in."""
        self._key, self._heard = key, heard
        self._remotes: dict[int, str] = {}  # by key
        self._devices: tuple[str, ...] = ()
        self._began: int | None = None
        self._sockets: list[socket.socket] = []

    def follow(self, remotes: Sequence[str], devices: Sequence[str]) -> None:
        """Listen for these remotes' heartbeats at these devices from now on; none: no more."""
        wanted = {self._key(name): name for name in remotes}
        if (wanted, tuple(devices)) != (self._remotes, self._devices):
            self.close()
            self._remotes, self._devices = wanted, tuple(devices)

    def step(self, now: int) -> None:
        """Often: open or close the sockets, as the time says. What cannot be opened is logged."""
        if not self._remotes or not self._devices:
            return
        if self._began is None:
            self._began = now
        age = now - self._began
        wanted = age < FIRST_NS or (age - FIRST_NS) % PERIOD_NS < LISTEN_NS
        if wanted and not self._sockets:
            for name in self._devices:
                try:
                    self._sockets.append(self._listen(name))
                except OSError as error:
                    log.warning("loops by %s would not be noticed: %s", name, error.strerror)
        elif not wanted:
            self._shut()

    def _listen(self, device: str) -> socket.socket:
        made = packet.listen(device, _ALL, code(list(self._remotes)))
        asyncio.get_running_loop().add_reader(made, self._read, made)
        return made

    def _read(self, opened: socket.socket) -> None:
        for _ in range(_READ_LIMIT):
            try:
                frame = opened.recv(64)
            except OSError:  # nothing more, or the device has gone
                return
            remote = self._remotes.get(int.from_bytes(frame[_KEY_AT : _KEY_AT + 4], "big"))
            if remote is not None:
                self._heard(remote)

    def _shut(self) -> None:
        for opened in self._sockets:
            asyncio.get_running_loop().remove_reader(opened)
            packet.close(opened)
        self._sockets.clear()

    def close(self) -> None:
        """Begin anew at the next step. Idempotent."""
        self._shut()
        self._began = None
