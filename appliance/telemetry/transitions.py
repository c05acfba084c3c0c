# SPDX-License-Identifier: GPL-2.0-only
"""The ledger of transitions: every change of state of a segment, guest or part, with its cause and time. Append-only.

`record` never waits and never raises: it puts the entry into a ring in memory and calls the listeners. A task of the
supervisor (`run`) writes new entries to the file on the data partition in a worker thread, so that a slow or full disk
delays nothing; entries that cannot be written wait in memory until there is room. Entries of an earlier bypassd are
read back at start, so the history outlives the process.

The source of entries may be hostile (a guest that drains and resumes itself in a loop), so memory, file and rate are
bounded by subject. If a subject changes more often than RATE, only the newest entry of each interval is recorded, with
the number of entries left out; if there is no room, the subject with the most entries loses its oldest. The file is
halved the same way (into `.1`) when it grows beyond `limit` bytes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from appliance.api.schema.state import Transition
from appliance.counted import counted
from appliance.quota import Quota
from appliance.system import files
from appliance.system.threads import to_the_end
from appliance.telemetry.fair_ring import FairRing, fair
from appliance.telemetry.subject import Change, Severity, Subject

log = logging.getLogger(__name__)

RING = 2000  # entries in memory, and as many waiting for the disk
LIMIT = 4 << 20  # bytes; limit of the ledger and of its `.1` each
RATE, BURST = 1.0, 30  # entries of one subject: per second on average, and at once
HELD_S = 1.0  # how often to check whether a subject may have another entry
RETRY_S = 10.0  # how often to retry a disk that refused a write


class Entry(msgspec.Struct, frozen=True):
    """One transition. `when` is UTC in ISO 8601; `mono_ns` is CLOCK_MONOTONIC of the boot in which it happened.

    `old` is empty for a change without an old state (a commit). `cause` is text, because the ledger may have been
    written by a version with other causes.
    """

    when: str
    mono_ns: int
    subject: Subject
    old: str
    new: str
    cause: str
    detail: str

    def answer(self) -> Transition:
        """The entry as sent to clients."""
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
    """One line of the file. Earlier versions know only `what` as the subject; it is still written for them."""

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


def _source(entry: Entry) -> Hashable:
    return entry.subject.source


class Transitions:
    """The ledger. With `path` None it is kept in memory only."""

    def __init__(
        self,
        path: Path | None = None,
        ring: int = RING,
        limit: int = LIMIT,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._path, self._limit, self._ring, self._clock = path, limit, ring, clock
        self._entries = FairRing(ring, _source)
        self._unwritten = FairRing(ring, _source)
        self._lock = threading.Lock()  # for `_unwritten`, which the worker thread takes
        self._quota = Quota(RATE, BURST)
        self._held: dict[Hashable, tuple[Entry, Severity, int]] = {}  # the newest of those that exceed RATE
        self._new = asyncio.Event()
        self._listeners: list[Listener] = []
        self.left_out = 0
        """Number of entries left out because of RATE."""
        self.trouble = ""
        """Why new entries are in memory only; "" = they are in the file."""

    def record(self, change: Change, name: str, old: str, new: str, cause: str, *, detail: str = "") -> None:
        """Record that the subject `name` of the change's kind went from state `old` to `new`, and why."""
        when = datetime.now(UTC).isoformat(timespec="milliseconds")
        subject, now = Subject(change.kind, name), self._clock()
        entry = Entry(when, now, subject, str(old), str(new), str(cause), detail)
        source, severity = _source(entry), change.severity(cause)
        held = self._held.pop(source, None)
        left_out = held[2] + 1 if held else 0
        self.left_out += bool(held)
        if self._quota.allow(now, source):
            self._add(entry, severity, left_out)
            return
        self._held[source] = (entry, severity, left_out)
        if not held:
            self._new.set()

    def _add(self, entry: Entry, severity: Severity, left_out: int) -> None:
        """`left_out`: how many entries of the subject before this one were left out."""
        if left_out:
            more = f"{counted(left_out, 'earlier change')} left out (too frequent)"
            entry = msgspec.structs.replace(entry, detail=f"{entry.detail}; {more}" if entry.detail else more)
        self._entries.append(entry)
        with self._lock:
            self._unwritten.append(entry)
        self._new.set()
        detail = f": {entry.detail}" if entry.detail else ""
        log.info("%s: %s -> %s (%s)%s", entry.subject, entry.old, entry.new, entry.cause, detail)
        for listener in self._listeners:
            listener(entry, severity)

    def settle(self, everything: bool = False) -> None:
        """Record held entries of those subjects that may have an entry again, or of all."""
        now = self._clock()
        for source, (entry, severity, left_out) in list(self._held.items()):
            if self._quota.allow(now, source) or everything:
                del self._held[source]
                self._add(entry, severity, left_out)

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every new entry and its severity; it must be quick and must not raise."""
        self._listeners.append(listener)

    def entries(self, count: int | None = None) -> list[Entry]:
        """The newest `count` entries (None: all in memory), oldest first."""
        everything = self._entries.items()
        return everything if count is None else everything[max(0, len(everything) - count) :]

    @property
    def unwritten(self) -> int:
        """The number of entries not in the file yet."""
        return len(self._unwritten)

    @property
    def alarm(self) -> str:
        """The warning for the operator; "" if all is well."""
        if not self.trouble:
            return ""
        waiting = counted(self.unwritten, "entry waits", "entries wait")
        return f"the ledger of transitions cannot be written ({self.trouble}): {waiting} in memory"

    def load(self) -> None:
        """Read back the entries of earlier runs. A damaged line (power cut) is skipped."""
        self.take_over(self.read_back())

    def read_back(self) -> list[Entry]:
        """The entries in the files, as many as memory may hold. Call it in a thread: the files may be long."""
        return fair(_parse(self._lines()), self._ring, _source, lambda _: 1) if self._path is not None else []

    def take_over(self, old: Iterable[Entry]) -> None:
        """Put entries that were read back before those recorded since, without duplicates."""
        self._entries = FairRing(self._ring, _source, items=dict.fromkeys((*old, *self._entries.items())))

    async def run(self) -> None:
        """Write new entries until cancelled, then the rest."""
        try:
            while True:
                wait = HELD_S if self._held else RETRY_S if self.trouble else None
                try:
                    async with asyncio.timeout(wait):
                        await self._new.wait()
                except TimeoutError:
                    pass  # held subjects may have an entry again, or the disk is due for a retry
                self._new.clear()
                self.settle()
                await to_the_end(self.flush)
                if self.trouble:  # otherwise each new entry would retry the disk
                    await asyncio.sleep(HELD_S)
        finally:
            self.settle(everything=True)
            await to_the_end(self.flush)

    # The file. Called in a worker thread, one call at a time.

    @property
    def _older(self) -> Path:
        assert self._path is not None
        return self._path.with_name(self._path.name + ".1")

    def flush(self) -> None:
        """Write the entries that are not in the file yet. Those that cannot be written stay for the next call."""
        with self._lock:
            entries = self._unwritten.take()
        if not entries or self._path is None:
            return
        try:
            self._write(b"".join(map(_line, entries)))
            if self.trouble:
                log.warning("ledger of transitions: can be written again")
            self.trouble = ""
        except OSError as error:
            with self._lock:
                self._unwritten = FairRing(self._ring, _source, items=[*entries, *self._unwritten.take()])
            if error.strerror != self.trouble:
                log.error("ledger of transitions: %s: new entries wait in memory", error)
            self.trouble = error.strerror or str(error)

    def _write(self, data: bytes) -> None:
        """Append whole lines, or nothing. OSError: nothing was appended."""
        assert self._path is not None
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.exists() and self._path.stat().st_size + len(data) > self._limit:
            self._halve()
        with self._path.open("a+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":  # a power cut tore the last line: it must not damage the next one too
                    data = b"\n" + data
            try:
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
            except OSError:
                os.truncate(file.fileno(), size)
                raise

    def _lines(self) -> Iterable[bytes]:
        """The lines of both files, without duplicates, which a power cut during halving can cause."""
        assert self._path is not None
        lines: dict[bytes, None] = {}
        for path in (self._older, self._path):
            try:
                with path.open("rb") as file:
                    lines.update(dict.fromkeys(file))
            except OSError:
                continue
        return lines

    def _halve(self) -> None:
        """Move the ledger into `.1`, with each subject's share of both."""
        assert self._path is not None
        kept = fair(_parse(self._lines()), self._limit, _source, lambda entry: len(_line(entry)))
        try:
            files.replace(self._older, b"".join(map(_line, kept)))
            self._path.unlink()
        except OSError:
            os.replace(self._path, self._older)  # needs no room


def _line(entry: Entry) -> bytes:
    return msgspec.json.encode(_Line.of(entry)) + b"\n"


def _parse(lines: Iterable[bytes]) -> list[Entry]:
    decoder = msgspec.json.Decoder(_Line)
    entries = []
    for line in lines:
        try:
            entries.append(decoder.decode(line).entry())
        except msgspec.DecodeError:  # ValidationError is one
            continue
    return entries
