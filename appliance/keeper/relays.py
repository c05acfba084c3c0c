# SPDX-License-Identifier: GPL-2.0-only
"""The position of each relay as the keeper decides it. Pure.

A relay leaves bypass only while bypassd requests it and checks in, or within the grace time after that. A line that is
missing or does not follow is logged once with its cause and retried; meanwhile its relay is in bypass.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from appliance.causes import Cause
from appliance.keeper.agenda import Agenda
from appliance.keeper.limits import FAR, MS, Limits
from appliance.keeper.messages import (
    BYPASS,
    INLINE,
    Ask,
    CloseRelay,
    Drive,
    Led,
    Log,
    OpenRelay,
    ReadRelay,
    RelayReport,
    Send,
)


class RelayState:
    """What is known about one relay."""

    __slots__ = ("cause", "error", "moving_until", "position", "settle", "target", "usable", "want", "want_cause")

    def __init__(self, settle: int) -> None:
        self.settle = settle
        self.moving_until = 0  # a position read back before then means nothing
        self.usable = False
        self.position = BYPASS  # as last driven or read
        self.target = BYPASS
        self.cause: str = Cause.STARTING
        self.want = BYPASS
        self.want_cause: str = Cause.STARTING
        self.error = ""


class Relays:
    """All relays of the board, and how long they are held after bypassd falls silent."""

    def __init__(self, limits: Limits) -> None:
        self.states: dict[str, RelayState] = {}
        self.grace = limits.grace
        self._limits = limits
        self._position_asked: int | None = None  # time of the last check-in that requested positions
        self._led: bool | None = None

    def begin(self, agenda: Agenda, names: Iterable[str], settle: Mapping[str, int]) -> None:
        """Open them in this step; `settle` as in Started."""
        self.states = {name: RelayState(settle.get(name, 0)) for name in names}
        for name in self.states:
            agenda.due[f"relay {name}"] = agenda.now
        self.verify(agenda)

    def deadline(self, serving: bool) -> int | None:
        """When those that are held go to bypass; None while none is held. `serving`: whether bypassd serves."""
        held = any(relay.usable and relay.want != BYPASS for relay in self.states.values())
        return self._position_asked + self._held_for(serving) if self._position_asked is not None and held else None

    def ask(self, now: int, asked: Mapping[str, Ask]) -> None:
        """bypassd requests positions. A relay that it does not name goes to bypass."""
        self._position_asked = now
        for name, relay in self.states.items():
            ask = asked.get(name)
            relay.want, relay.want_cause = (ask.want, ask.cause) if ask else (BYPASS, Cause.CONFIGURED)

    # -- their lines

    def open(self, agenda: Agenda, name: str) -> None:
        """Open the line of one relay."""
        agenda.do(OpenRelay(name))

    def settled(self, agenda: Agenda, name: str) -> None:
        """The contacts of one relay have had their time: read it back."""
        if self.states[name].usable:
            agenda.do(ReadRelay(name, self.states[name].target))

    def verify(self, agenda: Agenda) -> None:
        """Read all of them back, and schedule the next time."""
        for name in self.states:
            self.settled(agenda, name)
        agenda.due["verify"] = agenda.now + self._limits.verify

    def report(self, agenda: Agenda, event: RelayReport) -> None:
        """The result of opening, driving or reading one relay."""
        relay = self.states[event.relay]
        if event.error:
            self._lost(agenda, event.relay, relay, event.cause, event.error)
        elif not relay.usable:
            relay.usable, relay.error = True, ""
            relay.position = relay.target = event.position
            if event.position != BYPASS:  # taken over from an earlier keeper: as if its bypassd had just requested it
                relay.want, relay.want_cause = event.position, Cause.HEALTHY
                self._position_asked = agenda.now
            agenda.do(Log(f"relay {event.relay}: line taken, in {event.position}", severe=False))
            agenda.do(Send())
        elif agenda.now < relay.moving_until:
            pass  # read again when the contacts have settled
        elif event.position != event.expected:
            found = f"set to {event.expected}, reads {event.position}"
            said = f"relay {event.relay}: {found}: check coil and GPIO controller"
            agenda.do(CloseRelay(event.relay))
            self._lost(agenda, event.relay, relay, Cause.RELAY_FAULT, said)
        elif event.position != relay.position:
            relay.position = event.position
            agenda.do(Send())  # after the move: bypassd waits for the confirmed position

    def _lost(self, agenda: Agenda, name: str, relay: RelayState, cause: Cause, error: str) -> None:
        relay.usable, relay.cause = False, cause
        relay.target = relay.position = BYPASS
        relay.want, relay.want_cause = BYPASS, cause
        if not agenda.stopping:
            agenda.due[f"relay {name}"] = agenda.now + self._limits.retry
        if error != relay.error:
            agenda.do(Log(error))
            relay.error = error
            agenda.do(Send())

    # -- their positions

    def move(self, agenda: Agenda, serving: bool) -> None:
        """Drive each relay to the position that it should have now. `serving`: whether bypassd serves."""
        silent = FAR if self._position_asked is None else agenda.now - self._position_asked
        lost = silent >= self._held_for(serving)
        for name, relay in self.states.items():
            if not relay.usable:
                continue
            position, cause = relay.want, relay.want_cause
            if agenda.stopping:
                position, cause = BYPASS, Cause.STOPPING
            elif lost and relay.want != BYPASS:
                relay.want = position = BYPASS
                relay.want_cause = cause = Cause.SUPERVISOR_LOST
                agenda.do(Log(f"relay {name}: no supervisor for {silent // MS} ms: to bypass"))
            relay.cause = cause
            if position != relay.target:
                self._drive(agenda, name, relay, position, cause)
        on = bool(self.states) and all(relay.target == INLINE for relay in self.states.values())
        if on != self._led:
            self._led = on
            agenda.do(Led(on))

    def all_to_bypass(self, agenda: Agenda) -> None:
        """The keeper is about to exit: drive each relay that is not in bypass there."""
        for name, relay in self.states.items():
            if relay.position != BYPASS:
                self._drive(agenda, name, relay, BYPASS, Cause.STOPPING)

    def _held_for(self, serving: bool) -> int:
        """How long the relays are held after the last check-in that requested positions."""
        return max(self.grace, self._limits.checkin) if serving else self.grace

    def _drive(self, agenda: Agenda, name: str, relay: RelayState, position: str, cause: str) -> None:
        relay.target = position
        if relay.settle:
            relay.moving_until = agenda.due[f"settle {name}"] = agenda.now + relay.settle
        agenda.do(Drive(name, position))
        agenda.do(Log(f"relay {name}: to {position} ({cause})", severe=False))
        agenda.do(Send())
