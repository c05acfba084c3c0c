# SPDX-License-Identifier: GPL-2.0-only
"""Packet sockets of one device that get only the frames that a filter in the kernel keeps (packet(7)).

A socket that had a device is not closed in the event loop: the kernel waits there until no processor can still be
giving it a frame (packet_release, synchronize_net), which takes 8 to 16 ms on an idle machine.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

_SOL_PACKET: Final = 263
_IGNORE_OUTGOING: Final = 23
_SO_ATTACH_FILTER: Final = 26

Line = tuple[int, int, int, int]
"""Of a filter in classic BPF: code, jump if true, jump if false, value."""


def attach(sock: socket.socket, code: Sequence[Line]) -> None:
    """Keep the frames for which the filter returns their length. OSError: the kernel refuses it."""
    text = b"".join(struct.pack("HBBI", *line) for line in code)
    buffer = ctypes.create_string_buffer(text, len(text))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer)))


def listen(device: str, protocol: int, code: Sequence[Line], *options: int) -> socket.socket:
    """A socket that does not block, for frames of `protocol` (an EtherType) that come in by `device`.

    `options`: of SOL_PACKET, to be switched on. OSError: no such device, or packet sockets are not allowed.
    """
    # Opened without a protocol: nothing is received before the filter and the device are set.
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        attach(made, code)
        for option in (_IGNORE_OUTGOING, *options):
            made.setsockopt(_SOL_PACKET, option, 1)
        made.bind((device, protocol))
    except OSError:
        made.close()
        raise
    return made


def close(sock: socket.socket) -> None:
    """Close it in a thread; without an event loop, here. The loop must not read it any more. Idempotent."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        sock.close()
    else:
        loop.run_in_executor(None, sock.close)


@contextmanager
def closing(sock: socket.socket) -> Iterator[socket.socket]:
    """`close` at the end of a block."""
    try:
        yield sock
    finally:
        close(sock)
