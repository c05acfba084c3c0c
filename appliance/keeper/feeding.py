# SPDX-License-Identifier: GPL-2.0-only
"""When the keeper feeds the watchdog. Pure.

It is fed only from a step that ran on time, and keeps counting after an orderly stop. A missing watchdog is logged once
with its cause, and retried.
"""

from __future__ import annotations

from appliance.keeper.agenda import Agenda
from appliance.keeper.limits import MS, Limits
from appliance.keeper.messages import CloseWatchdog, Feed, Log, OpenWatchdog, Send, SetWatchdog, WatchdogReport


class Feeding:
    """The watchdog as last reported, and the timeout that it should have."""

    def __init__(self, limits: Limits) -> None:
        self.present = False  # the board has one
        self.timeout_ms = 0  # as the device reports it; 0 = not open
        self.error = ""
        self._limits = limits
        self._wanted_ms = limits.watchdog_start_ms
        self._was_late = False

    def begin(self, agenda: Agenda, present: bool) -> None:
        """Open it in this step, if the board has one."""
        self.present = present
        if present:
            agenda.due["watchdog"] = agenda.now

    def open(self, agenda: Agenda) -> None:
        """Open it now."""
        agenda.do(OpenWatchdog(self._wanted_ms))

    def want(self, agenda: Agenda, timeout_ms: int) -> None:
        """Set the configured timeout."""
        if timeout_ms != self._wanted_ms:
            self._wanted_ms = timeout_ms
            if self.timeout_ms:
                agenda.do(SetWatchdog(timeout_ms))

    def feed(self, agenda: Agenda, when: int) -> None:
        """Feed it if this step runs on time. If it is half a timeout late it does not, and the next one comes soon.

        Eight times per timeout, so that a keeper that dies leaves most of it to its successor. `when`: the time at
        which this feed was due.
        """
        now = agenda.now
        interval = self.timeout_ms * MS // 8
        late = now - when > 4 * interval
        if late and not self._was_late:
            agenda.do(Log(f"the keeper's loop is {(now - when) // MS} ms late: skipping this feed of the watchdog"))
        self._was_late = late
        if late:
            agenda.due["feed"] = now + 20 * MS
        else:
            agenda.do(Feed())
            agenda.due["feed"] = now + interval

    def report(self, agenda: Agenda, event: WatchdogReport) -> None:
        """The result of opening, setting or feeding it."""
        if event.error:
            # if it was open it still counts: the first attempt comes when a feed would
            wait = self.timeout_ms * MS // 8 or self._limits.retry
            self.timeout_ms = 0
            agenda.due.pop("feed", None)
            if not agenda.stopping:
                agenda.due["watchdog"] = agenda.now + wait
            if event.error != self.error:
                agenda.do(Log(event.error))
        else:
            if event.timeout_ms != self.timeout_ms:
                agenda.do(Log(f"watchdog armed, {event.timeout_ms} ms", severe=False))
            self.timeout_ms = event.timeout_ms
            agenda.do(Feed())
            agenda.due["feed"] = agenda.now + event.timeout_ms * MS // 8
        self.error = event.error
        agenda.do(Send())

    def close(self, agenda: Agenda) -> None:
        """Close it for good; it keeps counting."""
        agenda.do(CloseWatchdog(self._limits.watchdog_stop_ms))
