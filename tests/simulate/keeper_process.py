# SPDX-License-Identifier: GPL-2.0-only
"""The keeper's process: the real core, and a shell that does what keeper/loop.py does, on modelled hardware."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from appliance.causes import Cause
from appliance.errors import HardwareError
from appliance.keeper import protocol
from appliance.keeper.core import KeeperCore
from appliance.keeper.limits import FAR
from appliance.keeper.messages import (
    Action,
    CheckIn,
    CloseRelay,
    CloseWatchdog,
    Drive,
    Event,
    Exit,
    Exited,
    Feed,
    Kill,
    LinkLost,
    Log,
    Look,
    OpenRelay,
    OpenWatchdog,
    ReadRelay,
    RelayReport,
    Send,
    SetWatchdog,
    Spawn,
    Started,
    Stop,
    Tick,
    WatchdogReport,
)
from appliance.keeper.silence import Looked
from tests.simulate.clock import MS, Clock, Entry, Scope
from tests.simulate.hardware import RelayModel, WatchdogModel

RELAY = "relay-inline"
PACKET_NS = MS // 10


class Child(Protocol):
    """bypassd from the keeper's side."""

    def signal(self, orderly: bool) -> None: ...

    def look(self) -> Looked: ...

    def take(self, packet: bytes) -> None:
        """A packet of the keeper arrives."""

    def link_closed(self) -> None: ...


class KeeperProcess:
    """`spawn` starts a bypassd and returns it, or None when that fails; `exited` is called when the keeper is gone."""

    def __init__(
        self,
        clock: Clock,
        scope: Scope,
        relay: RelayModel,
        watchdog: WatchdogModel | None,
        *,
        spawn: Callable[[], Child | None],
        exited: Callable[[], None],
        failed: Callable[[str, str], None],
        logged: Callable[[str], None],
    ) -> None:
        self._clock, self.scope, self._relay, self._watchdog = clock, scope, relay, watchdog
        self._spawn, self._exited, self._failed, self._logged = spawn, exited, failed, logged
        self.core = KeeperCore()
        self.child: Child | None = None
        self.linked = False
        self.busy_until = 0  # its loop stands still until then
        self.last, self.heard_at = CheckIn({}), 0
        self._mail: list[Event] = []
        self._tick: Entry | None = None
        self._watchdog_open = False
        self.settle = relay.settle + (MS if relay.settle else 0)
        self.deliver(Started((RELAY,), watchdog is not None, {RELAY: self.settle}))

    def deliver(self, event: Event, delay: int = 0) -> None:
        """Deliver an event to the core."""
        self._clock.after(delay, lambda: self._take(event), self.scope)

    def packet(self, packet: bytes) -> None:
        """A packet of bypassd arrives, as in `_receive`."""
        if not self.linked:
            return
        try:
            known = protocol.parse_packet(packet)
        except ValueError as error:
            self.drop_link()
            self._failed("packet", f"the keeper cannot use a check-in of bypassd: {error}")
            self._take(LinkLost(f"sent a malformed check-in ({error})"))
            return
        if isinstance(known, CheckIn):
            self.last, self.heard_at = known, self._clock.now
        self._take(known)

    def hear_again(self, by: int) -> None:
        """Time was skipped, in which bypassd checked in as before; the next check-in follows on this one."""
        proof = self.last.proof
        if proof is not None:
            proof = proof._replace(number=proof.number + 1, at=proof.at + by)
        self.last, self.heard_at = self.last._replace(proof=proof), self._clock.now
        self._take(self.last)

    def drop_link(self) -> None:
        self.linked = False
        if self.child is not None:
            self.child.link_closed()

    def child_gone(self, how: str) -> None:
        """bypassd has ended."""
        self.child, self.linked = None, False
        self._take(Exited(how))

    def stall(self, until: int) -> None:
        """Its loop stalls."""
        self.busy_until = max(self.busy_until, until)

    def _take(self, event: Event) -> None:
        if not self.scope.alive:
            return
        self._mail.append(event)
        if self.busy_until > self._clock.now:
            self._clock.at(self.busy_until, self._work, self.scope)
        elif len(self._mail) == 1:
            self._work()

    def _work(self) -> None:
        """Everything that waits, in order: each step's reports come after what was waiting already."""
        if self.busy_until > self._clock.now:
            self._clock.at(self.busy_until, self._work, self.scope)
            return
        while self._mail and self.scope.alive:
            for action in self.core.step(self._clock.now, self._mail[0]):
                self._perform(action)
            del self._mail[0]
        if self._tick is not None:
            self._tick.cancel()
        due = self.core.deadline()
        if self.scope.alive and due < FAR // 2:
            self._tick = self._clock.at(-(-due // MS) * MS, lambda: self._take(Tick()), self.scope)

    def _perform(self, action: Action) -> None:
        match action:
            case Log(text, _):
                self._logged(text)
            case OpenRelay() | ReadRelay() | Drive():
                self._mail.append(self._relay_report(action))
            case CloseRelay():
                self._relay.release()
            case OpenWatchdog(timeout):
                self._watchdog_open = True
                self._with_watchdog(lambda watchdog: WatchdogReport(watchdog.arm(timeout)))
            case SetWatchdog(timeout):
                self._with_watchdog(lambda watchdog: WatchdogReport(watchdog.arm(timeout)))
            case Feed():
                self._with_watchdog(lambda watchdog: watchdog.feed())
            case CloseWatchdog(timeout):
                self._close_watchdog(timeout)
            case Send():
                if self.child is not None and self.linked:
                    child, state = self.child, json.dumps(self.core.state()).encode()
                    self._clock.after(PACKET_NS, lambda: child.take(state), self.scope)
            case Spawn():
                self.linked = True
                self.child = self._spawn()
                if self.child is None:
                    self.linked = False
                    self._mail.append(Exited("cannot be started: No such file or directory"))
                else:
                    self._perform(Send())
            case Kill(orderly):
                if self.child is not None:
                    self.child.signal(orderly)
            case Look():
                self._mail.append(self.child.look() if self.child is not None else Looked({}))
            case Exit():
                self._exited()

    def _relay_report(self, action: OpenRelay | ReadRelay | Drive) -> RelayReport:
        try:
            match action:
                case OpenRelay(name):
                    return RelayReport(name, self._relay.take())
                case ReadRelay(name, expected):
                    return RelayReport(name, self._relay.read(), expected=expected)
                case Drive(name, position):
                    self._relay.drive(position)
                    return RelayReport(name, self._relay.read(), expected=position)
        except HardwareError as error:
            self._relay.release()
            return RelayReport(action.relay, error=str(error), cause=Cause.RELAY_MISSING)

    def _close_watchdog(self, timeout: int) -> None:
        """It keeps counting: a machine that does not shut down is reset."""
        if self._watchdog is not None and self._watchdog_open:
            with suppress(HardwareError):
                self._watchdog.arm(timeout)
        self._watchdog_open = False

    def _with_watchdog(self, call: Callable[[WatchdogModel], WatchdogReport | None]) -> None:
        if self._watchdog is None or not self._watchdog_open:
            return
        try:
            report = call(self._watchdog)
        except HardwareError as error:
            self._watchdog_open = False
            report = WatchdogReport(error=str(error))
        if report is not None:
            self._mail.append(report)

    def stop(self) -> None:
        """SIGTERM."""
        self._take(Stop())
