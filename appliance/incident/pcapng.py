# SPDX-License-Identifier: GPL-2.0-only
"""Writes frames as pcapng, for Wireshark and every other reader: one interface a tap, nanoseconds, comments. Pure.

Source of the format: draft-ietf-opsawg-pcapng. Reading is done by steering/capture.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_SECTION, _INTERFACE, _ENHANCED = 0x0A0D0D0A, 1, 6
_ETHERNET = 1
_END, _COMMENT, _APPLICATION, _NAME, _RESOLUTION, _FLAGS = 0, 1, 4, 2, 9, 2
_OUTBOUND = 2
OPTION_BYTES = 60_000
"""Of one comment at most: its length has 16 bits."""


class Frame(NamedTuple):
    """`interface` is an index, `at` in nanoseconds since 1970, `length` the frame's own, `data` what was kept of it."""

    interface: int
    at: int
    length: int
    data: bytes


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + _padded(value)


def _block(kind: int, body: bytes, options: Iterable[tuple[int, bytes]]) -> bytes:
    text = b"".join(_option(code, value) for code, value in options)
    body = _padded(body) + (text + _option(_END, b"") if text else b"")
    size = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + size + body + size


def _text(text: str) -> bytes:
    return text.encode(errors="replace")[:OPTION_BYTES]


def write(application: str, comments: Sequence[str], interfaces: Sequence[str], frames: Iterable[Frame]) -> bytes:
    """A whole file. Empty comments are left out."""
    about = [(_COMMENT, _text(comment)) for comment in comments if comment]
    head = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
    blocks = [_block(_SECTION, head, [*about, (_APPLICATION, _text(application))])]
    for name in interfaces:
        body = struct.pack("<HHI", _ETHERNET, 0, 0)
        blocks.append(_block(_INTERFACE, body, [(_NAME, _text(name)), (_RESOLUTION, b"\x09")]))
    for frame in frames:
        high, low = divmod(frame.at, 1 << 32)
        body = struct.pack("<IIIII", frame.interface, high, low, len(frame.data), frame.length) + frame.data
        blocks.append(_block(_ENHANCED, body, [(_FLAGS, struct.pack("<I", _OUTBOUND))]))
    return b"".join(blocks)
