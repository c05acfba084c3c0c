# SPDX-License-Identifier: GPL-2.0-only
"""The board's event log: every transition with its time, as JSON lines in a file and as a list that tests wait for.

An event is a flat object: `n` (counts from 0), `mono_ns` (CLOCK_MONOTONIC, when the transition was complete), `wall`
(UTC), `event` (relay, led, watchdog, reset, panic, power, link, fault, note) and that event's own fields. Owned by the
Board, and lives as long; any thread may write, read and wait.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Event = dict[str, Any]
Predicate = Callable[[Event], bool]


class BoardPanic(AssertionError):
    """The board's kernel panicked outside `panic_ordered`."""


class EmulatorFailed(AssertionError):
    """QEMU ended by a signal or with an error: that says nothing about the appliance, so the test is retried once."""


class WaitTimeout(AssertionError):
    """An expected event did not occur in time; the text lists the events that did."""


def matches(event: Event, predicate: Predicate | None, fields: dict[str, Any]) -> bool:
    if any(event.get(key) != value for key, value in fields.items()):
        return False
    return predicate is None or predicate(event)


class EventLog:
    def __init__(self, path: Path | None = None) -> None:
        self._changed = threading.Condition()
        self._events: list[Event] = []
        self._file = path.open("w", buffering=1, encoding="utf-8") if path else None
        self._panics_ordered = 0
        self._unordered: Event | None = None
        self._emulator: Event | None = None
        self.listeners: list[Callable[[Event], None]] = []
        self.stretch: Callable[[float], float] = float  # seconds on the reference machine -> seconds here

    def close(self) -> None:
        with self._changed:
            if self._file:
                self._file.close()
                self._file = None
            self._changed.notify_all()

    def add(self, event: str, *, mono_ns: int | None = None, **fields: Any) -> Event:
        """Log an event; `mono_ns` defaults to now, for callers that did not read the clock closer to the event."""
        with self._changed:
            stamp = time.monotonic_ns() if mono_ns is None else mono_ns
            entry: Event = {
                "n": len(self._events),
                "mono_ns": stamp,
                "wall": datetime.now(UTC).isoformat(timespec="microseconds"),
                "event": event,
                **fields,
            }
            self._events.append(entry)
            if self._file:
                self._file.write(json.dumps(entry) + "\n")
            if event == "panic" and not self._panics_ordered:
                self._unordered = entry
            if event == "emulator failed":
                self._emulator = entry
            self._changed.notify_all()
        for listener in list(self.listeners):
            listener(entry)
        return entry

    def mark(self) -> int:
        """The number of the next event. Get it before the action to be observed."""
        with self._changed:
            return len(self._events)

    def since(self, mark: int = 0, predicate: Predicate | None = None, **fields: Any) -> list[Event]:
        with self._changed:
            return [entry for entry in self._events[mark:] if matches(entry, predicate, fields)]

    def last(self, predicate: Predicate | None = None, **fields: Any) -> Event | None:
        found = self.since(0, predicate, **fields)
        return found[-1] if found else None

    def wait(
        self, predicate: Predicate | None = None, *, since: int = 0, timeout: float = 60.0, **fields: Any
    ) -> Event:
        """The first matching event from `since` on; blocks until it occurs, at most `timeout` seconds (see `stretch`).

        Raises WaitTimeout, BoardPanic as soon as an unexpected panic is logged, EmulatorFailed as soon as QEMU has
        failed.
        """
        timeout = self.stretch(timeout)
        deadline = time.monotonic() + timeout
        with self._changed:
            place = since
            while True:
                for entry in self._events[place:]:
                    if matches(entry, predicate, fields):
                        return entry
                place = len(self._events)
                self._check()
                left = deadline - time.monotonic()
                if left <= 0:
                    seen = "\n".join(json.dumps(entry) for entry in self._events[since:][-20:])
                    wanted = str(fields) if fields else str(getattr(predicate, "__name__", "as asked"))
                    raise WaitTimeout(
                        f"no event {wanted} within {timeout:g} s; seen since then:\n{seen or '(nothing)'}"
                    )
                self._changed.wait(left)

    @contextmanager
    def panic_ordered(self) -> Iterator[None]:
        """Panics in this block are expected."""
        with self._changed:
            self._panics_ordered += 1
        try:
            yield
        finally:
            with self._changed:
                self._panics_ordered -= 1

    def check(self) -> None:
        """Raise BoardPanic on an unexpected panic, EmulatorFailed on a failure of QEMU, since the last power-on."""
        with self._changed:
            self._check()

    def forgive(self) -> None:
        """Clear an unexpected panic and a failure of QEMU, because the board was powered on again."""
        with self._changed:
            self._unordered = self._emulator = None

    def _check(self) -> None:
        if self._emulator is not None:
            raise EmulatorFailed(f"QEMU failed: {json.dumps(self._emulator)}")
        if self._unordered is not None:
            raise BoardPanic(f"the board's kernel panicked: {json.dumps(self._unordered)}")
