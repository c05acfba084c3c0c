# SPDX-License-Identifier: GPL-2.0-only
"""Copies of frames: at every point along the path, by the filter that libpcap would apply, without loss of frames."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from appliance.config.schema.model import Config, Guest, Rule, Segment
from appliance.errors import RefusedError
from appliance.filter import libpcap
from appliance.filter.compiler import compile_filter
from appliance.steering.datapath import Datapath
from appliance.steering.explain.backends import run
from appliance.steering.explain.model import Where
from appliance.steering.kernel import layout
from appliance.steering.kernel.copies import RING_BYTES, Point
from appliance.steering.kernel.layout import CopiedValue, CopyWay, Role, Side, slot
from appliance.system import libbpf
from tests.support.frames import KINDS, tcp
from tests.support.pcap_corpus import EXPRESSIONS, crafted_frames
from tests.support.wire import Wire
from tests.support.wired_datapath import ALL, appliance, available

pytestmark = pytest.mark.root
LAN, WAN = slot(0, 0, Side.LAN), slot(0, 0, Side.WAN)
FROM_LAN = Where(Role.PORT, 0, Side.LAN)
COPY = layout.DEVICE_COPY_IN | layout.DEVICE_COPY_OUT
HEAD = 24


def parsed(record: bytes) -> tuple[Point, int, bytes]:
    """(where, length on the wire, bytes) of a copy."""
    head = CopiedValue.from_buffer_copy(record)
    return Point(head.slot, CopyWay(head.way)), head.length, record[HEAD : HEAD + head.captured]


@pytest.fixture
def datapath(bpf_object: Path) -> Iterator[Datapath]:
    """Private, one segment without rules, with simulated ports."""
    made = Datapath.open(bpf_object)
    made.set_policy(Config(segment=(Segment(name="main", lan="lan0", wan="wan0"),)))
    for place in (LAN, WAN):
        made.kernel.maps["tx"].set(place, 1)
        made.kernel.maps["targets"].set(place, layout.TargetValue(ifindex=1, flags=1, max=65535))
    yield made
    made.close()


@contextmanager
def capture(
    made: Datapath, points: set[Point], expression: str = "", size: int = layout.COPY_BYTES
) -> Iterator[tuple[libbpf.Ring, int]]:
    """A capture and its ring."""
    instructions = compile_filter(expression).instructions if expression else ()
    sink, fd = made.copies.begin(points, instructions, size)
    ring = libbpf.Ring(fd)
    try:
        yield ring, sink
    finally:
        ring.close()
        os.close(fd)
        made.copies.end(sink)


def test_filter_is_libpcaps(datapath: Datapath) -> None:
    """Every expression of the corpus takes exactly the frames that libpcap takes, each whole and unchanged."""
    frames = [frame for frame in (*crafted_frames(), *KINDS.values()) if len(frame) >= 14]
    for text in EXPRESSIONS:
        oracle = libpcap.make_program(compile_filter(text).instructions)
        with capture(datapath, {Point(LAN, CopyWay.IN)}, text) as (ring, _):
            for frame in frames:
                run(datapath, FROM_LAN, frame, "xdp", flags=COPY)
            got = [parsed(record)[2] for record in ring.read()]
        assert got == [frame for frame in frames if libpcap.run(oracle, frame)], text


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_frames_of_all_lengths(datapath: Datapath, kind: str) -> None:
    """Cut where the capture says, with the length on the wire; what is longer than a copy can be is cut there."""
    both = {Point(LAN, CopyWay.IN), Point(WAN, CopyWay.OUT)}
    for size in (layout.COPY_BYTES, 64, 1):
        with capture(datapath, both, size=size) as (ring, _):
            for length in (15, 60, 64, 65, 1514, 3300):
                frame = bytes(12) + b"\x88\xb6" + bytes(index & 255 for index in range(length - 14))
                run(datapath, FROM_LAN, frame, kind, flags=COPY)
                came = [parsed(record) for record in ring.read()]
                assert [point for point, _, _ in came] == [Point(LAN, CopyWay.IN), Point(WAN, CopyWay.OUT)]
                assert {(wire, data) for _, wire, data in came} == {(length, frame[:size])}


def test_nobody_looks(datapath: Datapath) -> None:
    """Without a capture nothing is copied, and the end of one capture does not affect the other."""
    with capture(datapath, {Point(LAN, CopyWay.IN)}) as (first, one):
        with capture(datapath, {Point(LAN, CopyWay.IN)}, "udp") as (second, two):
            run(datapath, FROM_LAN, tcp(), "xdp", flags=COPY)
            assert (len(first.read()), len(second.read())) == (1, 0)
        run(datapath, FROM_LAN, tcp(), "xdp", flags=COPY)
        assert len(first.read()) == 1
        assert datapath.copies.counts(one) == (2, 0)
        assert datapath.copies.counts(two) == (0, 0)
        assert datapath.copies.flags(LAN) == layout.DEVICE_COPY_IN
        assert datapath.copies.flags(WAN) == 0
    assert datapath.copies.flags(LAN) == 0


def test_a_full_ring_loses_copies_and_no_frame(wire: Wire, bpf_object: Path) -> None:
    """With a sleeping reader every frame still crosses, and lost copies are counted."""
    with appliance(wire, bpf_object) as made:
        available(made)
        with capture(made, {Point(LAN, CopyWay.IN)}) as (ring, sink):
            frames = RING_BYTES // 1500 + 500
            wire_frames = 0
            while sum(made.copies.counts(sink)) < frames:
                for number in range(32):
                    wire.send(number, pad=1450)
                wire_frames += 32
            copied, lost = made.copies.counts(sink)
            assert lost > 0
            assert copied + lost == wire_frames
            assert wire.stream(64) == []
            assert len(read_all(ring)) == made.copies.counts(sink)[0]


def read_all(ring: libbpf.Ring) -> list[bytes]:
    """Everything that waits in a ring."""
    records: list[bytes] = []
    while came := ring.read():
        records += came
    return records


@pytest.mark.parametrize("mode", ["xdp", "tc"])
def test_every_point_of_the_way(wire: Wire, bpf_object: Path, mode: str) -> None:
    """Through a guest: in at the port, to the guest, back from it, out of the other port; in that order, unchanged."""
    with appliance(wire, bpf_object, mode) as made:
        available(made)
        guest = made.hop_id("ips")
        taps = {side: slot(guest, 0, side) for side in Side}
        everywhere = {Point(place, way) for place in (LAN, WAN, *taps.values()) for way in CopyWay}
        with capture(made, everywhere, "ether proto 0x9000") as (ring, sink):
            assert wire.stream(32) == []
            came = [parsed(record) for record in read_all(ring)]
            assert made.copies.counts(sink) == (2 * 4 * 32, 0)
        there = [Point(LAN, CopyWay.IN), Point(taps[Side.LAN], CopyWay.OUT)]
        there += [Point(taps[Side.WAN], CopyWay.IN), Point(WAN, CopyWay.OUT)]
        back = [Point(WAN, CopyWay.IN), Point(taps[Side.WAN], CopyWay.OUT)]
        back += [Point(taps[Side.LAN], CopyWay.IN), Point(LAN, CopyWay.OUT)]
        ways: dict[bytes, list[Point]] = {}
        for point, length, data in came:
            assert length == len(data)
            ways.setdefault(data, []).append(point)
        assert sorted(ways.values()) == sorted([there] * 32 + [back] * 32)


@pytest.mark.parametrize("mode", ["xdp", "tc"])
def test_tags_are_in_the_copy(wire: Wire, bpf_object: Path, mode: str) -> None:
    """A VLAN tag that the kernel keeps beside the frame is where it was on the wire."""
    tag = bytes.fromhex("8100001e")
    with appliance(wire, bpf_object, mode) as made:
        available(made)
        tap = slot(made.hop_id("ips"), 0, Side.LAN)
        with capture(made, {Point(LAN, CopyWay.IN), Point(tap, CopyWay.OUT)}, "vlan 30") as (ring, sink):
            wire.send(7, vlan=tag)
            while made.copies.counts(sink)[0] < 2:
                assert made.copies.counts(sink)[1] == 0
            frames = [data for _, _, data in map(parsed, read_all(ring))]
        assert [frame[12:16] for frame in frames] == [tag, tag]
        assert frames[0] == frames[1]


def test_captures_are_bounded_and_forgotten_by_the_next_bypassd(wire: Wire, bpf_object: Path) -> None:
    """The eighth capture is refused with a message; a restarted bypassd finds no capture or flag of the earlier one."""
    with appliance(wire, bpf_object) as made:
        rings = [made.copies.begin({Point(LAN, CopyWay.IN)}, (), 64)[1] for _ in range(layout.MAX_COPIES - 1)]
        with pytest.raises(RefusedError, match="7 captures are running"):
            made.copies.begin({Point(LAN, CopyWay.IN)}, (), 64)
        next_one = Datapath.open(bpf_object, wire.pins)
        try:
            assert next_one.adopted
            point = next_one.kernel.maps["copy_points"].get(LAN)
            assert point is not None
            assert point.into == 0
            assert next_one.kernel.maps["copy_rings"].get(1) is None
        finally:
            next_one.close()
        for fd in rings:
            os.close(fd)


def test_a_hop_that_comes_later_is_watched_too(wire: Wire, bpf_object: Path) -> None:
    """Points may be named before their device exists: a guest's taps are recreated when it restarts."""
    config = Config(segment=ALL.segment, guest=(Guest(name="ips"),), rule=(Rule(name="all", path=("ips",)),))
    with appliance(wire, bpf_object, config=config) as made:
        available(made)
        tap = slot(made.hop_id("ips"), 0, Side.WAN)
        with capture(made, {Point(tap, CopyWay.IN)}, "ether proto 0x9000") as (ring, _):
            wire.inside(lambda: made.detach_hop("ips"))
            assert wire.stream(32) == []
            wire.inside(lambda: made.attach_hop("tapl", "ips", "main", Side.LAN))
            wire.inside(lambda: made.attach_hop("tapw", "ips", "main", Side.WAN))
            assert wire.stream(32) == []
            assert len(read_all(ring)) == 32
