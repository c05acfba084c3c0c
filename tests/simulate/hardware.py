# SPDX-License-Identifier: GPL-2.0-only
"""The board and what it is connected to: relay, watchdog, ports and cables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from appliance.errors import HardwareError
from tests.simulate.clock import MS, SECOND, Clock, Entry

BYPASS, INLINE = "bypass", "inline"
SIDES = ("lan", "wan")
CARRIER_NS = 1500 * MS
"""From the moment at which both ends of a cable are there until they have agreed on a link."""


@dataclass
class RelayModel:
    """A coil and its contacts. `keeps`: a released line keeps its level; otherwise it falls back to bypass."""

    clock: Clock
    moved: Callable[[], object]
    keeps: bool = False
    settle: int = 0
    coil: str = BYPASS
    missing: bool = False  # the line cannot be opened
    stuck: bool = False  # the contacts do not follow
    drops: bool = False  # they fall back a second after each move to inline
    open: bool = False
    _moves: int = 0

    @property
    def inline(self) -> bool:
        """Whether the contacts are open, so that frames reach the ports."""
        return self.coil == INLINE

    def _usable(self) -> None:
        if self.missing:
            raise HardwareError("relay line: no such line")

    def take(self) -> str:
        self._usable()
        self.open = True
        return self.coil

    def read(self) -> str:
        self._usable()
        return self.coil

    def drive(self, position: str) -> None:
        self._usable()
        if self.stuck:
            return
        self._moves += 1
        mine = self._moves
        self.clock.after(self.settle, lambda: self._arrive(position, mine))
        if not self.settle:
            self._arrive(position, mine)

    def _arrive(self, position: str, move: int) -> None:
        if move != self._moves:
            return
        if position != self.coil:
            self.coil = position
            self.moved()
        if self.drops and position == INLINE:
            self.clock.at(self.clock.now + SECOND, lambda: self._arrive(BYPASS, move), fixed=True)

    def release(self) -> None:
        """The keeper closed the line, or is gone."""
        self.open = False
        if not self.keeps:
            self.fall()

    def fall(self) -> None:
        """No power at the coil."""
        self._moves += 1
        if self.coil != BYPASS:
            self.coil = BYPASS
            self.moved()


@dataclass
class WatchdogModel:
    """Counts from the first opening on, also when nobody has it open."""

    clock: Clock
    bites: Callable[[], object]
    timeout: int = 10 * SECOND
    missing: bool = False
    running: bool = False
    fed: int = 0
    _due: Entry | None = None

    def _usable(self) -> None:
        if self.missing:
            raise HardwareError("/dev/watchdog0: no such device")

    def arm(self, timeout_ms: int) -> int:
        self._usable()
        self.running, self.timeout = True, max(1, timeout_ms // 1000) * SECOND
        self.feed()
        return self.timeout // MS

    def feed(self) -> None:
        self._usable()
        self.fed = self.clock.now
        if self._due is None:
            self._wait()

    def _wait(self) -> None:
        self._due = self.clock.at(self.fed + self.timeout, self._look)

    def _look(self) -> None:
        self._due = None
        if not self.running:
            return
        if self.clock.now - self.fed >= self.timeout:
            self.running = False
            self.bites()
        else:
            self._wait()

    def disarm(self) -> None:
        """The board is reset, or without power."""
        self.running = False

    def skip(self, by: int) -> None:
        """The clock jumped over time in which it was fed."""
        self.fed += by


@dataclass
class Port:
    """A data port, its cable and the neighbour at the cable's other end."""

    ifindex: int
    present: bool = True
    admin_up: bool = False
    transparent: bool = False  # promiscuous and without ARP
    cable: bool = True
    silent: bool = False  # a carrier, but no frames: the port's own electronics failed
    sent: float = 0.0  # frames, as the driver counts them
    carrier: bool = False  # as the driver reports it, a little later than it is
    pending: Entry | None = field(default=None, repr=False)

    def physical(self, exposed: bool) -> bool:
        """Whether both ends of the link are there. `exposed`: the relay connects the port with its cable."""
        return self.present and self.admin_up and self.cable and exposed
