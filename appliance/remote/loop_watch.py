# SPDX-License-Identifier: GPL-2.0-only
"""Finds loops over several appliances: heartbeats of our own remotes, where frames of other appliances come in.

Every appliance of a loop sends heartbeats into it, and knows its own by the key in their source address, a secret of
this run of bypassd. One that comes in by a tunnel of a [[serve]] has gone round. So no hop limit has to be carried, in
frames that nobody may change.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import socket
import struct
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

_ALL = 0x0003  # ETH_P_ALL: before the datapath takes the frame
_SOL_PACKET, _PACKET_IGNORE_OUTGOING, _SO_ATTACH_FILTER = 263, 23, 26
_READ_LIMIT = 32
_KEY_AT = 8  # of a frame: the last four bytes of its source address
_FULL = 250  # keys of one filter, whose jumps have eight bits

Line = tuple[int, int, int, int]


def code(keys: Sequence[int]) -> list[Line]:
    """Classic BPF, (code, jump true, jump false, value): keep 64 bytes of frames with one of the keys, drop others."""
    wanted = list(dict.fromkeys(keys))[:_FULL]
    compare = [(0x15, len(wanted) - at, 0, key) for at, key in enumerate(wanted)]  # jeq: to the last line
    return [(0x20, 0, 0, _KEY_AT), *compare, (0x06, 0, 0, 0), (0x06, 0, 0, 64)]


class LoopWatch:
    """The sockets at the two tunnels of one [[serve]]."""

    def __init__(self, key: Callable[[str], int], heard: Callable[[str], None]) -> None:
        """`key(remote)`: that of its heartbeats; `heard(remote)`: one of them came in."""
        self._key, self._heard = key, heard
        self._remotes: dict[int, str] = {}  # by key
        self._devices: tuple[str, ...] = ()
        self._sockets: list[socket.socket] = []

    def follow(self, remotes: Sequence[str]) -> None:
        """The remotes whose heartbeats are listened for, from now on."""
        wanted = {self._key(name): name for name in remotes}
        if wanted != self._remotes:
            self._remotes = wanted
            self.open(self._devices)

    def open(self, devices: Sequence[str]) -> None:
        """Listen at these devices, and no more at those before. What cannot be opened is logged."""
        self.close()
        self._devices = tuple(devices)
        for name in self._devices if self._remotes else ():
            try:
                self._sockets.append(self._listen(name))
            except OSError as error:
                log.warning("loops by %s would not be noticed: %s", name, error.strerror)

    def _listen(self, device: str) -> socket.socket:
        # Opened without a protocol: nothing is received before the filter and the interface are set.
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            lines = code(list(self._remotes))
            text = b"".join(struct.pack("HBBI", *line) for line in lines)
            buffer = ctypes.create_string_buffer(text, len(text))
            program = struct.pack("HxxxxxxP", len(lines), ctypes.addressof(buffer))
            made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
            made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            made.bind((device, _ALL))
            asyncio.get_running_loop().add_reader(made, self._read, made)
        except OSError:
            made.close()
            raise
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

    def close(self) -> None:
        """Idempotent."""
        for opened in self._sockets:
            asyncio.get_running_loop().remove_reader(opened)
            opened.close()
        self._sockets.clear()
