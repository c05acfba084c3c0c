# SPDX-License-Identifier: GPL-2.0-only
"""The recorder in the real programs: the last frames sent to a hop, complete, in order; when it was first skipped."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from appliance.config.schema import model
from appliance.health.inband import Direction, Lane, make_nonce
from appliance.health.inband_routed import Route
from appliance.steering.explain.model import Where
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Outcome, Role, Side
from appliance.steering.kernel.recorder import ring_size
from tests.support.twin import Twin

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ADDRESSES = bytes.fromhex("020000000001020000000002")
TAGGED = ADDRESSES + bytes.fromhex("8100002a") + b"\x88\xcc" + bytes(range(60))


def frame(number: int, size: int = 60) -> bytes:
    return ADDRESSES + b"\x88\xcc" + bytes([number & 0xFF] * (size - 14))


def guest(name: str, frames: int) -> model.Guest:
    return model.Guest(name=name, kernel="/x", recorder=model.Recorder(frames=frames))


CONFIG = model.Config(
    segment=(model.Segment(name="main", lan="lan0", wan="wan0"),),
    guest=(guest("ips1", 8), guest("quiet", 0)),
    rule=(
        model.Rule(name="quiet", match="ether[14] = 255", path=("quiet",)),
        model.Rule(name="all", path=("ips1",)),
    ),
)


@pytest.fixture
def twin(bpf_object: Path) -> Iterator[Twin]:
    made = Twin(bpf_object, CONFIG)
    made.attach()
    made.supervise()
    for name in ("ips1", "quiet"):
        made.lease(name)
    made.datapath.record("ips1", 8, 1536)
    yield made
    made.close()


def port(twin: Twin, side: Side = Side.LAN) -> Where:
    return Where(Role.PORT, twin.datapath.segment_id("main"), side)


def hop(twin: Twin, name: str, side: Side) -> Where:
    return Where(Role.HOP, twin.datapath.segment_id("main"), side, twin.datapath.hop_id(name))


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_the_last_frames_in_order(twin: Twin, kind: str) -> None:
    for number in range(20):
        twin.kernel(port(twin, Side(number & 1)), frame(number, 60 + number), kind)
    kept = twin.datapath.recorded("ips1")
    assert [one.data for one in kept] == [frame(number, 60 + number) for number in range(12, 20)]
    assert [one.number for one in kept] == list(range(13, 21))
    assert [one.side for one in kept] == [Side(number & 1) for number in range(12, 20)]
    assert all(one.length == len(one.data) for one in kept)
    assert [one.at for one in kept] == sorted(one.at for one in kept)
    assert 0 <= time.monotonic_ns() - kept[-1].at < 60_000_000_000
    assert [one.number for one in twin.datapath.recorded("ips1", after=18)] == [19, 20]


def test_only_frames_that_were_handed_to_it(twin: Twin) -> None:
    """Not frames that bypassed it, not those of a dry run, and none for a hop without a recorder."""
    twin.kernel(port(twin), frame(1), flags=layout.DEVICE_DRY)
    twin.kernel(port(twin), frame(255))
    twin.lease("ips1", good=False)
    twin.kernel(port(twin), frame(2))
    assert twin.datapath.recorded("ips1") == []
    assert twin.datapath.recorded("quiet") == []


def test_long_frames_are_cut_and_tags_kept(twin: Twin) -> None:
    twin.kernel(port(twin), TAGGED, "xdp")
    twin.kernel(port(twin), TAGGED, "tc")
    assert [one.data for one in twin.datapath.recorded("ips1")] == [TAGGED, TAGGED]
    twin.datapath.record("ips1", 8, 64)
    twin.kernel(port(twin), frame(7, 1000))
    [kept] = twin.datapath.recorded("ips1")
    assert (kept.data, kept.length) == (frame(7, 1000)[:64], 1000)


def test_a_ring_of_the_right_size_stays(twin: Twin) -> None:
    """A restarted bypassd, or an unchanged configuration, loses nothing that was recorded."""
    twin.kernel(port(twin), frame(1))
    twin.datapath.record("ips1", 7, 1536)
    assert len(twin.datapath.recorded("ips1")) == 1
    twin.datapath.record("ips1", 16, 1536)
    assert twin.datapath.recorded("ips1") == []
    twin.datapath.record("ips1", 0, 1536)
    twin.kernel(port(twin), frame(2))
    assert twin.datapath.recorded("ips1") == []
    assert [ring_size(frames) for frames in (1, 2, 3, 256, 4096)] == [1, 2, 4, 256, 4096]


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_the_first_frame_around_is_noted_once(twin: Twin, kind: str) -> None:
    """From the end of a lease: when the first frame bypassed the hop; a new lease resets it."""
    datapath = twin.datapath
    datapath.leases.renew("ips1", time.monotonic_ns() + 10**12)
    twin.kernel(port(twin), frame(1), kind)
    assert datapath.leases.first_skip("ips1") == 0
    datapath.leases.revoke("ips1")
    twin.kernel(port(twin), frame(1), kind, flags=layout.DEVICE_DRY)
    assert datapath.leases.first_skip("ips1") == 0
    before = time.monotonic_ns()
    twin.kernel(port(twin), frame(1), kind)
    noted = datapath.leases.first_skip("ips1")
    assert before <= noted <= time.monotonic_ns()
    twin.kernel(port(twin), frame(1), kind)
    assert datapath.leases.first_skip("ips1") == noted
    datapath.leases.renew("ips1", time.monotonic_ns() + 10**12)
    assert datapath.leases.first_skip("ips1") == 0


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_our_own_frames_are_known_by_their_address(twin: Twin, kind: str) -> None:
    """Whatever they look like otherwise, and only from the hop that they were sent through. The model agrees."""
    number, nonce = twin.datapath.hop_id("ips1"), make_nonce(twin.datapath.heartbeat_key("ips1"))
    template = bytes(12) + b"\x88\xcc" + bytes(46)
    ours = Lane(number, Direction.LAN_TO_WAN, nonce, template).send(1)
    tagged = ours[:12] + bytes.fromhex("8100002a") + ours[12:]
    answer = ours[6:12] + bytes.fromhex("020000000009") + ours[12:]
    beats = [ours, tagged, answer, Lane(number, Direction.LAN_TO_WAN, nonce).send(1)]
    neighbour = bytes.fromhex("025457") + bytes([number, 0, 2])
    for source, target in (("198.18.0.1", "198.18.0.2"), ("2001:2::1", "2001:2::2")):
        route = Route(bytes(6), ip_address(source), ip_address(target), 9)
        sent = Lane(number, Direction.LAN_TO_WAN, nonce, route=route).send(1)
        beats.append(neighbour + bytes.fromhex("020000000009") + sent[12:])
    for beat in beats:
        assert twin.both(hop(twin, "ips1", Side.WAN), beat, kind).outcome is Outcome.HEARTBEAT
        assert twin.both(hop(twin, "quiet", Side.WAN), beat, kind).outcome is Outcome.OUT
        assert twin.both(port(twin), beat, kind).outcome is Outcome.TO_HOP


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_what_only_looks_like_ours_passes(twin: Twin, kind: str) -> None:
    """Our EtherType, our address block, another key, the key at another place, a packet cut short: a customer's frames.

    They come out of the guest as they went in, and none reaches the socket that listens for heartbeats.
    """
    number = twin.datapath.hop_id("ips1")
    key = twin.datapath.heartbeat_key("ips1")
    neighbour = bytes.fromhex("025457") + bytes([number, 0, 2]) + bytes.fromhex("020000000009")
    route = Route(bytes(6), ip_address("198.18.0.1"), ip_address("198.18.0.2"), 9)
    right = Lane(number, Direction.LAN_TO_WAN, make_nonce(key), route=route).send(1)
    looks = [
        Lane(number, Direction.LAN_TO_WAN, make_nonce(key ^ 1)).send(1),
        neighbour[6:] + neighbour[:6] + b"\x88\xb5TWHB" + bytes(42),
        neighbour + b"\x08\x00" + bytes(46),
        neighbour + b"\x08\x06" + right[14:],
        neighbour + right[12:53],
        bytes.fromhex("0200000000010200000000020800") + right[14:],
    ]
    for frame in looks:
        for side in Side:
            assert twin.both(hop(twin, "ips1", side), frame, kind).outcome is Outcome.OUT
        assert twin.both(port(twin), frame, kind).outcome is Outcome.TO_HOP
