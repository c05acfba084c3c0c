# SPDX-License-Identifier: GPL-2.0-only
"""Reads capture files (pcap in either byte order, pcapng) as plain frames: scapy would take seconds to import.

Source of the formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

from appliance.errors import BypassError

_MAGIC = {0xA1B2C3D4, 0xA1B23C4D}
_ETHERNET = 1
_SECTION, _INTERFACE, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 3, 6


class CaptureError(BypassError):
    """The capture file cannot be read."""


def read(path: Path) -> Iterator[bytes]:
    """The frames of an Ethernet capture, as captured. CaptureError says what is wrong with the file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CaptureError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        if data[:4] == _SECTION.to_bytes(4, "big"):
            yield from _pcapng(data)
        else:
            yield from _pcap(data)
    except (struct.error, ValueError) as error:
        raise CaptureError(f"{path}: {error}") from error


def _linktype(number: int) -> None:
    if number & 0xFFFF != _ETHERNET:
        raise ValueError(f"link type {number & 0xFFFF}: only Ethernet captures can be run")


def _pcap(data: bytes) -> Iterator[bytes]:
    order = next(
        (order for order in "<>" if len(data) >= 24 and struct.unpack_from(f"{order}I", data)[0] in _MAGIC), ""
    )
    if not order:
        raise ValueError("not a pcap or pcapng file")
    _linktype(struct.unpack_from(f"{order}I", data, 20)[0])
    at = 24
    while at < len(data):
        if at + 16 > len(data):
            raise ValueError(f"cut off at byte {at}")
        size = struct.unpack_from(f"{order}I", data, at + 8)[0]
        at += 16
        if at + size > len(data):
            raise ValueError(f"cut off at byte {at}")
        yield data[at : at + size]
        at += size


def _pcapng(data: bytes) -> Iterator[bytes]:
    at, order = 0, "<"
    while at < len(data):
        if at + 12 > len(data):
            raise ValueError(f"cut off at byte {at}")
        if data[at : at + 4] == _SECTION.to_bytes(4, "big"):
            order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if size < 12 or at + size > len(data):
            raise ValueError(f"cut off at byte {at}")
        if kind == _INTERFACE:
            _linktype(struct.unpack_from(f"{order}H", data, at + 8)[0])
        elif kind == _ENHANCED:
            captured = struct.unpack_from(f"{order}I", data, at + 20)[0]
            if captured > size - 32:
                raise ValueError(f"a block at byte {at} is longer than it says")
            yield data[at + 28 : at + 28 + captured]
        elif kind == _SIMPLE:
            wire = struct.unpack_from(f"{order}I", data, at + 8)[0]
            yield data[at + 12 : at + 12 + min(wire, size - 16)]
        at += size
