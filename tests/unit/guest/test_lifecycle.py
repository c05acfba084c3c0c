# SPDX-License-Identifier: GPL-2.0-only
"""The life of a guest: every state with every event, and the back-off between restarts."""

from __future__ import annotations

import pytest

from appliance.config.schema import model
from appliance.guest.lifecycle import TABLE, Again, Event, GiveUp, Rest, Restarts, State


def test_only_proof_makes_a_guest_available() -> None:
    """No other event leads into `available`, from no state."""
    assert {event for (_, event), to in TABLE.items() if to is State.AVAILABLE} == {Event.PROVED}


def test_a_process_that_ends_leaves_no_guest_in_service() -> None:
    for (state, event), to in TABLE.items():
        if event is Event.ENDED:
            assert to in (State.STARTING, State.STOPPED), state


def test_every_state_is_reached_and_can_be_stopped_or_started() -> None:
    reached = {State.DEFINED}
    while more := {to for (state, _), to in TABLE.items() if state in reached} - reached:
        reached |= more
    assert reached == set(State)
    for state in State:
        assert (state, Event.START) in TABLE or (state, Event.STOP) in TABLE


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
    assert restarts.ended(now, ran_since=now) == GiveUp(loop=True)


def test_a_long_run_and_an_order_forgive() -> None:
    restarts = Restarts()
    first = restarts.ended(0, ran_since=0)
    restarts.ended(0, ran_since=0)
    steady = restarts.policy.steady
    assert restarts.ended(steady, ran_since=0) == first
    restarts.forgive()
    assert restarts.ended(steady, ran_since=steady) == first


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
