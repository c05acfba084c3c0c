# SPDX-License-Identifier: GPL-2.0-only
"""The one rule for state machines: a table says which state follows which event, and there are no other moves.

Guests, segments, commits and the keeper's phases each have an Enum of states, an Enum of events and one `Table`. An
event that the table does not have in the present state is a bug in the caller, and the state left behind is unknown. So
it raises an error that is handled nowhere: the process ends, and its parent (the keeper, init) starts a fresh one.
Events that may come from outside at any time, such as an operator's order, are checked with `allows` before.

The keeper imports this module at every boot before it drives a relay, so it must stay free of slow imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Generic, TypeVar

State = TypeVar("State", bound=Enum)
Event = TypeVar("Event", bound=Enum)


class IllegalMoveError(Exception):
    """A bug: the state machine has no such move. Deliberately not a BypassError, which callers handle."""

    def __init__(self, what: str, state: Enum, event: Enum) -> None:
        self.state, self.event = state, event
        super().__init__(f"{what} in state {state.value} has no move on {event.value}")


class Table(dict[tuple[State, Event], State], Generic[State, Event]):
    """The moves of one kind of state machine: (state, event) -> next state. The caller keeps the state."""

    def __init__(self, what: str, moves: Mapping[tuple[State, Event], State]) -> None:
        """`what` names the kind in the error, with its article: "a guest"."""
        super().__init__(moves)
        self._what = what

    def allows(self, state: State, event: Event) -> bool:
        """Whether there is a move on `event` in `state`."""
        return (state, event) in self

    def after(self, state: State, event: Event) -> State:
        """The next state. IllegalMoveError: there is no such move."""
        new = self.get((state, event))
        if new is None:
            raise IllegalMoveError(self._what, state, event)
        return new
