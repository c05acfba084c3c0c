# SPDX-License-Identifier: GPL-2.0-only
"""The position of each relay as the keeper decides it. Pure.

A relay leaves bypass only while bypassd requests it and checks in, or within the grace time after that. A line that is
missing or does not follow is logged once with its cause and retried; meanwhile its relay is where it was found, else in
bypass, or in an unknown position if it keeps its position without us. A relay whose order is not carried out in time
counts as failed too. One that failed counts as working again only when it was driven to bypass and is found there.

A keep-alive relay is inline only while its line is toggled. That happens in the keeper's loop, one level after the
other, so that it ends with the loop, whatever stops it.
"""

from __future__ import annotations

from collections.abc import Mapping

from appliance.causes import Cause
from appliance.keeper.agenda import Agenda
from appliance.keeper.limits import FAR, MS, Limits
from appliance.keeper.messages import (
    BYPASS,
    INLINE,
    UNKNOWN,
    Ask,
    CloseRelay,
    Drive,
    Kick,
    Log,
    OpenRelay,
    ReadRelay,
    RelayReport,
    Send,
    Started,
)


class RelayState:
    """What is known about one relay."""

    __slots__ = (
        "cause", "error", "keep_alive", "keeps", "known", "level", "moving_until", "position", "proving", "settle",
        "target", "usable", "want", "want_cause",
    )  # fmt: skip

    def __init__(self, settle: int, keep_alive: tuple[int, int] | None = None, keeps: bool = False) -> None:
        self.settle = settle
        self.keep_alive = keep_alive  # ns high, ns low
        self.keeps = keeps  # released, it stays where it is
        self.level = False  # of the keep-alive line
        self.known = False  # it was open before in this keeper's life
        self.moving_until = 0  # a position read back before then means nothing
        self.usable = False
        self.proving = False  # it failed, was opened again, and is driven to bypass
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

    def begin(self, agenda: Agenda, started: Started) -> None:
        """Open them in this step."""
        settle, keep_alive = started.settle or {}, started.keep_alive or {}
        self.states = {
            name: RelayState(settle.get(name, 0), keep_alive.get(name), name in started.keeps)
            for name in started.relays
        }
        for name in self.states:
            agenda.due[f"open {name}"] = agenda.now
        self.verify(agenda)

    def stood_still(self, agenda: Agenda, late: int) -> None:
        """The whole machine stood still for `late` ns: the threads that carry out orders get that time too."""
        for what in agenda.due:
            if what.startswith("answer "):
                agenda.due[what] += late

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

    def due(self, agenda: Agenda, what: str, name: str) -> None:
        """Something of one relay is due: open, settle (read it back), kick (keep-alive), answer (it is overdue)."""
        relay = self.states[name]
        if what == "open":
            agenda.do(OpenRelay(name))
            self._await(agenda, name)
        elif what == "settle":
            self._read(agenda, name, relay)
        elif what == "kick":
            self._kick(agenda, name, relay)
        else:
            said = f"relay {name}: no answer within {self._limits.answer // MS} ms: its bus or controller hangs"
            agenda.do(CloseRelay(name))
            self._lost(agenda, name, Cause.RELAY_NO_ANSWER, said)

    def _read(self, agenda: Agenda, name: str, relay: RelayState) -> None:
        if relay.usable or relay.proving:
            agenda.do(ReadRelay(name, relay.target))
            self._await(agenda, name)

    def _await(self, agenda: Agenda, name: str) -> None:
        """An order was given: its report will be overdue. An earlier order on its way counts from its own start."""
        agenda.due.setdefault(f"answer {name}", agenda.now + self._limits.answer)

    def _kick(self, agenda: Agenda, name: str, relay: RelayState) -> None:
        """The next level of the keep-alive line, and when it ends."""
        if relay.keep_alive is not None and relay.usable and relay.target == INLINE:
            relay.level = not relay.level
            agenda.do(Kick(name, relay.level))
            agenda.due[f"kick {name}"] = agenda.now + relay.keep_alive[0 if relay.level else 1]

    def verify(self, agenda: Agenda) -> None:
        """Read all of them back, and schedule the next time."""
        for name, relay in self.states.items():
            self._read(agenda, name, relay)
        agenda.due["verify"] = agenda.now + self._limits.verify

    def report(self, agenda: Agenda, event: RelayReport) -> None:
        """The result of opening, driving or reading one relay."""
        relay = self.states[event.relay]
        agenda.due.pop(f"answer {event.relay}", None)
        if (relay.usable or relay.proving) and not event.error and event.expected != relay.target:
            self._await(agenda, event.relay)  # the report of an earlier order: the last one is still on its way
        if event.moved and relay.settle and event.expected == relay.target:
            relay.moving_until = agenda.due[f"settle {event.relay}"] = agenda.now + relay.settle
        if event.moved and relay.keep_alive is not None and event.expected == relay.target == INLINE:
            relay.level = True  # as the order left its line, after a start sequence that may take long
            agenda.due[f"kick {event.relay}"] = agenda.now + relay.keep_alive[0]
        if event.error:
            self._lost(agenda, event.relay, event.cause, event.error)
        elif not relay.usable and not relay.proving:
            if relay.known and not agenda.stopping:
                relay.proving = True
                self._order(agenda, event.relay, relay, BYPASS)
                return
            if event.position != BYPASS:
                # taken over from an earlier keeper: as if its bypassd had just requested it
                relay.want, relay.want_cause = event.position, Cause.HEALTHY
                self._position_asked = agenda.now
            self._taken(agenda, event.relay, relay, event.position)
        elif agenda.now < relay.moving_until:
            pass  # read again when the contacts have settled
        elif event.position != event.expected:
            found = f"set to {event.expected}, reads {event.position}"
            said = f"relay {event.relay}: {found}: check coil and GPIO controller"
            agenda.do(CloseRelay(event.relay))
            self._lost(agenda, event.relay, Cause.RELAY_FAULT, said, event.position)
        elif relay.proving:
            self._taken(agenda, event.relay, relay, event.position)
        elif event.position != relay.position:
            relay.position = event.position
            agenda.do(Send())  # after the move: bypassd waits for the confirmed position

    def _taken(self, agenda: Agenda, name: str, relay: RelayState, position: str) -> None:
        """It works, and is in this position."""
        relay.usable, relay.known, relay.proving, relay.error = True, True, False, ""
        relay.position = relay.target = position
        relay.level = False
        self._kick(agenda, name, relay)
        agenda.do(Log(f"relay {name}: line taken, in {position}", severe=False))
        agenda.do(Send())

    def _lost(self, agenda: Agenda, name: str, cause: Cause, error: str, position: str = "") -> None:
        """It failed, and is closed. `position`: where it was found, if it was."""
        relay = self.states[name]
        relay.usable, relay.proving, relay.cause = False, False, cause
        relay.position, relay.target = position or (UNKNOWN if relay.keeps else BYPASS), BYPASS
        relay.want, relay.want_cause = BYPASS, cause
        for what in ("answer", "settle", "kick"):
            agenda.due.pop(f"{what} {name}", None)
        if not agenda.stopping:
            agenda.due[f"open {name}"] = agenda.now + self._limits.retry
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

    @property
    def all_inline(self) -> bool:
        """Whether every relay is to be inline, and there is one."""
        return bool(self.states) and all(relay.target == INLINE for relay in self.states.values())

    @property
    def faulty(self) -> bool:
        """Whether a relay does not work."""
        return any(relay.error for relay in self.states.values())

    def all_to_bypass(self, agenda: Agenda) -> None:
        """The keeper is about to exit: drive each relay that is not in bypass there, also one that has failed."""
        for name, relay in self.states.items():
            if relay.position != BYPASS:
                if not relay.usable:
                    agenda.do(OpenRelay(name))
                self._drive(agenda, name, relay, BYPASS, Cause.STOPPING)

    def _held_for(self, serving: bool) -> int:
        """How long the relays are held after the last check-in that requested positions."""
        return max(self.grace, self._limits.checkin) if serving else self.grace

    def _drive(self, agenda: Agenda, name: str, relay: RelayState, position: str, cause: str) -> None:
        self._order(agenda, name, relay, position)
        agenda.do(Log(f"relay {name}: to {position} ({cause})", severe=False))
        agenda.do(Send())

    def _order(self, agenda: Agenda, name: str, relay: RelayState, position: str) -> None:
        relay.target = position
        if relay.settle:
            relay.moving_until = agenda.due[f"settle {name}"] = agenda.now + relay.settle
        agenda.do(Drive(name, position))
        self._await(agenda, name)
