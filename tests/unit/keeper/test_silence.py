# SPDX-License-Identifier: GPL-2.0-only
"""How a silence is judged by the kernel's account of bypassd, look by look."""

from __future__ import annotations

import pytest

from appliance.keeper.limits import MS, SECOND
from appliance.keeper.silence import Looked, Silence


@pytest.fixture
def silence() -> Silence:
    """One that began at 100 s; `checkin` 1 s, `looping` 5 s, `silent` 15 s."""
    silence = Silence(SECOND, 5 * SECOND, 15 * SECOND)
    silence.heard(100 * SECOND)
    return silence


def look(silence: Silence, when: int, threads: dict[int, tuple[int, int]]) -> str:
    """The look that is due `when` ns after the silence began, and not before."""
    assert silence.deadline() == 100 * SECOND + when
    assert not silence.look_due(100 * SECOND + when - 1)
    assert silence.look_due(100 * SECOND + when)
    assert not silence.look_due(100 * SECOND + when), "once a look"
    return silence.looked(100 * SECOND + when, Looked(threads, "S"))


def test_half_a_second_asleep_after_the_first_look_ends_it(silence: Silence) -> None:
    assert look(silence, 500 * MS, {1: (7 * SECOND, 3 * SECOND)}) == ""
    assert look(silence, SECOND, {1: (7 * SECOND, 3 * SECOND)}) == "has not checked in for 1000 ms and sleeps"


@pytest.mark.parametrize("used", [(1, 0), (0, 1)], ids=["ran", "waited"])
def test_the_time_of_a_thread_that_began_between_two_looks_counts_in_full(
    silence: Silence, used: tuple[int, int]
) -> None:
    """To the nanosecond: it was idle for one less than half a second, so there is another look."""
    assert look(silence, 500 * MS, {1: (0, 0)}) == ""
    assert look(silence, SECOND, {1: (0, 0), 2: used}) == ""
    assert look(silence, SECOND + 20 * MS, {1: (0, 0), 2: used}) != ""


def test_a_thread_that_ended_between_two_looks_takes_nothing_away(silence: Silence) -> None:
    assert look(silence, 500 * MS, {1: (0, 0), 2: (9 * SECOND, 0)}) == ""
    assert look(silence, SECOND, {1: (0, 0)}) == "has not checked in for 1000 ms and sleeps"


def test_a_first_look_that_comes_late_is_followed_by_the_next_one_soon(silence: Silence) -> None:
    assert silence.look_due(102 * SECOND)
    assert silence.looked(102 * SECOND, Looked({1: (0, 0)}, "S")) == ""
    assert silence.deadline() == 102 * SECOND + 20 * MS


def test_a_look_of_before_the_check_in_says_nothing(silence: Silence) -> None:
    assert silence.look_due(100 * SECOND + 500 * MS)
    silence.heard(100 * SECOND + 500 * MS)
    assert silence.looked(100 * SECOND + 500 * MS, Looked({1: (0, 0)}, "S")) == ""
    assert silence.first


def test_what_bypassd_did_before_the_keeper_stood_still_is_forgotten(silence: Silence) -> None:
    """It stood still as well: the next look is again the first, half a second later, and the last limit moves too."""
    assert look(silence, 500 * MS, {1: (0, 0)}) == ""
    silence.stood_still(103 * SECOND, late=2 * SECOND)
    assert silence.first
    assert look(silence, 3500 * MS, {1: (0, 0)}) == ""
    assert look(silence, 4 * SECOND, {1: (0, 0)}) != ""
    assert silence.over(117 * SECOND - 1) == ""
    assert silence.over(117 * SECOND) != ""
