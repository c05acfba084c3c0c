# SPDX-License-Identifier: GPL-2.0-only
"""When repairs are no accident any more."""

from __future__ import annotations

from appliance.contest import OFTEN, WINDOW_NS, Contest


def test_the_fourth_repair_within_a_minute_is_a_contest() -> None:
    contest = Contest()
    assert not contest.going_on(0)
    assert [contest.repaired(n) for n in range(OFTEN + 2)] == [0] * OFTEN + [OFTEN + 1] * 2
    last = OFTEN + 1
    assert contest.going_on(last + WINDOW_NS - 1)
    assert not contest.going_on(last + WINDOW_NS)
    assert contest.repaired(last + WINDOW_NS) == 0, "a minute of peace"


def test_repairs_that_are_far_apart_are_accidents() -> None:
    contest = Contest()
    assert not any(contest.repaired(n * WINDOW_NS // OFTEN) for n in range(100))
