# SPDX-License-Identifier: GPL-2.0-only
"""Capture files: what libpcap's reader accepts gives the same frames and lengths; everything else is named."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.utils import wrpcap, wrpcapng

from appliance.frames.capture_reader import Captured, CaptureError, read

FRAME = bytes(range(60))


def pcap(
    *records: tuple[bytes, int], order: str = "<", magic: int = 0xA1B2C3D4, minor: int = 4, link: int = 1
) -> bytes:
    head = struct.pack(f"{order}IHHiIII", magic, 2, minor, 0, 0, 65535, link)
    extra = b"\0" * 8 if magic == 0xA1B2CD34 else b""
    return head + b"".join(struct.pack(f"{order}IIII", 1, 2, len(d), n) + extra + d for d, n in records)


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body = body.ljust(-(-len(body) // 4) * 4, b"\0")
    size = struct.pack(f"{order}I", len(body) + 12)
    return struct.pack(f"{order}I", kind) + size + body + size


def section(order: str = "<", major: int = 1, minor: int = 0) -> bytes:
    return block(0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, major, minor, -1), order)


def interface(order: str = "<", link: int = 1, snap: int = 0) -> bytes:
    return block(1, struct.pack(f"{order}HHI", link, 0, snap), order)


def enhanced(data: bytes, length: int, number: int = 0, order: str = "<") -> bytes:
    return block(6, struct.pack(f"{order}IIIII", number, 0, 0, len(data), length) + data, order)


def old(data: bytes, length: int, order: str = "<") -> bytes:
    return block(2, struct.pack(f"{order}HHIIII", 0, 7, 0, 0, len(data), length) + data, order)


WHOLE = Captured(FRAME, 60)
GOOD = {
    "little": (pcap((FRAME, 60)), [WHOLE]),
    "big": (pcap((FRAME, 60), order=">"), [WHOLE]),
    "nanoseconds": (pcap((FRAME, 60), magic=0xA1B23C4D), [WHOLE]),
    "patched": (pcap((FRAME, 60), magic=0xA1B2CD34), [WHOLE]),
    "no frame": (pcap(), []),
    "cut by the capture": (pcap((FRAME, 1454)), [Captured(FRAME, 1454)]),
    "lengths the other way round": (
        pcap().replace(b"\x02\0\x04\0", b"\x02\0\x02\0") + struct.pack("<IIII", 0, 0, 1454, 60) + FRAME,
        [Captured(FRAME, 1454)],
    ),
    "pcapng": (section() + interface() + enhanced(FRAME, 1454), [Captured(FRAME, 1454)]),
    "pcapng, big": (section(">") + interface(">") + enhanced(FRAME, 60, order=">"), [WHOLE]),
    "old packet block": (section() + interface() + old(FRAME, 60) + old(FRAME, 70), [WHOLE, Captured(FRAME, 70)]),
    "simple packet block": (
        section() + interface(snap=60) + block(3, struct.pack("<I", 99) + FRAME),
        [Captured(FRAME, 99)],
    ),
    "other blocks": (
        section() + interface() + block(5, b"\0" * 12) + block(0xBAD, b"abc") + enhanced(FRAME, 60),
        [WHOLE],
    ),
    "a second section": (
        section() + interface() + section(">") + interface(">") + enhanced(FRAME, 60, 0, ">"),
        [WHOLE],
    ),
}
BAD = {
    "text": (b"hello, this is no capture", 0, "not a pcap"),
    "empty": (b"", 0, "not a pcap"),
    "old version": (
        pcap((FRAME, 60)).replace(b"\x02\0\x04\0", b"\x01\0\x04\0"),
        0,
        "pcap version 1.4 is not supported",
    ),
    "new version": (pcap((FRAME, 60), minor=9), 0, "pcap version 2.9 is not supported"),
    "link type": (pcap((FRAME, 60), link=113), 0, "link type 113: only Ethernet"),
    "huge frame": (pcap() + struct.pack("<IIII", 0, 0, 1 << 30, 1 << 30), 0, "the file is damaged"),
    "cut in a frame": (pcap((FRAME, 60), (FRAME, 60))[:-3], 1, "cut off at byte 173"),
    "cut in a head": (pcap((FRAME, 60)) + b"abc", 1, "cut off at byte 103"),
    "cut in a block": ((section() + interface() + enhanced(FRAME, 60) + enhanced(FRAME, 60))[:-1], 1, "cut off"),
    "pcapng version": (section(major=2), 0, "pcapng version 2.0 is not supported"),
    "byte order": (block(0x0A0D0D0A, b"\0" * 16), 0, "no byte-order mark"),
    "pcapng link type": (section() + interface(link=105), 0, "link type 105"),
    "no interface": (section() + enhanced(FRAME, 60), 0, "interface 0, which the file does not describe"),
    "interface of the section before": (section() + interface() + section() + enhanced(FRAME, 60), 0, "interface 0"),
    "block length": (section() + struct.pack("<II", 6, 7), 0, "has the length 7"),
    "lengths that differ": (section() + interface()[:-4] + struct.pack("<I", 24), 0, "ends with another length"),
    "longer than its block": (
        section() + interface() + block(6, struct.pack("<IIIII", 0, 0, 0, 99, 99) + FRAME),
        0,
        "longer than its block",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_frames_and_their_lengths_on_the_wire(name: str, tmp_path: Path) -> None:
    data, expected = GOOD[name]
    (tmp_path / "file").write_bytes(data)
    assert list(read(tmp_path / "file")) == expected


@pytest.mark.parametrize("name", BAD)
def test_frames_before_a_fault_and_then_the_fault(name: str, tmp_path: Path) -> None:
    """Complete frames come first, then one error that names the file."""
    data, count, words = BAD[name]
    (tmp_path / "file").write_bytes(data)
    found: list[Captured] = []
    with pytest.raises(CaptureError, match=words) as error:
        found.extend(read(tmp_path / "file"))
    assert len(found) == count
    assert str(error.value).startswith(str(tmp_path / "file"))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="cannot be read: No such file"):
        list(read(tmp_path / "file"))


def test_what_scapy_writes(tmp_path: Path) -> None:
    """pcap and pcapng give the same frames."""
    frames = [Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / upper for upper in (IP() / UDP(), ARP())]
    wrpcap(str(tmp_path / "a.pcap"), frames)
    wrpcapng(str(tmp_path / "a.pcapng"), frames)
    expected = [bytes(frame) for frame in frames]
    for name in ("a.pcap", "a.pcapng"):
        assert [frame.data for frame in read(tmp_path / name)] == expected


def test_a_cut_frame_has_its_length_on_the_wire() -> None:
    assert (len(Captured(FRAME, 1454).whole), Captured(FRAME, 1454).cut) == (1454, True)
    assert (Captured(FRAME, 60).whole, Captured(FRAME, 60).cut) == (FRAME, False)
