# SPDX-License-Identifier: GPL-2.0-only
"""Checksums that a host left to its device are completed on arrival, and no other byte is changed."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from appliance.config.schema.model import Config, Segment
from appliance.steering.explain.backends import LOOPBACK, UNLIMITED, furnish
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Role, Side, slot
from appliance.system import libbpf
from tests.support.frames import KINDS, ether
from tests.support.twin import Twin

pytestmark = pytest.mark.root
FIELD = {TCP: 16, UDP: 6}


@pytest.fixture(scope="module")
def program(bpf_object: Path) -> Iterator[int]:
    """The entry program that finishes checksums, with the loopback device as a port."""
    twin = Twin(bpf_object, Config(segment=(Segment(name="main", lan="lan0", wan="wan0"),)))
    furnish(twin.datapath, [slot(0, 0, side) for side in Side])
    port = layout.DeviceValue(role=Role.PORT, side=Side.LAN, slot=0, peer_max=UNLIMITED, peer_max_sg=UNLIMITED)
    twin.maps["devices"].set(LOOPBACK, port)
    yield twin.datapath.kernel.programs["entry_filling_xdp"]
    twin.close()


def through(program: int, frame: bytes) -> bytes:
    action, out, _ = libbpf.run_frame(program, frame, 1)
    assert action == 4  # XDP_REDIRECT
    return out


def finished(six: bool, layer: type[TCP | UDP], size: int, rng: random.Random) -> bytes:
    """A frame with the right checksum."""
    ip = IPv6(src="fd00::1", dst="fd01::9") if six else IP(src="10.0.0.5", dst="10.1.0.9")
    return bytes(ether() / ip / layer(sport=rng.randrange(1, 65536), dport=80) / rng.randbytes(size))


def left_open(frame: bytes, six: bool, layer: type[TCP | UDP]) -> bytes:
    """The same as a host with offloads sends it: the sum of the pseudo header in place of the checksum."""
    begin = 54 if six else 34
    addresses = frame[22:54] if six else frame[26:34]
    protocol = 6 if layer is TCP else 17
    length = len(frame) - begin
    pseudo = addresses + struct.pack("!II", length, protocol)
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    at = begin + FIELD[layer]
    return frame[:at] + struct.pack("!H", total) + frame[at + 2 :]


def tagged(frame: bytes) -> bytes:
    """In VLAN 30."""
    return frame[:12] + b"\x81\x00\x00\x1e" + frame[12:]


@pytest.mark.parametrize("layer", [TCP, UDP])
@pytest.mark.parametrize("six", [False, True])
def test_left_open_is_finished(program: int, six: bool, layer: type[TCP | UDP]) -> None:
    """Every length up to some blocks, then up to full size: what comes out is what the hardware would have sent."""
    rng = random.Random(7)
    for size in (*range(140), 500, 1000, 1399, 1400, 1448, 1460, 2000, 3000):
        frame = finished(six, layer, size, rng)
        open_ = left_open(frame, six, layer)
        assert through(program, open_) == frame, size
        assert through(program, frame) == frame, size
        assert through(program, tagged(open_)) == tagged(frame), size


def test_everything_else_is_left_alone(program: int) -> None:
    """Other kinds of frames, broken checksums, frames cut short, lengths that lie: not a byte changes."""
    rng = random.Random(8)
    for frame in KINDS.values():
        for cut in (len(frame), 60, 55, 43, 41, 20, 14):
            assert through(program, frame[:cut]) == frame[:cut]
    for six in (False, True):
        frame = left_open(finished(six, TCP, 300, rng), six, TCP)
        assert through(program, frame[:200]) == frame[:200]
        lying = bytearray(frame)
        lying[16 if not six else 18] ^= 0x40
        assert through(program, bytes(lying)) == bytes(lying)
        broken = bytearray(finished(six, UDP, 64, rng))
        broken[-1] ^= 1
        assert through(program, bytes(broken)) == bytes(broken)
        assert through(program, tagged(tagged(frame))) == tagged(tagged(frame))
