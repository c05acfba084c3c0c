# SPDX-License-Identifier: GPL-2.0-only
"""What the status LED shows. Pure; times in ns of CLOCK_MONOTONIC.

    on               every relay is inline: traffic is inspected
    off              a relay is in bypass or disconnects
    slow, 1 s        a relay does not work: `show relays` says why
    fast, 0.2 s      somebody looks for this box: `locate on`; it comes before all others

A board that has an LED "locate" blinks with that one instead.
"""

from __future__ import annotations

from appliance.keeper.agenda import Agenda
from appliance.keeper.limits import MS
from appliance.keeper.messages import Led

SLOW, FAST = 500 * MS, 100 * MS  # how long it is on, and how long it is off
STATUS, LOCATE = "status", "locate"


class Lamp:
    """One LED: steady, or blinking with a half period."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._on: bool | None = None  # as last ordered
        self._half: int | None = None  # of the pattern; 0: steady, None: nothing was shown yet

    def show(self, agenda: Agenda, on: bool, half: int = 0) -> None:
        """Show this from now on; a pattern that goes on keeps its rhythm."""
        due = f"led {self._name}"
        if half != self._half:
            self._half = half
            agenda.due.pop(due, None)
            if half:
                self._order(agenda, True)
                agenda.due[due] = agenda.now + half
        if not half and on != self._on:
            self._order(agenda, on)

    def tick(self, agenda: Agenda) -> None:
        """Half a period is over."""
        if self._half:
            self._order(agenda, not self._on)
            agenda.due[f"led {self._name}"] = agenda.now + self._half

    def _order(self, agenda: Agenda, on: bool) -> None:
        self._on = on
        agenda.do(Led(on, self._name))


class Lamps:
    """The LEDs of the board. `names`: those that it has."""

    def __init__(self) -> None:
        self._own = False  # there is an LED of its own for locating
        self._lamps = {STATUS: Lamp(STATUS), LOCATE: Lamp(LOCATE)}
        self.locate = False

    def begin(self, names: frozenset[str]) -> None:
        """The board is known."""
        self._own = LOCATE in names

    def show(self, agenda: Agenda, inline: bool, fault: bool) -> None:
        """`inline`: every relay is; `fault`: one does not work."""
        if self._own:
            self._lamps[LOCATE].show(agenda, False, FAST if self.locate else 0)
        found = self.locate and not self._own
        self._lamps[STATUS].show(agenda, inline, FAST if found else SLOW if fault else 0)

    def tick(self, agenda: Agenda, name: str) -> None:
        """Half a period of one of them is over."""
        self._lamps[name].tick(agenda)
