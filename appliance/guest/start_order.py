# SPDX-License-Identifier: GPL-2.0-only
"""In which order guests start: `after` (a guest needs another one) and `start_order` (the lower number first).

`why_not` is the pure rule; `StartOrder` knows every guest's state and makes guests wait for their turn. At every start,
a guest waits for the guests in `after`, as long as it takes. For guests with a lower `start_order` it waits only when
bypassd starts them all, and only until they are available, cannot start, or `PATIENCE_NS` is over: an order is not a
dependency. A guest that is already running is adopted without waiting. Lives as long as the part "guests".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from appliance.config.schema import model
from appliance.hop.lifecycle import SERVING, HopState

PATIENCE_NS = 60_000_000_000

READY = SERVING | {HopState.DRAINING}
_COMING = frozenset({HopState.DEFINED, HopState.STARTING, HopState.PROVING})


def why_not(guest: model.Guest, guests: Sequence[model.Guest], states: Mapping[str, HopState], waited: int) -> str:
    """What the guest must still wait for, for display; "" = it may start. `waited`: ns since bypassd started."""
    for name in guest.after:
        state = states.get(name, HopState.DEFINED)
        if state not in READY:
            return f"waits until guest {name} is available; it is {state.value}"
    if waited >= PATIENCE_NS:
        return ""
    for other in guests:
        coming = other.autostart and states.get(other.name, HopState.DEFINED) in _COMING
        if other.start_order < guest.start_order and coming and guest.name not in other.after:
            return f"waits for guest {other.name}, which comes before it (start_order {other.start_order})"
    return ""


class StartOrder:
    """The guests' states, and the guests that wait for a change of state."""

    def __init__(self, guests: Sequence[model.Guest], clock: Callable[[], int]) -> None:
        self.guests, self._clock = guests, clock
        self._states: dict[str, HopState] = {}
        self._began = clock()
        self._waiting: set[asyncio.Event] = set()

    def tell(self, name: str, state: HopState) -> None:
        """A guest changed its state: waiting guests check again."""
        self._states[name] = state
        for event in self._waiting:
            event.set()

    async def turn(self, guest: model.Guest, say: Callable[[str], None]) -> None:
        """Return when the guest may start; `say` is called with what it waits for, each time that changes."""
        said, changed = "", asyncio.Event()
        self._waiting.add(changed)
        try:
            while why := why_not(guest, self.guests, self._states, self._clock() - self._began):
                if why != said:
                    said = why
                    say(why)
                left = self._began + PATIENCE_NS - self._clock()
                changed.clear()
                try:
                    async with asyncio.timeout(left / 1e9 if left > 0 else None):
                        await changed.wait()
                except TimeoutError:
                    continue  # guests with lower numbers are no longer waited for
        finally:
            self._waiting.discard(changed)
