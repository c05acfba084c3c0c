# SPDX-License-Identifier: GPL-2.0-only
"""When the keeper feeds the watchdog. Pure.

It is fed only from a step that ran on time, and goes on counting after an orderly stop. One that is missing is logged
once with its cause and tried again.
"""

from __future__ import annotations

from appliance.keeper.agenda import Agenda
from appliance.keeper.limits import MS, Limits
from appliance.keeper.messages import CloseWatchdog, Feed, Log, OpenWatchdog, Send, SetWatchdog, WatchdogReport


class Feeding:
    """The watchdog as it was last reported, and the timeout that it is to have."""

    def __init__(self, limits: Limits) -> None:
        self.present = False  # the board has one
        self.timeout_ms = 0  # as the device has it; 0 = not open
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
        """The timeout that the configuration has."""
        if timeout_ms != self._wanted_ms:
            self._wanted_ms = timeout_ms
            if self.timeout_ms:
                agenda.do(SetWatchdog(timeout_ms))

    def feed(self, agenda: Agenda, when: int) -> None:
        """Only a step that runs on time feeds: one that is half a timeout late does not, and the next is soon.

        Eight times in a timeout, so that a keeper that dies leaves most of it to its successor. `when`: the time at
        which it was due.
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
        """What came of opening, setting or feeding it."""
        if event.error:
            # one that was open still counts: the first try comes when a feed would
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
        """Close it for good; it goes on counting."""
        agenda.do(CloseWatchdog(self._limits.watchdog_stop_ms))
