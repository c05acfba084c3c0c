# SPDX-License-Identifier: GPL-2.0-only
"""The shell around core.py: one loop that polls a socket, a process and a signal, and performs the core's actions.

Nothing in the loop waits for a disk, a pipe, a bus or another process; what must wait runs in threads: an exec in
starter.py, the relays and the LED in relay_threads.py.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from typing import TYPE_CHECKING

from appliance.errors import HardwareError
from appliance.hardware.relay.line import Line
from appliance.hardware.watchdog import Watchdogs
from appliance.keeper.core import KeeperCore
from appliance.keeper.limits import FAR, MS, SECOND, Limits
from appliance.keeper.messages import (
    Action,
    CloseRelay,
    CloseWatchdog,
    Drive,
    Event,
    Exit,
    Exited,
    Feed,
    Kick,
    Kill,
    Led,
    LinkLost,
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
from appliance.keeper.protocol import LINK_VARIABLE, PACKET_BYTES, parse_packet
from appliance.keeper.relay_threads import RelayThreads
from appliance.keeper.silence import Looked
from appliance.keeper.starter import Starter

if TYPE_CHECKING:
    from collections.abc import Callable

    from appliance.keeper.board import Board


class Logger:
    """Log lines that never delay the loop: to the kernel log, or to stderr if it can be written without waiting."""

    def __init__(self, where: str) -> None:
        self.lost = 0
        self._kmsg = -1
        if where == "kmsg":
            try:
                self._kmsg = os.open("/dev/kmsg", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                pass  # stderr is used instead
        self._poll = select.poll()
        self._poll.register(2, select.POLLOUT)

    def line(self, text: str, severe: bool) -> None:
        """Write one line, or count it as lost."""
        text = text.replace("\n", " ")[:900]
        try:
            if self._kmsg >= 0:
                # facility 3 = daemon; error or notice, so that `quiet` keeps notices off the serial line
                os.write(self._kmsg, f"<{3 << 3 | (3 if severe else 5)}>bypass-keeper: {text}\n".encode())
            elif self._poll.poll(0):
                os.write(2, f"bypass-keeper: {text}\n".encode())
            else:
                self.lost += 1
        except OSError:
            self.lost += 1


class Keeper:
    """Performs the actions of the core and passes events to it."""

    def __init__(self, board: Board, command: list[str], log: Logger, limits: Limits | None = None) -> None:
        self.core = KeeperCore(limits)
        self._board = board
        self._command = command
        self._log = log
        self._relays = RelayThreads(board.relays)
        self._leds: dict[str, Line] = {name: Line(spec) for name, spec in board.leds.items()}
        self._lit: dict[str, bool] = {}
        self._showing: set[str] = set()  # LEDs whose order waits for its bus
        self._watchdog: Watchdogs | None = None
        self._starter: Starter | None = None
        self._link: socket.socket | None = None
        self._starting: socket.socket | None = None  # bypassd's end of the link while it is being started
        self._kill_starting = 0  # the signal that it gets as soon as it exists
        self._pid = 0  # our child until `_reap`: no other process can get its number before
        self._pidfd = -1  # wakes the loop when the child ends; without it the loop checks at each turn
        self._poll = select.poll()
        self._events: list[Event] = []
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
            elif self._starter is not None and fd == self._starter.fileno():
                self._started(self._starter)
            elif fd == self._relays.fileno():
                self._events += self._relays.take()
            elif self._link is not None and fd == self._link.fileno():
                self._receive(self._link)
        if self._pid:
            self._reap()

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
                self._send()
            case Spawn():
                self._spawn()
            case Kill(orderly):
                self._kill(signal.SIGTERM if orderly else signal.SIGKILL)
            case Look():
                self._events.append(look_at(self._pid))
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

    # -- bypassd

    def _spawn(self) -> None:
        try:
            if self._starter is None:
                self._starter = Starter()
                self._poll.register(self._starter, select.POLLIN)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        except OSError as error:  # no descriptor or no thread: retried with the back-off, like every start
            self._events.append(Exited(f"cannot be started: {error.strerror or error}"))
            return
        theirs.set_inheritable(True)
        self._link, self._starting = ours, theirs
        self._poll.register(ours, select.POLLIN)
        # the scheduler resets priority and policy on fork (see `harden`); locked memory does not survive exec
        self._starter.start(self._command, {**os.environ, LINK_VARIABLE: str(theirs.fileno())})
        self._send()

    def _started(self, starter: Starter) -> None:
        assert self._starting is not None
        self._starting.close()
        self._starting = None
        try:
            self._pid = starter.result()
        except OSError as error:
            self._kill_starting = 0  # it was meant for this start
            self._drop_link()
            self._events.append(Exited(f"cannot be started: {self._command[0]}: {error.strerror}"))
            return
        try:
            self._pidfd = os.pidfd_open(self._pid)
            self._poll.register(self._pidfd, select.POLLIN)
        except OSError as error:
            text = f"no pidfd of bypassd: {error.strerror}: when it ends, that is noticed within a second"
            self._log.line(text, severe=False)
        if number := self._kill_starting:
            self._kill(number)

    def _kill(self, number: int) -> None:
        if self._starting is not None:
            self._kill_starting = number
            if self.core.stopping:  # do not wait for the disk: once loaded, bypassd finds its link closed and exits
                self._events.append(Exited("was still being loaded"))
        elif self._pid:
            os.kill(self._pid, number)

    def _reap(self) -> None:
        """Collect the exit status if bypassd has ended."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if not pid:
            return
        self._pid = self._kill_starting = 0
        if self._pidfd >= 0:
            self._poll.unregister(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._drop_link()
        code = os.waitstatus_to_exitcode(status)
        self._events.append(Exited(f"ended with status {code}" if code >= 0 else f"killed by signal {-code}"))

    def _drop_link(self) -> None:
        if self._link is not None:
            self._poll.unregister(self._link)
            self._link.close()
            self._link = None

    def _receive(self, link: socket.socket) -> None:
        try:
            packet = link.recv(PACKET_BYTES)
            if packet:
                self._events.append(parse_packet(packet))
                return
            why = "closed its keeper link"
        except BlockingIOError:
            return
        except OSError as error:
            why = f"lost its keeper link ({error.strerror})"
        except ValueError as error:
            why = f"sent a malformed check-in ({error})"
        self._drop_link()
        self._events.append(LinkLost(why))

    def _send(self) -> None:
        if self._link is not None:
            try:
                self._link.send(json.dumps(self.core.state()).encode())
            except OSError:
                pass  # full or closed: a hung bypassd is noticed by its missing check-ins, and the loop never waits


def look_at(pid: int) -> Looked:
    """The kernel's account of a process (proc(5), sched-stats.rst). Takes no lock that the process could hold."""
    folder, threads, state = f"/proc/{pid}", {}, ""
    try:
        with open(f"{folder}/stat", "rb") as file:
            state = chr(file.read().rpartition(b") ")[2][0])
        for thread in os.listdir(f"{folder}/task"):
            try:
                with open(f"{folder}/task/{thread}/schedstat", "rb") as file:
                    ran, waited, _ = file.read().split()
            except OSError:
                continue  # it ended meanwhile
            threads[int(thread)] = int(ran), int(waited)
    except (OSError, ValueError, IndexError):
        pass  # no account: its silence is then plain time
    return Looked(threads, state)
