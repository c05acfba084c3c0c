# SPDX-License-Identifier: GPL-2.0-only
"""The keeper's core on a perfect board, for tests of its rules step by step."""

from __future__ import annotations

from collections.abc import Callable

from appliance.keeper.core import KeeperCore
from appliance.keeper.lifecycle import Phase
from appliance.keeper.limits import MS, SECOND, Limits
from appliance.keeper.messages import (
    BYPASS,
    HOLD,
    INLINE,
    Action,
    Ask,
    CheckIn,
    CloseRelay,
    Drive,
    Event,
    Exited,
    Feed,
    Kill,
    Look,
    OpenRelay,
    OpenWatchdog,
    ReadRelay,
    RelayReport,
    Send,
    SetWatchdog,
    Started,
    Tick,
    WatchdogReport,
)
from appliance.keeper.silence import Looked

RELAY = "relay-inline"


class Bench:
    """A core with a perfect board around it; `relay_error`, `stuck` and `watchdog_error` break it."""

    def __init__(self, settle: int = 0, limits: Limits | None = None) -> None:
        self.core = KeeperCore(limits)
        self.now = 100 * SECOND
        self.log: list[tuple[int, Action]] = []
        self.line = BYPASS
        self.relay_error = ""
        self.stuck = False
        self.lags = False  # moves later than ordered: the test moves it
        self.watchdog_error = ""
        self.told: list[str] = []  # positions in the states that bypassd was sent
        self.state = "S"  # bypassd's state as the kernel reports it
        self.ran = self.waited = 0.0  # its share of a processor, and of the queue for one
        self.threads = 1  # 0: the kernel keeps no account
        self.feed(Started((RELAY,), settle={RELAY: settle}))

    def feed(self, event: Event) -> list[Action]:
        """Handle one event and the reports that its actions cause, as the shell does."""
        done: list[Action] = []
        if isinstance(event, RelayReport) and event.error:
            self.line = BYPASS  # the shell closes the line before it reports
        events = [event]
        while events:
            for action in self.core.step(self.now, events.pop(0)):
                done.append(action)
                self.log.append((self.now, action))
                events += self.perform(action)
        return done

    def perform(self, action: Action) -> list[Event]:
        match action:
            case OpenWatchdog(timeout) | SetWatchdog(timeout):
                return [WatchdogReport(timeout_ms=0 if self.watchdog_error else timeout, error=self.watchdog_error)]
            case Feed() if self.watchdog_error:
                return [WatchdogReport(error=self.watchdog_error)]
            case OpenRelay(name) | ReadRelay(name, _) | Drive(name, _) if self.relay_error:
                return [RelayReport(name, error=self.relay_error)]
            case OpenRelay(name):
                return [RelayReport(name, self.line)]
            case ReadRelay(name, expected):
                return [RelayReport(name, self.line, expected=expected)]
            case Drive(name, position):
                if not self.stuck and not self.lags:
                    self.line = position
                return [RelayReport(name, self.line, expected=position)]
            case Send():
                self.told.append(self.core.relays.states[RELAY].position)
            case CloseRelay():
                self.line = BYPASS
            case Look():
                times = int(self.now * self.ran), int(self.now * self.waited)
                return [Looked(dict.fromkeys(range(self.threads), times), self.state)]
        return []

    def run(self, until: int, every: int | None = None, want: str = INLINE) -> list[Action]:
        """Let time pass, tick by deadline; with `every` bypassd checks in that often."""
        done = []
        checkin = self.now
        turns = 0  # in which no time went by
        while True:
            step = self.core.deadline()
            if every:
                step = min(step, checkin)
            if step > until:
                break
            turns = turns + 1 if step <= self.now else 0
            assert turns < 20, "the core spins: its deadline has passed, and stays"
            self.now = max(self.now, step)
            if every and self.now >= checkin:
                checkin += every
                done += self.feed(CheckIn({RELAY: Ask(want, "healthy")}))
            else:
                done += self.feed(Tick())
        self.now = until
        return done

    def serve(self, seconds: float = 1, want: str = INLINE) -> list[Action]:
        return self.run(self.now + int(seconds * SECOND), every=100 * MS, want=want)

    def start_again(self, how: str = "killed by signal 9") -> None:
        """bypassd ends, and is restarted after its back-off."""
        self.feed(Exited(how))
        while self.core.bypassd.phase is Phase.DOWN:
            self.run(self.core.deadline())

    def check_in(self, want: str = INLINE) -> list[Action]:
        return self.feed(CheckIn({RELAY: Ask(want, "healthy")}))


def of(actions: list[Action], kind: type) -> list[Action]:
    return [action for action in actions if isinstance(action, kind)]


def starting(bench: Bench, progress: Callable[[int], str] = lambda number: "", every: float = 0.5) -> float:
    """Let bypassd start, sending hold with a progress; seconds until it is killed, or 2 hours."""
    began, number = bench.now, 0
    while bench.now - began < 7200 * SECOND:
        number += 1
        done = bench.feed(CheckIn({RELAY: Ask(HOLD, "starting")}, progress=progress(number)))
        done += bench.run(bench.now + int(every * SECOND))
        if of(done, Kill):
            break
    return (bench.now - began) / SECOND
