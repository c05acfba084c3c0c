# SPDX-License-Identifier: GPL-2.0-only
"""When a guest is restarted after it ended: policy, back-off, crash loop, and what resets them."""

from __future__ import annotations

import pytest

from appliance.config.schema import model
from appliance.guest.restart import Again, GiveUp, Rest, Restarts

SECOND = 1_000_000_000


def waits(restarts: Restarts, now: int, ran: int, count: int) -> list[object]:
    """What follows `count` ends in a row, each after a run of `ran` ns."""
    found: list[object] = []
    for _ in range(count):
        now += ran
        after = restarts.ended(now, ran_since=now - ran)
        found.append(after.after if isinstance(after, Again) else after)
    return found


def test_restarts_back_off_and_give_up() -> None:
    """The waits double up to the limit; the last short run in a row is the end."""
    policy = model.Restart(attempts=12)
    restarts, now = Restarts(policy), 0
    waits = []
    for _ in range(policy.attempts - 1):
        match restarts.ended(now, ran_since=now):
            case Again(wait):
                waits.append(wait)
                now += wait
            case other:
                raise AssertionError(other)
    assert waits == [min(200_000_000 << n, policy.longest) for n in range(policy.attempts - 1)]
    assert restarts.count == len(waits)
    assert restarts.ended(now, ran_since=now) == GiveUp(loop=True)
    assert restarts.count == len(waits)  # giving up is no restart


def test_very_many_attempts_wait_the_longest_time() -> None:
    """The wait stays a number that can be waited for, however many attempts are allowed."""
    policy = model.Restart(attempts=100_000)
    assert set(waits(Restarts(policy), 0, 1, 5000)[20:]) == {policy.longest}


@pytest.mark.parametrize(("ran", "again"), [(-1, 1), (0, 0), (1, 0)])
def test_a_run_of_at_least_the_steady_time_starts_the_back_off_anew(ran: int, again: int) -> None:
    """Exactly `steady` is long enough; a nanosecond less is not."""
    policy = model.Restart()
    restarts = Restarts(policy)
    assert waits(restarts, 0, 1, 1) == [policy.first]
    assert waits(restarts, SECOND, policy.steady + ran, 1) == [policy.first << again]


def test_long_runs_are_no_crash_loop() -> None:
    policy = model.Restart(attempts=3)
    assert waits(Restarts(policy), 0, policy.steady, 10) == [policy.first] * 10
    assert waits(Restarts(policy), 0, policy.steady - 1, 3) == [policy.first, 2 * policy.first, GiveUp(loop=True)]


def test_an_order_to_start_resets_the_back_off_and_not_the_count() -> None:
    restarts = Restarts()
    first, *_ = waits(restarts, 0, 1, 3)
    restarts.reset_backoff()
    assert waits(restarts, 10, 1, 1) == [first]
    assert restarts.count == 4


@pytest.mark.parametrize(
    ("policy", "in_order", "expected"),
    [
        ("always", True, Again(200_000_000)),
        ("always", False, Again(200_000_000)),
        ("on-failure", True, Rest()),
        ("on-failure", False, Again(200_000_000)),
        ("never", True, Rest()),
        ("never", False, GiveUp(loop=False)),
    ],
)
def test_policies(policy: str, in_order: bool, expected: object) -> None:
    restarts = Restarts(model.Restart(policy=policy))  # type: ignore[arg-type]
    assert restarts.ended(0, ran_since=0, in_order=in_order) == expected
    assert restarts.count == isinstance(expected, Again)
