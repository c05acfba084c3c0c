# SPDX-License-Identifier: GPL-2.0-only
"""The rule of all state machines, held against the table of each."""

from __future__ import annotations

import itertools
from enum import Enum
from typing import Any

import pytest

from appliance.config.commit import phases as commit
from appliance.errors import BypassError
from appliance.hop import lifecycle
from appliance.keeper import lifecycle as keeper
from appliance.segment import machine
from appliance.transition import IllegalMoveError, Table

MACHINES: dict[str, tuple[Table[Any, Any], Enum, type[Enum], set[Enum]]] = {
    "hop": (lifecycle.TABLE, lifecycle.HopState.DEFINED, lifecycle.HopEvent, set()),
    "segment": (machine.TABLE, machine.State.STARTING, machine.Stimulus, set()),
    "commit": (commit.PHASES, commit.Phase.IDLE, commit.Turn, {commit.Phase.BROKEN}),
    "keeper": (keeper.PHASES, keeper.Phase.DOWN, keeper.Turn, set()),
}
"""Table, first state, events, and the states that nothing leaves."""


@pytest.mark.parametrize("name", MACHINES)
def test_every_state_with_every_event(name: str) -> None:
    """The table has the move, or it is refused by an error that names state and event and that nobody handles."""
    table, first, events, _ = MACHINES[name]
    for state, event in itertools.product(type(first), events):
        if table.allows(state, event):
            assert table.after(state, event) is table[state, event]
            continue
        with pytest.raises(IllegalMoveError, match=f"in state {state.value} has no move on {event.value}") as caught:
            table.after(state, event)
        assert not isinstance(caught.value, BypassError)


@pytest.mark.parametrize("name", MACHINES)
def test_every_state_is_reached_and_left_and_every_event_means_something(name: str) -> None:
    table, first, events, last = MACHINES[name]
    reached = {first}
    while more := {to for (state, _), to in table.items() if state in reached} - reached:
        reached |= more
    assert reached == set(type(first))
    assert {state for state, _ in table} == set(type(first)) - last
    assert {event for _, event in table} == set(events)
