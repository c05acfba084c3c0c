# SPDX-License-Identifier: GPL-2.0-only
"""Events: whatever a person or a log server may want to be told, with source, cause and severity.

Every transition of the ledger is an event; logins and the like are events only, so that nobody who knocks at the door
can push transitions out of the ledger. Kept in a ring in memory for the life of bypassd; the log file has them too.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import IntEnum
from typing import NamedTuple

from appliance.causes import Cause

log = logging.getLogger(__name__)

RING = 1000


class Severity(IntEnum):
    """As RFC 5424 numbers them; what an appliance has no use for is left out."""

    CRITICAL = 2
    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6

    @property
    def word(self) -> str:
        """As the console and the configuration say it."""
        return self.name.lower()


class Event(NamedTuple):
    """One event. `when` is UTC; `source` what it is about ("segment main", "user admin"), `text` one line."""

    when: datetime
    severity: Severity
    source: str
    text: str
    cause: str

    def to_json(self) -> dict[str, object]:
        """For the console and subscribers."""
        when = self.when.isoformat(timespec="milliseconds")
        severity, source, text, cause = self.severity.word, self.source, self.text, self.cause
        return {"when": when, "severity": severity, "source": source, "cause": cause, "text": text}


_WANTED = frozenset({Cause.OPERATOR, Cause.CONFIGURED, Cause.STARTING, Cause.STOPPING, Cause.REARMING, Cause.NONE})
_BROKEN = frozenset(
    {Cause.RELAY_FAULT, Cause.RELAY_UNSUPPORTED, Cause.SUPERVISOR_LOST, Cause.CONFIG_INVALID, Cause.DATAPATH_FAULT}
)
_RESETS = {"panic": Severity.CRITICAL, "watchdog": Severity.CRITICAL, "power": Severity.ERROR}


def severity_of(what: str, to: str, cause: str) -> Severity:
    """How bad a transition is. Pure: a link that is not inspected though it should be is what this product is about."""
    kind = what.partition(" ")[0]
    if kind == "segment":
        if to == "inline":
            return Severity.NOTICE
        if to in ("bypass", "disconnect"):
            if cause in _BROKEN:
                return Severity.CRITICAL
            return Severity.WARNING if cause in _WANTED else Severity.ERROR
        return Severity.INFO
    if kind == "guest":
        if to == "failed":
            return Severity.ERROR
        if to == "available":
            return Severity.NOTICE
        return Severity.WARNING if to == "suspect" else Severity.INFO
    if kind == "flow":
        return Severity.WARNING if to == "quarantined" else Severity.NOTICE
    if kind == "supervisor":
        return Severity.ERROR
    if kind == "system":
        return _RESETS.get(cause, Severity.NOTICE)
    return Severity.WARNING if to in ("down", "failed", "missing") else Severity.NOTICE


class Events:
    """The events of this bypassd."""

    def __init__(self, ring: int = RING) -> None:
        self._ring: deque[Event] = deque(maxlen=ring)
        self._listeners: list[Callable[[Event], None]] = []
        self.counts: Counter[Severity] = Counter()
        self.moves: Counter[tuple[str, str, str]] = Counter()  # transitions: kind, name, where to

    def record(self, severity: Severity, source: str, text: str, cause: str = "") -> Event:
        """Note something that is no transition, and log it. Never raises, never waits."""
        log.log(max(70 - 10 * severity, logging.INFO), "%s: %s%s", source, text, f" ({cause})" if cause else "")
        return self._add(severity, source, text, cause)

    def transition(self, entry: Mapping[str, object]) -> None:
        """Take over an entry of the ledger; the ledger has logged it."""
        what, to, cause = str(entry["what"]), str(entry["to"]), str(entry["cause"])
        kind, _, name = what.partition(" ")
        self.moves[kind, name, to] += 1
        detail = f": {entry['detail']}" if entry.get("detail") else ""
        move = f"{entry['from']} -> {to}" if entry["from"] else to  # a commit comes from nowhere
        self._add(severity_of(what, to, cause), what, f"{move}{detail}", cause)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` with every new event; it must be quick and must not raise."""
        self._listeners.append(listener)

    def newest(self, count: int | None = None, severity: Severity = Severity.INFO) -> list[Event]:
        """The newest `count` events (None: all in memory) of this severity and worse, oldest first."""
        found = [event for event in self._ring if event.severity <= severity]
        return found if count is None else found[max(0, len(found) - count) :]

    def _add(self, severity: Severity, source: str, text: str, cause: str) -> Event:
        event = Event(datetime.now(UTC), severity, source, text, cause)
        self._ring.append(event)
        self.counts[severity] += 1
        for listener in self._listeners:
            listener(event)
        return event
