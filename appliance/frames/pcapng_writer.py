# SPDX-License-Identifier: GPL-2.0-only
"""Writes pcapng, for captures and incidents. Every Wireshark tool reads it.

Source of the format: draft-ietf-opsawg-pcapng. Little-endian, Ethernet, nanoseconds. The caller owns the stream and
closes it; errors are the stream's own (OSError, BrokenPipeError).
"""

from __future__ import annotations

import struct
from typing import IO, Final

_SECTION: Final = 0x0A0D0D0A
_BYTE_ORDER: Final = 0x1A2B3C4D
_INTERFACE, _STATISTICS, _PACKET = 1, 5, 6
_ETHERNET: Final = 1
_COMMENT = 1
_SHB_HARDWARE, _SHB_OS, _SHB_APPLICATION = 2, 3, 4
_IF_NAME, _IF_DESCRIPTION, _IF_TSRESOL, _IF_FILTER = 2, 3, 9, 11
_EPB_FLAGS = 2
_ISB_RECEIVED, _ISB_DROPPED, _ISB_DELIVERED = 4, 5, 8
_INBOUND, _OUTBOUND = 1, 2


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _text(code: int, text: str) -> bytes:
    return _option(code, text.encode("utf-8", "replace")[:65535]) if text else b""


def _block(kind: int, body: bytes, options: bytes = b"") -> bytes:
    if options:
        options += struct.pack("<HH", 0, 0)
    size = struct.pack("<I", 12 + len(body) + len(options))
    return struct.pack("<I", kind) + size + body + options + size


class Writer:
    """One section in a binary stream. Never flushes the stream."""

    def __init__(self, out: IO[bytes], application: str, *, hardware: str = "", comment: str = "") -> None:
        """Write the section header. `application`: name and version of the capturing program."""
        import os

        system = os.uname()
        options = _text(_COMMENT, comment) + _text(_SHB_HARDWARE, hardware)
        options += _text(_SHB_OS, f"{system.sysname} {system.release}") + _text(_SHB_APPLICATION, application)
        self._out, self._interfaces = out, 0
        out.write(_block(_SECTION, struct.pack("<IHHq", _BYTE_ORDER, 1, 0, -1), options))

    def interface(self, name: str, description: str = "", *, snap: int = 0, capture_filter: str = "") -> int:
        """Declare an interface and return its number for `packet`. `snap` in bytes, 0: frames are complete."""
        options = _text(_IF_NAME, name) + _text(_IF_DESCRIPTION, description) + _option(_IF_TSRESOL, b"\x09")
        if capture_filter:
            options += _option(_IF_FILTER, b"\0" + capture_filter.encode("utf-8", "replace")[:65534])
        self._out.write(_block(_INTERFACE, struct.pack("<HHI", _ETHERNET, 0, snap), options))
        self._interfaces += 1
        return self._interfaces - 1

    def packet(
        self,
        interface: int,
        when: int,
        data: bytes,
        length: int = 0,
        *,
        outbound: bool | None = None,
        comment: str = "",
    ) -> None:
        """One frame. `when` in ns since 1970; `length` on the wire, 0: `data` is all of it."""
        head = struct.pack(
            "<IIIII", interface, when >> 32 & 0xFFFFFFFF, when & 0xFFFFFFFF, len(data), length or len(data)
        )
        options = _text(_COMMENT, comment)
        if outbound is not None:
            options += _option(_EPB_FLAGS, struct.pack("<I", _OUTBOUND if outbound else _INBOUND))
        self._out.write(_block(_PACKET, head + data + bytes(-len(data) % 4), options))

    def statistics(self, interface: int, when: int, *, received: int, dropped: int) -> None:
        """Write the interface's statistics: frames that matched, and how many of them are missing from the file."""
        options = _option(_ISB_RECEIVED, struct.pack("<Q", received)) + _option(
            _ISB_DROPPED, struct.pack("<Q", dropped)
        )
        options += _option(_ISB_DELIVERED, struct.pack("<Q", received - dropped))
        head = struct.pack("<III", interface, when >> 32 & 0xFFFFFFFF, when & 0xFFFFFFFF)
        self._out.write(_block(_STATISTICS, head, options))
