# SPDX-License-Identifier: GPL-2.0-only
"""Green health with zero returned traffic: rows of (seconds, sent, returned), and when the remote is blamed."""

from __future__ import annotations

import pytest

from appliance.remote.returned import LEAST_FRAMES, Returned

S = 10**9
ROWS = [
    ("nothing is sent", [(0, 0, 0), (9, 0, 0), (99, 0, 0)], None),
    ("all come back", [(0, 0, 0), (9, 900, 900), (99, 9900, 9900)], None),
    ("some come back", [(0, 0, 0), (3, 900, 1), (9, 1900, 2)], None),
    ("none comes back", [(0, 0, 0), (1, 100, 0), (4, 200, 0), (6, 300, 0)], 6),
    ("none, but a few", [(0, 0, 0), (1, LEAST_FRAMES - 1, 0), (9, LEAST_FRAMES - 1, 0)], None),
    ("just enough", [(0, 0, 0), (1, LEAST_FRAMES, 0), (6, LEAST_FRAMES, 0)], 6),
    ("it begins later", [(0, 500, 500), (50, 500, 500), (51, 600, 500), (55, 700, 500), (56, 701, 500)], 56),
    ("one comes late", [(0, 0, 0), (1, 100, 0), (4, 200, 1), (6, 300, 1), (8, 400, 1)], None),
    ("the counters begin again", [(0, 900, 0), (1, 5, 0), (7, 30, 0)], None),
]


@pytest.mark.parametrize(("rows", "when"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_when_a_remote_is_blamed(rows: list[tuple[int, int, int]], when: int | None) -> None:
    judge = Returned(5 * S)
    blamed = [at for at, sent, returned in rows if judge.step(at * S, sent, returned)]
    assert blamed == ([] if when is None else [when])


def test_without_a_time_it_is_never_blamed() -> None:
    judge = Returned(0)
    assert not any(judge.step(at * S, at * 1000, 0) for at in range(100))


def test_what_was_lost_before_does_not_count() -> None:
    judge = Returned(5 * S)
    for at in (0, 1):
        judge.step(at * S, at * 100, 0)
    judge.forget()
    assert judge.step(8 * S, 200, 0) == ""
    assert judge.step(9 * S, 300, 0) == ""
    assert "200 frames were sent to it in 5 s" in judge.step(14 * S, 400, 0)
