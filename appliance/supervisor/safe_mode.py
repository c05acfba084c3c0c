# SPDX-License-Identifier: GPL-2.0-only
"""What a history of crashes means for this bypassd: a hold after the start, safe mode, and how both end.

hardware/crash_loop.py has the rules. This notes the time of operation in the history while it has something to forget,
tells the segments why they stay in bypass, and calls `resume` when safe mode is over. Lives as long as bypassd.
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
NOTES = 12  # a window: a reset loses at most so little of the time of operation


def limits_of(config: Config | None) -> Limits:
    """What the configuration says; the defaults while there is none."""
    if config is None:
        return Limits()
    return Limits(config.system.crash_limit, max(1, int(config.system.crash_window) // SECOND))


class SafeMode:
    """See the module. `limits` hold until the next start of bypassd. `clock`: CLOCK_MONOTONIC, which begins at boot."""

    def __init__(self, crash_log: CrashLog, limits: Limits, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._crash_log, self.limits, self._clock = crash_log, limits, clock
        self.resume: Callable[[], None] = lambda: None

    @property
    def active(self) -> bool:
        """No datapath and no guest is started."""
        return self._history.safe

    @property
    def _history(self) -> History:
        return self._crash_log.history

    def held_s(self) -> int:
        """Seconds until a relay may leave bypass; 0 in safe mode, which has no such end."""
        if self.active:
            return 0
        return max(0, -(-(crash_loop.hold(self._history, self.limits) * SECOND - self._clock()) // SECOND))

    def faults(self) -> dict[Cause, str]:
        """The reason to bypass, for every segment. The text stays the same, for each change of it would be recorded."""
        if self.active:
            return {Cause.SAFE_MODE: self._counted()}
        if self.held_s():
            held = crash_loop.hold(self._history, self.limits)
            return {Cause.CRASH_HOLD: f"{self._counted()}: in bypass for the first {held} s after the start"}
        return {}

    def answer(self) -> state.Crashes:
        """As the API shows it."""
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
        """Whoever logs in or configures should know of crashes before the appliance draws the line, too."""
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

    # -- time and orders

    async def run(self) -> None:
        """Note the time of operation again and again, until cancelled."""
        while True:
            await asyncio.sleep(max(1, self.limits.window // NOTES))
            await self.note()

    async def note(self) -> None:
        """Keep how long the machine has been in operation, and forget what is too old. Nothing while all is well."""
        if not self._history.idle:
            await self._keep(crash_loop.settle(self._history._replace(up=self._up()), self.limits))

    async def clear(self) -> str:
        """By order: forget all crashes. What is to be said of it. OSError: it is not kept for the next boot."""
        said = f"forgotten: {self._counted()}" if self._history.crashes else "no crash is counted"
        if self.active:
            said += "; safe mode ends: the datapath and the guests are started"
        await self._keep(crash_loop.cleared(self._history._replace(up=self._up())))
        return said

    def _up(self) -> int:
        return self._clock() // SECOND

    async def _keep(self, history: History) -> None:
        before = self.active
        self._crash_log.history = history  # counts at once, kept or not
        if before and not history.safe:
            log.warning("safe mode is over")
            self.resume()
        try:
            await asyncio.to_thread(self._crash_log.note)
        except OSError as error:
            log.error("the history of crashes is not kept: %s", error)


def _hours(seconds: int) -> str:
    for size, word in ((3600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {word}"
    return f"{seconds} s"
