# SPDX-License-Identifier: GPL-2.0-only
"""What the keeper decides. Pure: `step(now, event) -> actions`; loop.py performs the actions.

It has the rules of ring 3 and nothing else: those about bypassd's life are in lifecycle.py, about the relays in
relays.py, about the watchdog in feeding.py. This module joins them: which rules get which event, and the orderly stop.

Times are nanoseconds of CLOCK_MONOTONIC. The object lives as long as the keeper.
Imports next to nothing (test_the_keeper_imports_little): relay and watchdog wait for the imports at every boot.
"""

from __future__ import annotations

from appliance.keeper.agenda import Agenda
from appliance.keeper.feeding import Feeding
from appliance.keeper.lamp import Lamps
from appliance.keeper.lifecycle import Lifecycle, Phase
from appliance.keeper.limits import FAR, Limits
from appliance.keeper.messages import (
    HOLD,
    Action,
    CheckIn,
    Event,
    Exit,
    Exited,
    Late,
    LinkLost,
    Log,
    RelayReport,
    Started,
    Stop,
    Tick,
    WatchdogReport,
)
from appliance.keeper.relays import Relays
from appliance.keeper.silence import Looked


class KeeperCore:
    """State and rules; see the module."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits = limits or Limits()
        self.bypassd = Lifecycle(limits)
        self.relays = Relays(limits)
        self.watchdog = Feeding(limits)
        self.lamps = Lamps()
        self.started = 0
        self._agenda = Agenda()
        self._notes: tuple[str, ...] = ()  # of the last check-in, so that each is logged once

    @property
    def stopping(self) -> bool:
        """An orderly stop was ordered."""
        return self._agenda.stopping

    def step(self, now: int, event: Event) -> list[Action]:
        """Take one event and return what to do, in this order. Results come back as events of later steps."""
        agenda = self._agenda
        agenda.now, agenda.actions = now, []
        if self.relays.states and (late := now - self.deadline()) > self.limits.stall:
            # The whole machine stood still, and bypassd with us: its time starts anew. The grace time keeps counting.
            self.bypassd.stood_still(now, late)
            self.relays.stood_still(agenda, late)
        match event:
            case Started():
                self._start(event)
            case CheckIn():
                self._check_in(event)
            case Late(parts):
                self.bypassd.blame(agenda, parts)
            case Looked():
                self.bypassd.looked(agenda, event)
            case Exited(how):
                self._exited(how)
            case LinkLost(why):
                self.bypassd.link_lost(agenda, why)
                self._nothing_ordered()
            case RelayReport():
                self.relays.report(agenda, event)
            case WatchdogReport():
                self.watchdog.report(agenda, event)
            case Stop():
                self._stop()
            case Tick():
                pass
        self._run_due()
        self.bypassd.judge(agenda)
        self.relays.move(agenda, self.bypassd.serving)
        self.lamps.show(agenda, self.relays.all_inline, self.relays.faulty)
        return agenda.actions

    def deadline(self) -> int:
        """When the next Tick is due."""
        times = list(self._agenda.due.values())
        if (judged := self.bypassd.deadline()) is not None:
            times.append(judged)
        if not self.stopping and (released := self.relays.deadline(self.bypassd.serving)) is not None:
            times.append(released)
        return min(times, default=FAR)

    def state(self) -> dict[str, object]:
        """The state as it is sent to bypassd."""
        watchdog = self.watchdog
        return {
            "type": "state",
            "relays": {
                name: {"relay": relay.position, "cause": str(relay.cause), "usable": relay.usable, "error": relay.error}
                for name, relay in self.relays.states.items()
            },
            "bypassd_restarts": self.bypassd.restarts,
            "last_exit": self.bypassd.last_exit,
            "watchdog": {
                "present": watchdog.present,
                "timeout_ms": watchdog.timeout_ms,
                "error": watchdog.error,
                "unfed": watchdog.unfed,
                "devices": [device._asdict() for device in watchdog.devices],
            },
            "keeper_started_ns": self.started,
        }

    def _start(self, event: Started) -> None:
        """Things are opened in this order, so that the watchdog counts before anything can hang."""
        self.started = self._agenda.now
        self.watchdog.begin(self._agenda, event.watchdog)
        self.lamps.begin(event.leds)
        self.relays.begin(self._agenda, event)
        self.bypassd.begin(self._agenda)

    def _check_in(self, event: CheckIn) -> None:
        agenda = self._agenda
        if not self.bypassd.running or not self.bypassd.proves(agenda, event.proof):
            return
        self.bypassd.heard(agenda.now, event.progress)
        if event.notes != self._notes:
            self._notes = event.notes
            for note in event.notes:
                agenda.do(Log(f"check-in of bypassd: {note}"))
        if event.grace_ns is not None:
            self.relays.grace = event.grace_ns
        if event.watchdog_ms is not None:
            self.watchdog.want(agenda, event.watchdog_ms)
        self.watchdog.starve(agenda, event.unfed)
        self.lamps.locate = event.locate
        if any(ask.want == HOLD for ask in event.relays.values()):
            return  # still starting: keep the positions, but do not extend the grace time (a crash loop must end)
        self.bypassd.ready(agenda.now)
        self.relays.ask(agenda.now, event.relays)

    def _exited(self, how: str) -> None:
        if self.bypassd.phase is Phase.DOWN:
            return
        self.bypassd.exited(self._agenda, how)
        self._nothing_ordered()
        if self.stopping:
            self._finish()

    def _nothing_ordered(self) -> None:
        """What only lasts as long as bypassd orders it."""
        self.watchdog.starve(self._agenda, False)
        self.lamps.locate = False

    def _run_due(self) -> None:
        agenda = self._agenda
        for what in [key for key, when in agenda.due.items() if when <= agenda.now]:
            when = agenda.due.pop(what)
            if what == "spawn":
                self.bypassd.spawn(agenda)
            elif what == "watchdog":
                self.watchdog.open(agenda)
            elif what == "feed":
                self.watchdog.feed(agenda, when)
            elif what == "verify":
                self.relays.verify(agenda)
            elif what.startswith("led "):
                self.lamps.tick(agenda, what.removeprefix("led "))
            else:
                self.relays.due(agenda, *what.split(" ", 1))

    def _stop(self) -> None:
        agenda = self._agenda
        if agenda.stopping:
            return
        agenda.stopping = True
        self.watchdog.starve(agenda, False)
        said = f"the watchdog resets the machine in {self.limits.watchdog_stop_ms // 1000} s if it is still up"
        agenda.do(Log(f"orderly stop: relay to bypass, then stopping bypassd; {said}", severe=False))
        for name in [key for key in agenda.due if key == "spawn" or key.startswith("open ")]:
            del agenda.due[name]
        if self.bypassd.running:
            self.bypassd.stop(agenda)
        elif self.bypassd.phase is Phase.DOWN:
            self._finish()

    def _finish(self) -> None:
        agenda = self._agenda
        self.relays.all_to_bypass(agenda)
        agenda.due.clear()
        self.watchdog.close(agenda)
        agenda.do(Exit())
