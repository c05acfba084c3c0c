# SPDX-License-Identifier: GPL-2.0-only
"""Moves and reads relays on threads, so that a bus that stalls delays neither the watchdog nor another bus.

Relays on one bus share a thread, so their transfers never interleave. A relay has at most one order on its way and one
that waits: a newer one takes its place. Reports of orders given before the relay was closed are dropped, because a
transfer that stalled may end long after the core has given up on it. Which report is overdue is decided in relays.py.

Lives as long as the keeper; only the loop's thread calls it.
"""

from __future__ import annotations

import os
import select
import time
from _queue import SimpleQueue
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from appliance.causes import Cause
from appliance.errors import HardwareError
from appliance.hardware.relay.factory import bus_of, make
from appliance.hardware.relay.protocol import Relay, RelayBusError, RelayFaultError, RelaySpec, UnsupportedRelayError
from appliance.keeper import thread
from appliance.keeper.messages import CloseRelay, Drive, Kick, OpenRelay, ReadRelay, RelayReport

Order = OpenRelay | ReadRelay | Drive | Kick | CloseRelay

_CAUSES: tuple[tuple[type[HardwareError], Cause], ...] = (
    (UnsupportedRelayError, Cause.RELAY_UNSUPPORTED),
    (RelayFaultError, Cause.RELAY_FAULT),
    (RelayBusError, Cause.RELAY_BUS_ERROR),
)


def cause_of(error: HardwareError) -> Cause:
    """The cause that an error of a relay stands for."""
    return next((cause for kind, cause in _CAUSES if isinstance(error, kind)), Cause.RELAY_MISSING)


def perform(relay: Relay, order: Order) -> RelayReport | None:
    """Carry out one order, which may take long. A relay that fails is closed; a kick and a close report no success."""
    try:
        match order:
            case OpenRelay(name):
                return RelayReport(name, relay.open())
            case ReadRelay(name, expected):
                return RelayReport(name, relay.read(), expected=expected)
            case Drive(name, position):
                relay.set(position)
                return RelayReport(name, relay.read(), expected=position, moved=True)
            case Kick(_, level):
                relay.kick(level)
            case CloseRelay():
                relay.close()
    except HardwareError as error:
        relay.close()
        return RelayReport(order.relay, error=str(error), cause=cause_of(error))
    except Exception as error:  # in a thread it would end nothing, and the relay would never report again
        relay.close()
        said = f"relay {order.relay}: unexpected {type(error).__name__}: {error}"
        return RelayReport(order.relay, error=said, cause=Cause.RELAY_MISSING)
    return None


class _Slot:
    """One relay and its orders."""

    __slots__ = ("bus", "busy", "closed", "relay", "waiting")

    def __init__(self, relay: Relay, bus: str) -> None:
        self.relay, self.bus = relay, bus
        self.busy = False  # an order is on its way
        self.waiting: Order | None = None
        self.closed = 0  # how often it was closed


class RelayThreads:
    """The board's relays, by name, and one thread for each bus, which is created when it is first needed."""

    def __init__(self, specs: Sequence[RelaySpec]) -> None:
        """OSError: no descriptor is left."""
        self._slots: Mapping[str, _Slot] = {spec.name: _Slot(make(spec), bus_of(spec)) for spec in specs}
        self._buses: dict[str, SimpleQueue[Callable[[], None]]] = {}
        self._done: deque[tuple[_Slot, int, RelayReport | None]] = deque()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """Readable when `take` has something."""
        return self._wake

    def order(self, order: Order) -> None:
        """Give an order; returns at once."""
        slot = self._slots[order.relay]
        if isinstance(order, CloseRelay):
            slot.closed += 1
        if not slot.busy:
            self._begin(slot, order)
        elif slot.waiting is None or isinstance(order, OpenRelay | Drive | CloseRelay):
            slot.waiting = order  # a read or a kick that finds another order waiting is not worth one

    def take(self) -> list[RelayReport]:
        """The reports since the last call, and the next orders on their way."""
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            pass
        found = []
        while self._done:
            slot, closed, report = self._done.popleft()
            slot.busy = False
            if report is not None and report.error and not isinstance(slot.waiting, OpenRelay | CloseRelay):
                slot.waiting = None  # it has been closed: what waits would only fail too, with a less useful text
            if report is not None and closed == slot.closed:
                found.append(report)
            if slot.waiting is not None:
                order, slot.waiting = slot.waiting, None
                self._begin(slot, order)
        return found

    def finish(self, seconds: float) -> None:
        """Wait until every order was carried out, at most this long: the process is about to end."""
        end = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        while any(slot.busy for slot in self._slots.values()) and (left := end - time.monotonic()) > 0:
            poll.poll(left * 1000)
            self.take()

    def aside(self, bus: str, work: Callable[[], None]) -> None:
        """Do something else on the thread of a bus. Its failures are its own business. OSError: there is no thread."""
        self._queue(bus).put(work)

    def _begin(self, slot: _Slot, order: Order) -> None:
        slot.busy = True
        closed = slot.closed

        def work() -> None:
            self._done.append((slot, closed, perform(slot.relay, order)))
            os.eventfd_write(self._wake, 1)

        try:
            self._queue(slot.bus).put(work)
        except OSError as error:
            self._done.append((slot, closed, RelayReport(order.relay, error=f"relay {order.relay}: {error}")))
            os.eventfd_write(self._wake, 1)

    def _queue(self, bus: str) -> SimpleQueue[Callable[[], None]]:
        if bus not in self._buses:
            queue: SimpleQueue[Callable[[], None]] = SimpleQueue()

            def run() -> None:
                while True:
                    queue.get()()

            thread.start(run, f"the bus {bus}")
            self._buses[bus] = queue
        return self._buses[bus]
