# SPDX-License-Identifier: GPL-2.0-only
"""Events: everything worth reporting to an operator or a log server, with subject, cause and severity.

Every transition of the ledger is also an event. Logins and the like are only events, so that failed logins from outside
cannot displace transitions in the ledger. Events are logged, and kept in memory for the life of bypassd, where no
source can displace those of others.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec import Struct

from appliance.api.schema import state
from appliance.telemetry.fair_ring import FairRing
from appliance.telemetry.subject import Kind, Notice, Severity, Subject
from appliance.telemetry.transitions import Entry

log = logging.getLogger(__name__)

RING = 1000


class Event(Struct, frozen=True):
    """One event: its subject, and one line of text. `cause` is empty if there is none."""

    when: datetime
    severity: Severity
    subject: Subject
    text: str
    cause: str

    def answer(self) -> state.Event:
        """The event as sent to clients."""
        when = self.when.isoformat(timespec="milliseconds")
        return state.Event(when, self.severity.word, str(self.subject), self.cause, self.text)


class Events:
    """The events of this bypassd."""

    def __init__(self, ring: int = RING) -> None:
        self._ring: FairRing[Event] = FairRing(ring, lambda event: event.subject.source)
        self._listeners: list[Callable[[Event], None]] = []
        self.counts: Counter[Severity] = Counter()
        self.moves: Counter[tuple[Kind, str, str]] = Counter()  # transitions by kind, name and new state

    def record(self, notice: Notice, subject: Subject, text: str) -> None:
        """Record and log something that is not a transition. Never raises, never waits."""
        severity, cause = notice.severity, str(notice.cause or "")
        log.log(max(70 - 10 * severity, logging.INFO), "%s: %s%s", subject, text, f" ({cause})" if cause else "")
        self._add(Event(datetime.now(UTC), severity, subject, text, cause))

    def transition(self, entry: Entry, severity: Severity) -> None:
        """Record an entry of the ledger as an event; the ledger has logged it already."""
        self.moves[entry.subject.kind, entry.subject.name, entry.new] += 1
        move = f"{entry.old} -> {entry.new}" if entry.old else entry.new
        text = f"{move}: {entry.detail}" if entry.detail else move
        self._add(Event(datetime.now(UTC), severity, entry.subject, text, entry.cause))

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every new event; it must be quick and must not raise."""
        self._listeners.append(listener)

    def newest(self, count: int | None = None, severity: Severity = Severity.INFO) -> list[Event]:
        """The newest `count` events (None: all in memory) of this severity and worse, oldest first."""
        found = [event for event in self._ring.items() if event.severity <= severity]
        return found if count is None else found[max(0, len(found) - count) :]

    def _add(self, event: Event) -> None:
        self._ring.append(event)
        self.counts[event.severity] += 1
        for listener in self._listeners:
            listener(event)
