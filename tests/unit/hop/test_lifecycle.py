# SPDX-License-Identifier: GPL-2.0-only
"""The life of a hop: every state with every event."""

from __future__ import annotations

import itertools

import pytest

from appliance.hop.lifecycle import ALIVE, SERVING, TABLE, HopEvent, HopState, allowed, move
from appliance.transition import IllegalMoveError


@pytest.mark.parametrize(("state", "event"), list(itertools.product(HopState, HopEvent)))
def test_every_state_with_every_event(state: HopState, event: HopEvent) -> None:
    """A move is in the table, or is refused by an error that names both."""
    assert allowed(state, event) is ((state, event) in TABLE)
    if (state, event) in TABLE:
        assert move(state, event) is TABLE[state, event]
    else:
        with pytest.raises(IllegalMoveError, match=f"{state.value}.*{event.value}"):
            move(state, event)


def test_only_proof_makes_a_hop_available() -> None:
    """No other event leads into `available` or `overloaded`, but from one of these to the other."""
    into = {event for (state, event), to in TABLE.items() if to in SERVING and state not in SERVING}
    assert into == {HopEvent.PROVED}


def test_a_hop_that_ends_is_not_in_service() -> None:
    for (state, event), to in TABLE.items():
        if event is HopEvent.ENDED:
            assert to in (HopState.STARTING, HopState.STOPPED), state


def test_every_state_is_reached_and_can_be_stopped_or_started() -> None:
    reached = {HopState.DEFINED}
    while more := {to for (state, _), to in TABLE.items() if state in reached} - reached:
        reached |= more
    assert reached == set(HopState)
    for state in HopState:
        assert (state, HopEvent.START) in TABLE or (state, HopEvent.STOP) in TABLE


def test_only_a_hop_that_is_up_can_be_drained_or_become_available() -> None:
    """What is `ALIVE` has answered: `RUNNING` leads into it, and every end out of it."""
    assert {state for state, event in TABLE if event in (HopEvent.DRAIN, HopEvent.PROVED)} <= ALIVE
    assert {to for (_, event), to in TABLE.items() if event is HopEvent.RUNNING} == {HopState.PROVING}
    for (state, event), to in TABLE.items():
        if to in ALIVE:
            assert state in ALIVE or event is HopEvent.RUNNING, (state, event)
        if state in ALIVE:
            assert to in ALIVE or event is HopEvent.ENDED, (state, event)


@pytest.mark.parametrize("state", [state for state in HopState if state in ALIVE])
def test_whatever_is_up_may_end_start_over_be_drained_and_be_stopped(state: HopState) -> None:
    """These come from outside, at any time: an event that the table did not have would end bypassd."""
    for event in (HopEvent.ENDED, HopEvent.RESET, HopEvent.STOP):
        assert allowed(state, event), event
    assert allowed(state, HopEvent.DRAIN) or state is HopState.DRAINING


@pytest.mark.parametrize(
    ("event", "after"),
    [
        (HopEvent.WAIT, HopState.STARTING),
        (HopEvent.ENDED, HopState.STARTING),
        (HopEvent.RUNNING, HopState.PROVING),
        (HopEvent.REFUSED, HopState.FAILED),
        (HopEvent.GIVE_UP, HopState.FAILED),
        (HopEvent.REST, HopState.STOPPED),
        (HopEvent.STOP, HopState.STOPPED),
    ],
)
def test_what_may_come_of_a_start(event: HopEvent, after: HopState) -> None:
    assert move(HopState.STARTING, event) is after


@pytest.mark.parametrize("state", [state for state in HopState if state in ALIVE])
def test_a_hop_that_restarted_by_itself_has_to_prove_itself_again(state: HopState) -> None:
    """Also one that was overloaded; one that is drained stays so."""
    assert move(state, HopEvent.RESET) is (state if state is HopState.DRAINING else HopState.PROVING)
