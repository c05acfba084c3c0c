# SPDX-License-Identifier: GPL-2.0-only
"""What follows from the speed of the emulation: longer waits and less traffic, but never weaker claims."""

from __future__ import annotations

import pytest
from simulator.pace import BYTES, FEWEST, FRAMES, MOST_STRETCH, REFERENCE_S, Pace, booted


def test_the_reference_machine_waits_as_written_and_offers_everything() -> None:
    pace = booted(REFERENCE_S)
    assert pace.speed == pytest.approx(1.0)
    assert pace.wait(60.0) == pytest.approx(60.0)
    assert (pace.frames, pace.bytes) == (FRAMES, BYTES)


def test_a_little_slower_is_the_reference_and_its_guest_has_the_limits_of_hardware() -> None:
    assert (Pace(0.85).wait(60.0), Pace(0.85).frames, Pace(0.85).misses) == (60.0, FRAMES, 3)
    assert [Pace(speed).misses for speed in (0.7, 0.5, 0.25)] == [8, 10, 20]


def test_a_faster_machine_waits_no_shorter_and_offers_no_more() -> None:
    assert (Pace(4.0).wait(60.0), Pace(4.0).frames) == (60.0, FRAMES)


@pytest.mark.parametrize(("speed", "seconds", "frames"), [(0.5, 120.0, 250), (0.25, 240.0, 60), (0.01, 360.0, 20)])
def test_a_slow_machine_waits_longer_and_offers_less(speed: float, seconds: float, frames: int) -> None:
    assert Pace(speed).wait(60.0) == pytest.approx(seconds)
    assert Pace(speed).frames == frames
    assert Pace(speed).stretch <= MOST_STRETCH


def test_waits_are_long_until_the_speed_is_known() -> None:
    assert Pace().wait(10.0) > 10.0
    assert "not measured" in str(Pace())


def test_the_rate_is_halved_until_it_is_carried_and_the_fewest_is_not_tried() -> None:
    asked: list[int] = []

    def trial(rate: int) -> bool:
        asked.append(rate)
        return rate <= 250

    found = Pace(1.0).carried(trial)
    assert (asked, found.frames, found.tried) == ([1000, 500, 250], 125, True)
    assert Pace(1.0).carried(lambda _: False).frames == FEWEST


def test_what_is_offered_is_said_with_the_figures() -> None:
    pace = Pace(0.5)
    assert str(pace) == (
        "the emulation runs at 0.5 of the reference speed: waits x2, 250 frames/s, 25 kB/s, "
        "10 heartbeats of 100 ms may be missed"
    )
    assert pace.figures() == {
        "emulation_speed_ratio": 0.5,
        "offered_frames_per_s": 250,
        "offered_bytes_per_s": 25_000,
        "guest_heartbeat_misses": 10,
    }
