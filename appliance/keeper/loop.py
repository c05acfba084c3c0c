# SPDX-License-Identifier: GPL-2.0-only
"""The shell around core.py: one loop that polls a socket, a process and a signal, and performs the core's actions.

Nothing in the loop waits for a disk, a pipe, a bus or another process; what must wait runs in threads: an exec in
starter.py, the relays and the LED in relay_threads.py. The process of bypassd and its link are in bypassd.py.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import TYPE_CHECKING

from appliance.errors import HardwareError
from appliance.hardware.relay.line import Line
from appliance.hardware.watchdog import Watchdogs
from appliance.keeper.bypassd import Bypassd
from appliance.keeper.core import KeeperCore
from appliance.keeper.limits import FAR, MS, SECOND, Limits
from appliance.keeper.messages import (
    Action,
    CloseRelay,
    CloseWatchdog,
    Drive,
    Event,
    Exit,
    Feed,
    Kick,
    Kill,
    Led,
    Log,
    Look,
    OpenRelay,
    OpenWatchdog,
    ReadRelay,
    Send,
    SetWatchdog,
    Spawn,
    Started,
    Stop,
    Tick,
    WatchdogReport,
)
from appliance.keeper.relay_threads import RelayThreads

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.keeper.board import Board
    from appliance.keeper.logger import Logger


class Keeper:
    """Performs the actions of the core and passes events to it."""

    def __init__(self, board: Board, command: list[str], log: Logger, limits: Limits | None = None) -> None:
        self.core = KeeperCore(limits)
        self._board = board
        self._log = log
        self._relays = RelayThreads(board.relays)
        self._leds: dict[str, Line] = {name: Line(spec) for name, spec in board.leds.items()}
        self._lit: dict[str, bool] = {}
        self._showing: set[str] = set()  # LEDs whose order waits for its bus
        self._watchdog: Watchdogs | None = None
        self._poll = select.poll()
        self._events: list[Event] = []
        self._bypassd = Bypassd(
            command, poll=self._poll, tell=self._events.append, stopping=lambda: self.core.stopping, log=log
        )
        self._running = True
        self._signals, self._wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def run(self) -> None:
        """Loop until the core says Exit."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._poll.register(self._signals, select.POLLIN)
        self._poll.register(self._relays, select.POLLIN)
        relays = self._board.relays
        self._events.append(
            Started(
                tuple(spec.name for spec in relays),
                bool(self._board.watchdogs),
                settle={spec.name: spec.settle_ms * MS for spec in relays},
                keep_alive={spec.name: spec.keep_alive for spec in relays if spec.keep_alive},
                leds=frozenset(self._leds),
                keeps=frozenset(spec.name for spec in relays if spec.keeps),
            )
        )
        while self._running:
            while self._events and self._running:
                for action in self.core.step(time.monotonic_ns(), self._events.pop(0)):
                    self._perform(action)
            if self._running:
                self._wait()

    def _wait(self) -> None:
        left = self.core.deadline() - time.monotonic_ns()
        # rounded up: a poll that returns just before the deadline would spin
        ready = self._poll.poll(None if left > FAR // 2 else max(0, -(-left // MS)))
        if not ready:
            self._events.append(Tick())
        for fd, _ in ready:
            if fd == self._signals:
                os.read(self._signals, 64)
                self._events.append(Stop())
            elif fd == self._relays.fileno():
                self._events += self._relays.take()
            else:
                self._bypassd.ready(fd)
        self._bypassd.reap()

    # -- actions

    def _perform(self, action: Action) -> None:
        match action:
            case Log(text, severe):
                self._log.line(text, severe)
            case Feed():
                self._with_watchdog(lambda watchdog: watchdog.feed())
            case OpenWatchdog(timeout):
                self._open_watchdog(timeout)
            case SetWatchdog(timeout):
                self._with_watchdog(lambda watchdog: self._arm(watchdog, timeout))
            case CloseWatchdog(timeout):
                self._close_watchdog(timeout)
            case OpenRelay() | ReadRelay() | Drive() | Kick() | CloseRelay():
                self._relays.order(action)
            case Led(on, name):
                self._set_led(name, on)
            case Send():
                self._bypassd.send(self.core.state())
            case Spawn():
                self._bypassd.spawn()
                self._bypassd.send(self.core.state())
            case Kill(orderly):
                self._bypassd.kill(orderly=orderly)
            case Look():
                self._events.append(self._bypassd.look())
            case Exit():
                self._relays.finish(self.core.limits.answer / SECOND)
                self._running = False

    def _open_watchdog(self, timeout_ms: int) -> None:
        try:
            self._watchdog = Watchdogs.open(self._board.watchdogs, self._board.pretimeout_ms)
        except HardwareError as error:
            self._events.append(WatchdogReport(error=str(error)))
        else:
            self._with_watchdog(lambda watchdog: self._arm(watchdog, timeout_ms))

    def _arm(self, watchdog: Watchdogs, timeout_ms: int) -> None:
        timeout = watchdog.set_timeout(timeout_ms)
        self._events.append(WatchdogReport(timeout_ms=timeout, devices=watchdog.facts()))

    def _close_watchdog(self, timeout_ms: int) -> None:
        if self._watchdog is None:
            return
        try:
            self._watchdog.set_timeout(timeout_ms)
            self._watchdog.feed()
        except HardwareError as error:
            self._log.line(str(error), severe=True)
        self._watchdog.close()
        self._watchdog = None

    def _with_watchdog(self, call: Callable[[Watchdogs], None]) -> None:
        if self._watchdog is None:
            return
        try:
            call(self._watchdog)
        except HardwareError as error:
            self._watchdog.close()
            self._watchdog = None
            self._events.append(WatchdogReport(error=str(error)))

    def _set_led(self, name: str, on: bool) -> None:
        self._lit[name] = on
        if name not in self._leds or name in self._showing:
            return  # what waits for its bus will show the newest: a bus that stalls makes no queue
        self._showing.add(name)
        try:
            self._relays.aside("the LEDs", lambda: self._show_led(name))  # they may be behind a slow bus too
        except OSError as error:
            self._showing.discard(name)
            self._log.line(str(error), severe=False)

    def _show_led(self, name: str) -> None:
        """In a thread."""
        self._showing.discard(name)
        led = self._leds.get(name)
        if led is None:
            return
        try:
            if not led.is_open:
                led.open()
            led.drive(self._lit[name])
        except HardwareError as error:
            self._log.line(f"{name} LED: {error}", severe=False)
            self._leds.pop(name, None)  # an LED is not worth a second attempt
