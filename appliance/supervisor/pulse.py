# SPDX-License-Identifier: GPL-2.0-only
"""The pulse: the only code that checks in with the keeper and renews the datapath's dead-man lease.

It beats every 100 ms, at every deadline of a segment, and whenever it is woken. While a part is late it does neither:
the keeper and the kernel then act. Lives as long as bypassd.
"""

from __future__ import annotations

import asyncio
import logging
import time

from appliance.causes import Cause
from appliance.keeper.sequence import SPACING
from appliance.part import happens
from appliance.supervisor.frame_watch import FrameWatch
from appliance.supervisor.system import System

log = logging.getLogger(__name__)

MS = 1_000_000
PULSE_NS = 100 * MS
LEASE_NS = 500 * MS
"""The datapath skips every guest when the pulse has stopped for this long."""


class Pulse:
    """See the module."""

    def __init__(self, system: System, woken: asyncio.Event) -> None:
        """Setting `woken` makes the pulse check everything now."""
        self._system, self._woken = system, woken
        self._frames = FrameWatch(system)
        self._late: list[str] = []

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            self._system.loop_watch.note_account()
            began = time.monotonic_ns()
            self.beat(began)
            due = self._system.segments.deadline()
            wait = PULSE_NS if due is None else min(PULSE_NS, max(MS, due - time.monotonic_ns()))
            if await happens(self._woken, wait / 1e9):
                self._woken.clear()
            early = began + SPACING - time.monotonic_ns()
            if early > 0:
                await asyncio.sleep(early / 1e9)  # the keeper takes a check-in that comes too soon for a runaway loop

    def beat(self, now: int) -> None:
        """Update the segments, check in and renew, unless a part is late. `now`: CLOCK_MONOTONIC in nanoseconds."""
        system = self._system
        if self._any_late(now):
            return
        steps = ["parts"]
        self._frames.look()
        steps.append("frames")
        system.segments.update(now, system.keeper_state, system.faults)
        steps.append("segments")
        system.steering.renew(now + LEASE_NS)
        steps.append("lease")
        timeout = int(system.config.watchdog.timeout) // MS if system.config else None
        grace = int(system.config.system.supervisor_grace) // MS if system.config else None
        if system.locate_until and now >= system.locate_until:
            system.locate_until = 0
        locate = bool(system.locate_until)
        unfed = system.watchdog_drill
        system.keeper.check_in(self._wants(), timeout, grace, at=now, steps=steps, unfed=unfed, locate=locate)

    def _any_late(self, now: int) -> bool:
        late = self._system.check_ins.late(now)
        names = [name for name, _ in late]
        if names != self._late:
            if late:
                check_ins = self._system.check_ins
                said = ", ".join(
                    f"part {name} has been silent for more than {check_ins.patience(name) // MS} ms" for name in names
                )
                self._system.keeper.late(said)
            for name, silent in late:
                log.error("part %s has been silent for %d ms: no check-in with the keeper", name, silent // MS)
            if not late:
                log.warning("all parts check in again")
            self._late = names
        return bool(late)

    def _wants(self) -> dict[str, tuple[str, str]]:
        system = self._system
        if system.config is None and system.board is not None:
            wants = {relay.line: ("bypass", str(Cause.CONFIG_INVALID)) for relay in system.board.relay}
        else:
            wants = system.segments.wants()
        tested = {name: (position, str(Cause.BOARD_TEST)) for name, position in system.relay_orders.items()}
        return wants | tested
