# SPDX-License-Identifier: GPL-2.0-only
"""The keeper's rules and its relay threads on emulated hardware, in the time of the first rig."""

from __future__ import annotations

import select
from collections.abc import Sequence

from appliance.keeper.core import KeeperCore
from appliance.keeper.limits import MS, SECOND
from appliance.keeper.messages import (
    Action,
    Ask,
    CheckIn,
    CloseRelay,
    Drive,
    Event,
    Feed,
    Kick,
    OpenRelay,
    OpenWatchdog,
    ReadRelay,
    SetWatchdog,
    Started,
    Tick,
    WatchdogReport,
)
from appliance.keeper.relay_threads import RelayThreads
from tests.support.relay_models import PATIENCE_S, Rig

EVERY_MS = 100


class Box:
    """One keeper for several relays. bypassd checks in while `serves` is set, and requests `wants` for each relay."""

    def __init__(self, rigs: Sequence[Rig], names: Sequence[str] = ()) -> None:
        self.rigs = rigs
        specs = [rig.spec for rig in rigs]
        if names:
            specs = [spec._replace(name=name) for spec, name in zip(specs, names, strict=True)]
        self.names = [spec.name for spec in specs]
        self.core, self.threads = KeeperCore(), RelayThreads(specs)
        for rig, name in zip(rigs, self.names, strict=True):
            self.threads._slots[name].relay = rig.relay
        self.wants = dict.fromkeys(self.names, "bypass")
        self.serves = True
        self.runs = True  # False: the keeper hangs, or is stopped
        self.fed = 0
        self.log: list[Action] = []
        keep_alive = {spec.name: spec.keep_alive for spec in specs if spec.keep_alive}
        settle = {spec.name: spec.settle_ms * MS for spec in specs}
        keeps = frozenset(spec.name for spec in specs if spec.keeps)
        self.step(Started(tuple(self.names), True, settle, keep_alive, keeps))

    @property
    def now(self) -> int:
        """ns"""
        return 1000 * SECOND + int(self.rigs[0].now_ms * MS)

    def step(self, event: Event) -> None:
        """One event, and the reports that follow from it at once. A slow bus reports later."""
        events = [event]
        while events:
            for action in self.core.step(self.now, events.pop(0)):
                self.log.append(action)
                match action:
                    case OpenRelay() | ReadRelay() | Drive() | Kick() | CloseRelay():
                        self.threads.order(action)
                    case OpenWatchdog(timeout) | SetWatchdog(timeout):
                        events.append(WatchdogReport(timeout_ms=timeout))
                    case Feed():
                        self.fed += 1
            events += self._reports()

    def _reports(self) -> list[Event]:
        """Everything that arrives: all that is on its way, except what a slow bus holds back."""
        found: list[Event] = []
        slow = [name for rig, name in zip(self.rigs, self.names, strict=True) if rig.faults.slow is not None]
        while any(slot.busy for name, slot in self.threads._slots.items() if name not in slow):
            assert select.select([self.threads], [], [], PATIENCE_S)[0], "no report"
            found += self.threads.take()
        return [*found, *self.threads.take()]

    def run(self, milliseconds: float) -> None:
        """Let time pass: bypassd checks in, the core's deadlines are met."""
        if not self.runs:
            for rig in self.rigs:
                rig.elapse(milliseconds)
            return
        end = self.now + int(milliseconds * MS)
        next_check_in = self.now
        while self.now < end:
            due = min(end, self.core.deadline(), next_check_in if self.serves else end)
            for rig in self.rigs:
                rig.elapse(max(0, due - self.now) / MS)
            if self.serves and self.now >= next_check_in:
                next_check_in = self.now + EVERY_MS * MS
                self.step(CheckIn({name: Ask(want, "healthy") for name, want in self.wants.items()}))
            else:
                self.step(Tick())

    def state(self, number: int = 0) -> tuple[str, str, bool]:
        """Position, cause and usable of one relay as bypassd is told."""
        relay = self.core.relays.states[self.names[number]]
        return relay.position, str(relay.cause), relay.usable

    def until_unusable(self, milliseconds: float) -> None:
        """Run until a relay has failed, before the keeper tries it again."""
        for _ in range(int(milliseconds / 50)):
            if not all(state.usable for state in self.core.relays.states.values()):
                return
            self.run(50)

    def inline(self) -> None:
        """Bring all of them inline."""
        self.wants = dict.fromkeys(self.names, "inline")
        self.run(1500)
        assert all(self.state(number)[0] == "inline" for number in range(len(self.rigs))), self.log[-20:]
