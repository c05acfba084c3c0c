# SPDX-License-Identifier: GPL-2.0-only
"""The ledger of transitions: every change of state of a segment, guest or part, with its cause and time. Append-only.

`record` never waits and never raises: it puts the entry into a ring in memory and tells the listeners. A task of the
supervisor (`run`) takes new entries to the file on the data partition in a worker thread, so that a slow or full disk
delays nothing. The file is rotated once (`.1`) when it grows over `limit` bytes; what an earlier bypassd wrote is read
back at start, so the ring lives longer than the process.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

log = logging.getLogger(__name__)

Entry = dict[str, object]
RING = 2000
LIMIT = 4 << 20


class Transitions:
    """The ledger. `path` None keeps it in memory only."""

    def __init__(self, path: Path | None = None, ring: int = RING, limit: int = LIMIT) -> None:
        self._path, self._limit = path, limit
        self._entries: deque[Entry] = deque(maxlen=ring)
        self._unwritten: deque[Entry] = deque(maxlen=ring)
        self._new = asyncio.Event()
        self._listeners: list[Callable[[Entry], None]] = []
        self._failed = ""

    def record(self, what: str, old: str, new: str, cause: str, detail: str = "") -> Entry:
        """Note that `what` ("segment main", "guest ips1") went from `old` to `new`, and why. Returns the entry."""
        entry: Entry = {
            "when": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "mono_ns": time.monotonic_ns(),
            "what": what,
            "from": str(old),
            "to": str(new),
            "cause": str(cause),
            "detail": detail,
        }
        self._entries.append(entry)
        self._unwritten.append(entry)
        self._new.set()
        log.info("%s: %s -> %s (%s)%s", what, old, new, cause, f": {detail}" if detail else "")
        for listener in self._listeners:
            listener(entry)
        return entry

    def listen(self, listener: Callable[[Entry], None]) -> None:
        """Call `listener` with every new entry; it must be quick and must not raise."""
        self._listeners.append(listener)

    def entries(self, count: int | None = None) -> list[Entry]:
        """The newest `count` entries (None: all in memory), oldest first."""
        everything = list(self._entries)
        return everything if count is None else everything[max(0, len(everything) - count) :]

    def load(self) -> None:
        """Read back what earlier runs wrote. A damaged line (power cut) is left out."""
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
        """Write new entries until cancelled; what is left is written then."""
        try:
            while True:
                await self._new.wait()
                self._new.clear()
                await asyncio.to_thread(self.flush)
        finally:
            self.flush()

    def flush(self) -> None:
        """Write what is not written yet. A disk that refuses is said once, and the ring goes on."""
        lines = []
        while self._unwritten:
            lines.append(json.dumps(self._unwritten.popleft(), separators=(",", ":")) + "\n")
        if not lines or self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._path.exists() and self._path.stat().st_size > self._limit:
                os.replace(self._path, self._path.with_name(self._path.name + ".1"))
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            self._failed = ""
        except OSError as error:
            if str(error) != self._failed:
                log.error("ledger of transitions: %s: it is kept in memory only", error)
                self._failed = str(error)


def _parse(lines: Iterable[bytes]) -> list[Entry]:
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            entries.append(entry)
    return entries
