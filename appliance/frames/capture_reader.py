# SPDX-License-Identifier: GPL-2.0-only
"""Reads capture files (pcap in either byte order, pcapng) frame by frame: scapy would take seconds to import.

Accepts what libpcap's own offline reader accepts of Ethernet captures. A file that is cut off gives its whole frames
first and the error after them. Source of the formats: draft-ietf-opsawg-pcap, draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Final, NamedTuple

from appliance.errors import BypassError

_MAGIC: Final = {0xA1B2C3D4: 16, 0xA1B23C4D: 16, 0xA1B2CD34: 24}  # -> bytes of a record's header
_ETHERNET: Final = 1
_SECTION, _INTERFACE, _OLD_PACKET, _SIMPLE, _ENHANCED = 0x0A0D0D0A, 1, 2, 3, 6
_SECTION_BYTES: Final = _SECTION.to_bytes(4, "big")  # the same in both byte orders
_BYTE_ORDER: Final = b"\x1a\x2b\x3c\x4d"
MAX_FRAME: Final = 262_144  # bytes; libpcap's MAXIMUM_SNAPLEN
MAX_BLOCK: Final = 16 << 20  # bytes of a pcapng block, as in libpcap


class CaptureError(BypassError):
    """The capture file cannot be read."""


class Captured(NamedTuple):
    """One frame. `length`: bytes on the wire, which are more than `data` where the capture cut the frame."""

    data: bytes
    length: int

    @property
    def cut(self) -> bool:
        """Whether the capture lacks the end of the frame."""
        return self.length > len(self.data)

    @property
    def whole(self) -> bytes:
        """The frame at its length on the wire; zeros stand for what the capture lacks."""
        return self.data.ljust(self.length, b"\0")


def read(path: Path | IO[bytes]) -> Iterator[Captured]:
    """The frames of an Ethernet capture, which may be open already.

    CaptureError says what is wrong with the file, after the frames before it.
    """
    try:
        with path.open("rb") if isinstance(path, Path) else nullcontext(path) as file:
            yield from _frames(_Reader(file))
    except OSError as error:
        raise CaptureError(f"{_name(path)}: cannot be read: {error.strerror}") from error
    except (struct.error, ValueError) as error:
        raise CaptureError(f"{_name(path)}: {error}") from error


def _name(path: Path | IO[bytes]) -> str:
    return str(path) if isinstance(path, Path) else "standard input"


class _Reader:
    """Read bytes from a file and count them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.at = file, 0

    def take(self, size: int) -> bytes:
        """Exactly so many bytes; ValueError where the file ends before."""
        data = self._file.read(size)
        if len(data) < size:
            raise ValueError(f"the file is cut off at byte {self.at + len(data)}")
        self.at += size
        return data

    def begin(self, size: int) -> bytes:
        """The same, but the file may end here; b"" at its end."""
        data = self._file.read(1)
        self.at += len(data)
        return data + self.take(size - 1) if data else b""


def _frames(file: _Reader) -> Iterator[Captured]:
    head = file.begin(4)
    if head == _SECTION_BYTES:
        return _pcapng(file, head)
    order = next((order for order in "<>" if head and struct.unpack(f"{order}I", head)[0] in _MAGIC), "")
    if not order:
        raise ValueError("not a pcap or pcapng file")
    return _pcap(file, order, _MAGIC[struct.unpack(f"{order}I", head)[0]])


def _check_link_type(number: int) -> None:
    if number & 0xFFFF != _ETHERNET:
        raise ValueError(f"link type {number & 0xFFFF}: only Ethernet captures can be run")


def _check_length(captured: int, at: int) -> None:
    if captured > MAX_FRAME:
        raise ValueError(f"a frame of {captured} bytes at byte {at}: the file is damaged (at most {MAX_FRAME})")


def _pcap(file: _Reader, order: str, header: int) -> Iterator[Captured]:
    major, minor, _, _, _, link = struct.unpack(f"{order}HHiIII", file.take(20))
    if major != 2 or minor > 4:
        raise ValueError(f"pcap version {major}.{minor} is not supported (2.0 to 2.4 are)")
    _check_link_type(link)
    while record := file.begin(header):
        captured, length = struct.unpack_from(f"{order}II", record, 8)
        if minor < 3 or (minor == 3 and captured > length):  # the two lengths were written the other way round
            captured, length = length, captured
        _check_length(captured, file.at)
        yield Captured(file.take(captured), length)


def _pcapng(file: _Reader, kind: bytes) -> Iterator[Captured]:
    order, snaps = "<", list[int]()  # of the section: byte order, and the snapshot length of each interface
    while kind:
        began = file.at - 4
        raw = file.take(4)
        if kind == _SECTION_BYTES:
            mark = file.take(4)
            if mark not in (_BYTE_ORDER, _BYTE_ORDER[::-1]):
                raise ValueError(f"the section at byte {began} has no byte-order mark")
            order, snaps = ">" if mark == _BYTE_ORDER else "<", []
            body = mark + _rest(file, order, raw, 16, began)
            major, minor = struct.unpack_from(f"{order}HH", body, 4)
            if major != 1 or minor not in (0, 2):
                raise ValueError(f"pcapng version {major}.{minor} is not supported (1.0 is)")
        else:
            body = _rest(file, order, raw, 12, began)
            number = struct.unpack(f"{order}I", kind)[0]
            if number == _INTERFACE:
                link, _, snap = struct.unpack_from(f"{order}HHI", body)
                _check_link_type(link)
                snaps.append(snap)
            elif number in (_OLD_PACKET, _SIMPLE, _ENHANCED):
                yield _packet(number, order, body, snaps, began)
        kind = file.begin(4)


def _rest(file: _Reader, order: str, raw: bytes, taken: int, began: int) -> bytes:
    """What follows in a block whose length is `raw`, without that length at its end. `taken`: bytes besides."""
    size = struct.unpack(f"{order}I", raw)[0]
    if not taken <= size <= MAX_BLOCK or size % 4:
        raise ValueError(f"the block at byte {began} has the length {size}")
    body = file.take(size - taken)
    if file.take(4) != raw:
        raise ValueError(f"the block at byte {began} ends with another length than it begins with")
    return body


def _packet(number: int, order: str, body: bytes, snaps: list[int], began: int) -> Captured:
    if number == _SIMPLE:
        interface, at = 0, 4
        length = struct.unpack_from(f"{order}I", body)[0]
        captured = min(length, snaps[0] or length, len(body) - at) if snaps else 0
    else:
        at = 20
        interface = struct.unpack_from(f"{order}I" if number == _ENHANCED else f"{order}H", body)[0]
        captured, length = struct.unpack_from(f"{order}II", body, 12)
    if interface >= len(snaps):
        raise ValueError(f"the frame at byte {began} is of interface {interface}, which the file does not describe")
    _check_length(captured, began)
    if at + captured > len(body):
        raise ValueError(f"the frame at byte {began} is longer than its block")
    return Captured(body[at : at + captured], length)
