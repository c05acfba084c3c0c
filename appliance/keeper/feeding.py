# SPDX-License-Identifier: GPL-2.0-only
"""When the keeper feeds the watchdog. Pure.

It is fed only from a step that ran on time, and keeps counting after an orderly stop. A missing watchdog is logged once
with its cause, and retried. For a drill it is not fed although all is well, until it resets the machine, the drill is
called off, or the watchdog has proven to be none.
"""

from __future__ import annotations

from appliance.hardware.watchdog import WatchdogDevice
from appliance.keeper.agenda import Agenda
from appliance.keeper.limits import MS, Limits
from appliance.keeper.messages import CloseWatchdog, Feed, Log, OpenWatchdog, Send, SetWatchdog, WatchdogReport

UNFED = "drill: the watchdog is not fed from now on"
"""The keeper's line in the kernel log at the last feed of a drill: the crash record has it (drill/evidence.py)."""

_DEAD = 4  # timeouts after which a watchdog that has not reset the machine will not do so


class Feeding:
    """The watchdog as last reported, and the timeout that it should have."""

    def __init__(self, limits: Limits) -> None:
        self.present = False  # the board has one
        self.timeout_ms = 0  # as the device reports it; 0 = not open
        self.error = ""
        self.devices: tuple[WatchdogDevice, ...] = ()  # each of them, as it is
        self._limits = limits
        self._wanted_ms = limits.watchdog_start_ms
        self._was_late = False
        self._unfed_since: int | None = None
        self._called_off = False  # it did not reset the machine; until the order ends

    @property
    def unfed(self) -> bool:
        """Whether a drill keeps it from being fed."""
        return self._unfed_since is not None

    def starve(self, agenda: Agenda, wanted: bool) -> None:
        """Begin a drill with a last feed, or end it with the next one. Without an armed watchdog nothing begins."""
        if not wanted:
            self._called_off = False
        if wanted and not self.unfed and self.timeout_ms and not self._called_off:
            self._unfed_since = agenda.now
            agenda.do(Feed())
            agenda.do(Log(UNFED))
            agenda.do(Send())
        elif not wanted and self.unfed:
            self._resume(agenda, "drill: the watchdog is fed again")

    def _resume(self, agenda: Agenda, why: str) -> None:
        self._unfed_since = None
        agenda.do(Feed())
        agenda.do(Log(why))
        agenda.do(Send())

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
        if self._unfed_since is not None and now - self._unfed_since >= _DEAD * self.timeout_ms * MS:
            self._called_off = True
            self._resume(agenda, "drill: the watchdog did not reset the machine: it is fed again")
        if self._unfed_since is not None:
            agenda.due["feed"] = now + interval
        elif late:
            agenda.due["feed"] = now + 20 * MS
        else:
            agenda.do(Feed())
            agenda.due["feed"] = now + interval

    def report(self, agenda: Agenda, event: WatchdogReport) -> None:
        """The result of opening, setting or feeding it."""
        if event.error:
            # if it was open it still counts: the first attempt comes when a feed would
            wait = self.timeout_ms * MS // 8 or self._limits.retry
            self.timeout_ms, self.devices = 0, ()
            self._unfed_since = None
            agenda.due.pop("feed", None)
            if not agenda.stopping:
                agenda.due["watchdog"] = agenda.now + wait
            if event.error != self.error:
                agenda.do(Log(event.error))
        else:
            self._tell(agenda, event)
            self.devices = event.devices
            self.timeout_ms = event.timeout_ms
            if self._unfed_since is None:
                agenda.do(Feed())
            agenda.due["feed"] = agenda.now + event.timeout_ms * MS // 8
        self.error = event.error
        agenda.do(Send())

    def _tell(self, agenda: Agenda, event: WatchdogReport) -> None:
        if event.timeout_ms != self.timeout_ms:
            agenda.do(Log(f"watchdog armed, {event.timeout_ms} ms", severe=False))
        for device in event.devices:
            if device.note and device not in self.devices:
                agenda.do(Log(f"{device.name} ({device.identity}): {device.note}", severe=False))

    def close(self, agenda: Agenda) -> None:
        """Close it for good; it keeps counting."""
        agenda.do(CloseWatchdog(self._limits.watchdog_stop_ms))
