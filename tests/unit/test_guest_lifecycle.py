# SPDX-License-Identifier: GPL-2.0-only
"""The life of a guest: every state with every event, and the back-off between restarts."""

from __future__ import annotations

import itertools

import pytest

from appliance.guest.lifecycle import (
    BACKOFF_LIMIT_NS,
    CRASH_LOOP_ENDS,
    STEADY_NS,
    TABLE,
    Event,
    IllegalMoveError,
    Restarts,
    State,
    move,
)


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_state_with_every_event(state: State, event: Event) -> None:
    """A move is in the table, or is refused by an error that names both."""
    if (state, event) in TABLE:
        assert move(state, event) is TABLE[state, event]
    else:
        with pytest.raises(IllegalMoveError, match=f"{state.value}.*{event.value}"):
            move(state, event)


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
    restarts, now = Restarts(), 0
    waits = []
    for _ in range(CRASH_LOOP_ENDS - 1):
        wait = restarts.ended(now, ran_since=now)
        assert wait is not None
        waits.append(wait)
        now += wait
    assert waits == [min(200_000_000 << n, BACKOFF_LIMIT_NS) for n in range(CRASH_LOOP_ENDS - 1)]
    assert restarts.ended(now, ran_since=now) is None


def test_a_long_run_and_an_order_forgive() -> None:
    restarts = Restarts()
    first = restarts.ended(0, ran_since=0)
    restarts.ended(0, ran_since=0)
    assert restarts.ended(STEADY_NS, ran_since=0) == first
    restarts.forgive()
    assert restarts.ended(STEADY_NS, ran_since=STEADY_NS) == first
