# SPDX-License-Identifier: GPL-2.0-only
"""The ledger of transitions: every change of state of a segment, guest or part, with its cause and time. Append-only.

`record` never waits and never raises: it puts the entry into a ring in memory and tells the listeners. A task of the
supervisor (`run`) writes new entries to the file on the data partition in a worker thread, so that a slow or full disk
delays nothing. The file is rotated once (`.1`) when it grows beyond `limit` bytes; what an earlier bypassd wrote is
read back at start, so the history outlives the process.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from appliance.api.schema.state import Transition
from appliance.telemetry.subject import Change, Severity, Subject

log = logging.getLogger(__name__)

RING = 2000
LIMIT = 4 << 20


class Entry(msgspec.Struct, frozen=True):
    """One transition. `when` is UTC in ISO 8601; `mono_ns` is CLOCK_MONOTONIC of the boot that it happened in.

    `old` is empty for a change that comes from no state (a commit). `cause` is text, because a ledger may have been
    written by a version that knows other causes.
    """

    when: str
    mono_ns: int
    subject: Subject
    old: str
    new: str
    cause: str
    detail: str

    def answer(self) -> Transition:
        """The entry as clients get it."""
        return Transition(
            when=self.when,
            mono_ns=self.mono_ns,
            what=str(self.subject),
            from_=self.old,
            to=self.new,
            cause=self.cause,
            detail=self.detail,
        )


class _Line(msgspec.Struct):
    """One line of the file. Earlier versions know the subject as `what` only; it is still written for them."""

    when: str
    mono_ns: int
    what: str
    to: str
    cause: str
    detail: str = ""
    kind: str = ""
    name: str = ""
    from_: str = msgspec.field(name="from", default="")

    @classmethod
    def of(cls, entry: Entry) -> _Line:
        subject = entry.subject
        return cls(
            when=entry.when,
            mono_ns=entry.mono_ns,
            what=str(subject),
            to=entry.new,
            cause=entry.cause,
            detail=entry.detail,
            kind=subject.kind,
            name=subject.name,
            from_=entry.old,
        )

    def entry(self) -> Entry:
        kind, name = self.kind, self.name
        if not kind:
            kind, _, name = self.what.partition(" ")
        return Entry(self.when, self.mono_ns, Subject.stored(kind, name), self.from_, self.to, self.cause, self.detail)


Listener = Callable[[Entry, Severity], None]


class Transitions:
    """The ledger. With `path` None it is kept in memory only."""

    def __init__(self, path: Path | None = None, ring: int = RING, limit: int = LIMIT) -> None:
        self._path, self._limit = path, limit
        self._entries: deque[Entry] = deque(maxlen=ring)
        self._unwritten: deque[Entry] = deque(maxlen=ring)
        self._new = asyncio.Event()
        self._listeners: list[Listener] = []
        self._failed = ""

    def record(self, change: Change, name: str, old: str, new: str, cause: str, *, detail: str = "") -> None:
        """Record that the subject `name` of the change's kind went from state `old` to `new`, and why."""
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        subject = Subject(change.kind, name)
        entry = Entry(when, time.monotonic_ns(), subject, str(old), str(new), str(cause), detail)
        self._entries.append(entry)
        self._unwritten.append(entry)
        self._new.set()
        log.info("%s: %s -> %s (%s)%s", subject, old, new, cause, f": {detail}" if detail else "")
        severity = change.severity(cause)
        for listener in self._listeners:
            listener(entry, severity)

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every new entry and its severity; it must be quick and must not raise."""
        self._listeners.append(listener)

    def entries(self, count: int | None = None) -> list[Entry]:
        """The newest `count` entries (None: all in memory), oldest first."""
        everything = list(self._entries)
        return everything if count is None else everything[max(0, len(everything) - count) :]

    def load(self) -> None:
        """Read back what earlier runs wrote. A damaged line (power cut) is skipped."""
        if self._path is None:
            return
        old: list[Entry] = []
        for path in (self._path.with_name(self._path.name + ".1"), self._path):
            try:
                with path.open("rb") as file:
                    file.seek(max(0, path.stat().st_size - self._limit))
                    old += _parse(file)
            except OSError:
                continue
        self._entries = deque([*old, *self._entries], maxlen=self._entries.maxlen)

    async def run(self) -> None:
        """Write new entries until cancelled, and what is left then."""
        try:
            while True:
                await self._new.wait()
                self._new.clear()
                await asyncio.to_thread(self.flush)
        finally:
            self.flush()

    def flush(self) -> None:
        """Write the entries that are not in the file yet. A disk that refuses them is logged once."""
        lines = []
        while self._unwritten:
            lines.append(msgspec.json.encode(_Line.of(self._unwritten.popleft())) + b"\n")
        if not lines or self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and self._path.stat().st_size > self._limit:
                os.replace(self._path, self._path.with_name(self._path.name + ".1"))
            with self._path.open("ab") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            self._failed = ""
        except OSError as error:
            if str(error) != self._failed:
                log.error("ledger of transitions: %s: new entries are kept in memory only", error)
                self._failed = str(error)


def _parse(lines: Iterable[bytes]) -> list[Entry]:
    decoder = msgspec.json.Decoder(_Line)
    entries = []
    for line in lines:
        try:
            entries.append(decoder.decode(line).entry())
        except msgspec.DecodeError:  # ValidationError is one
            continue
    return entries
