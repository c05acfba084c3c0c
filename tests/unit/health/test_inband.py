# SPDX-License-Identifier: GPL-2.0-only
"""Heartbeat frames: what is sent, and which frames that come back prove something."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.health.inband import (
    ETHERTYPE,
    FRAME_BYTES,
    Beat,
    Direction,
    Lane,
    Proof,
    decode,
    encode,
    key_of,
    make_nonce,
    source_address,
)
from appliance.health.inband import target_address as target

BEATS = st.builds(
    Beat,
    hop=st.integers(1, 127),
    direction=st.sampled_from(Direction),
    nonce=st.integers(0, 2**64 - 1),
    sequence=st.integers(0, 2**64 - 1),
    sent=st.integers(0, 2**64 - 1),
)


@given(BEATS)
def test_a_frame_says_what_was_put_in(beat: Beat) -> None:
    frame = encode(beat)
    assert len(frame) == FRAME_BYTES
    assert frame[12:14] == ETHERTYPE.to_bytes(2, "big")
    assert decode(frame) == beat


@given(st.binary(max_size=200))
def test_any_bytes_are_no_trouble(frame: bytes) -> None:
    """Frames come from a guest: decoding never raises, and random bytes prove nothing."""
    lane = Lane(1, Direction.LAN_TO_WAN, nonce=7)
    lane.send(0)
    assert lane.receive(1, frame) is None
    assert lane.foreign == 1


def test_addresses_suit_a_bridge() -> None:
    """Unicast, locally administered; nobody sends from where they go, and no source is seen at both ports."""
    nonce = make_nonce(0x12345678)
    sources = {source_address(nonce, way) for way in Direction}
    targets = {target(nonce, way) for way in Direction}
    assert len(sources) == len(targets) == 2
    assert not sources & targets
    assert all(address[0] & 3 == 2 for address in sources | targets)


def test_nobody_outside_knows_the_addresses() -> None:
    """Anyone who knew the destination could send from it, and a bridge in the guest would stop flooding heartbeats."""
    first, second = (make_nonce(0x12345678) for _ in range(2))
    assert key_of(first) == key_of(second) == bytes.fromhex("12345678")
    assert target(first, Direction.LAN_TO_WAN) != target(second, Direction.LAN_TO_WAN)
    frame = FRAME_BYTES * b"x"
    goes = [Lane(3, Direction.LAN_TO_WAN, nonce, frame).send(1)[:3] for nonce in (5 << 24, 6 << 24)]
    assert goes[0] != goes[1]


def test_what_comes_back_proves_the_time_it_was_sent() -> None:
    lane = Lane(3, Direction.WAN_TO_LAN, nonce=7)
    frame = lane.send(1000)
    assert lane.receive(1500, frame) == Proof(sent=1000, latency=500)


def test_a_frame_proves_once() -> None:
    """A guest that repeats frames (a loop, a mirror) gets nothing for the copies."""
    lane = Lane(3, Direction.WAN_TO_LAN, nonce=7)
    frame = lane.send(1000)
    lane.receive(1500, frame)
    assert lane.receive(1600, frame) is None


@pytest.mark.parametrize(
    "other",
    [
        Lane(3, Direction.LAN_TO_WAN, nonce=8),
        Lane(4, Direction.LAN_TO_WAN, nonce=7),
        Lane(3, Direction.WAN_TO_LAN, nonce=7),
    ],
    ids=["an earlier run of bypassd", "another hop", "the other direction"],
)
def test_frames_of_others_prove_nothing(other: Lane) -> None:
    lane = Lane(3, Direction.LAN_TO_WAN, nonce=7)
    lane.send(1000)
    assert lane.receive(1500, other.send(1000)) is None


def test_a_changed_send_time_proves_nothing() -> None:
    lane = Lane(3, Direction.LAN_TO_WAN, nonce=7)
    lane.send(1000)
    assert lane.receive(1500, encode(Beat(3, Direction.LAN_TO_WAN, 7, 0, 1400))) is None


def test_only_the_latest_are_remembered() -> None:
    lane = Lane(3, Direction.LAN_TO_WAN, nonce=7)
    first = lane.send(0)
    for now in range(1, 200):
        lane.send(now)
    assert lane.receive(200, first) is None
    assert len(lane._outstanding) <= 64
