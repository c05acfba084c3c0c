# SPDX-License-Identifier: GPL-2.0-only
"""What the history of crashes means for this bypassd: a hold after the start, safe mode, and how both end.

hardware/crash_loop.py has the rules. This records the operating time in the history while there is something to expire,
tells the segments why they stay in bypass, and calls `resume` when safe mode ends. Lives as long as bypassd.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from appliance.api.schema import state
from appliance.causes import Cause
from appliance.counted import counted
from appliance.hardware import crash_loop
from appliance.hardware.crash_loop import History, Limits
from appliance.hardware.crashlog import CrashLog

if TYPE_CHECKING:
    from appliance.config.schema.model import Config

log = logging.getLogger(__name__)

SECOND = 1_000_000_000
NOTES = 12  # records per window: a reset loses at most this fraction of the operating time


def limits_of(config: Config | None) -> Limits:
    """The configured limits; the defaults without a configuration."""
    if config is None:
        return Limits()
    return Limits(config.system.crash_limit, max(1, int(config.system.crash_window) // SECOND))


class SafeMode:
    """See the module. `limits` apply until the next start of bypassd. `clock`: CLOCK_MONOTONIC, from the boot on."""

    def __init__(self, crash_log: CrashLog, limits: Limits, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._crash_log, self.limits, self._clock = crash_log, limits, clock
        self.resume: Callable[[], None] = lambda: None

    @property
    def active(self) -> bool:
        """Whether safe mode is active: no datapath and no guest is started."""
        return self._history.safe

    @property
    def _history(self) -> History:
        return self._crash_log.history

    def held_s(self) -> int:
        """Seconds until a relay may leave bypass; 0 in safe mode, which does not end by itself so."""
        if self.active:
            return 0
        return max(0, -(-(crash_loop.hold(self._history, self.limits) * SECOND - self._clock()) // SECOND))

    def faults(self) -> dict[Cause, str]:
        """The reason for bypass, for every segment. Its text stays the same, because each change would be recorded."""
        if self.active:
            return {Cause.SAFE_MODE: self._counted()}
        if self.held_s():
            held = crash_loop.hold(self._history, self.limits)
            return {Cause.CRASH_HOLD: f"{self._counted()}: in bypass for the first {held} s after the start"}
        return {}

    def answer(self) -> state.Crashes:
        """The state, as the API shows it."""
        history, held = self._history, self.held_s()
        return state.Crashes(
            mode="safe" if self.active else "hold" if held else "normal",
            count=history.counted,
            limit=self.limits.limit,
            window_s=self.limits.window,
            held_s=held,
            reasons=[crash.text for crash in history.crashes],
            alarm=self._alarm(),
        )

    def _alarm(self) -> str:
        """The warning at login and when configuring, also for crashes before safe mode."""
        history, limits = self._history, self.limits
        if not history.counted and not self.active:
            return ""
        crashes = [crash.text for crash in history.crashes if crash.kind != "power"]
        last = f" (the last one: {crashes[-1]})" if crashes else ""
        if self.active:
            ends = f"`crash-count clear`, or until {_hours(limits.window)} of operation have passed without a crash"
            rest = f"no datapath and no guest is started until {ends}"
        else:
            rest = f"with {limits.limit} it starts in safe mode" if limits.limit else "safe mode is off"
        return f"{self._counted()}{last}: {rest}"

    def _counted(self) -> str:
        history = self._history
        cuts = sum(crash.kind == "power" for crash in history.crashes)
        crashes = len(history.crashes) - cuts
        said = [counted(crashes, "crash", "crashes")] if crashes else []
        said += [counted(cuts, "reset") + " without a record"] if cuts else []
        return f"{' and '.join(said)} within {_hours(self.limits.window)} of operation"

    # -- time and operator's orders

    async def run(self) -> None:
        """Record the operating time regularly, until cancelled."""
        while True:
            await asyncio.sleep(max(1, self.limits.window // NOTES))
            await self.note()

    async def note(self) -> None:
        """Record the operating time, and drop crashes that are too old. Does nothing if there are none."""
        if not self._history.idle:
            await self._keep(crash_loop.settle(self._history._replace(up=self._up()), self.limits))

    async def clear(self) -> str:
        """By order: clear all crashes; returns the answer. OSError: that is not kept for the next boot."""
        said = f"cleared: {self._counted()}" if self._history.crashes else "no crash is counted"
        if self.active:
            said += "; safe mode ends: the datapath and the guests are started"
        await self._keep(crash_loop.cleared(self._history._replace(up=self._up())))
        return said

    def _up(self) -> int:
        return self._clock() // SECOND

    async def _keep(self, history: History) -> None:
        before = self.active
        self._crash_log.history = history  # in effect at once, stored or not
        if before and not history.safe:
            log.warning("safe mode is over")
            self.resume()
        try:
            await asyncio.to_thread(self._crash_log.note)
        except OSError as error:
            log.error("the history of crashes cannot be stored: %s", error)


def _hours(seconds: int) -> str:
    for size, word in ((3600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {word}"
    return f"{seconds} s"
