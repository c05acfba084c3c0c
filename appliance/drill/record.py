# SPDX-License-Identifier: GPL-2.0-only
"""The results of drills, and a drill that outlives a reset, in one file on the data partition.

Pure but for `Record`, which owns the file; its methods block and are called from threads, one at a time. A damaged file
counts as no drills: what is unknown is not proven.
"""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from appliance.system import files

log = logging.getLogger(__name__)

KINDS: Final = ("relay", "watchdog", "power")
KEPT: Final = 64  # of the newest results; and always the newest of each kind and segment


@dataclass(frozen=True)
class Result:
    """One drill. `at`: seconds since 1970; `segment` is empty for a drill of the whole machine; times in ms."""

    kind: str
    segment: str
    at: float
    by: str
    passed: bool
    said: str
    to_bypass_ms: float | None = None
    to_inline_ms: float | None = None
    first_frame_ms: float | None = None
    reset_ms: float | None = None  # from the last feed of the watchdog to the panic


@dataclass(frozen=True)
class Pending:
    """A drill that ends with a reset. `boot`: the kernel's id of the boot that ordered it; `until`: CLOCK_BOOTTIME."""

    kind: str
    boot: str
    by: str
    at: float
    state: str = "ordered"  # or "answer": the reset came, and a person says what the link did


class Record:
    """The file; see the module."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.results: tuple[Result, ...] = ()  # oldest first
        self.pending: Pending | None = None

    def read(self) -> None:
        """Read the file. OSError if it is there and cannot be read."""
        try:
            data = json.loads(self._path.read_text(encoding="utf-8"))
            self.results = tuple(Result(**row) for row in data["results"])
            self.pending = Pending(**data["pending"]) if data["pending"] else None
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError) as error:
            log.error("%s is damaged, and counts as no drills: %s", self._path, error)

    def add(self, result: Result) -> None:
        """Keep one more result; a drill that waited for it is over. OSError: it is not on the disk."""
        if self.pending is not None and self.pending.kind == result.kind:
            self.pending = None
        newest = {(each.kind, each.segment): each for each in (*self.results, result)}
        recent = (*self.results, result)[-KEPT:]
        old = [each for each in self.results if newest[each.kind, each.segment] is each and each not in recent]
        self.results = (*old[-KEPT:], *recent)
        self._write()

    def wait_for(self, pending: Pending | None) -> None:
        """Set or end the drill that outlives a reset. OSError: that is not on the disk."""
        self.pending = pending
        self._write()

    def ask_person(self) -> None:
        """The power was cut: a person is to say what the link did. OSError as above."""
        if self.pending is not None:
            self.wait_for(replace(self.pending, state="answer"))

    def each(self) -> list[Result]:
        """The newest result of each kind and segment."""
        return list({(each.kind, each.segment): each for each in self.results}.values())

    def newest(self, kind: str, segment: str) -> Result | None:
        """The newest result of a drill."""
        found = [each for each in self.results if (each.kind, each.segment) == (kind, segment)]
        return found[-1] if found else None

    def _write(self) -> None:
        with self._lock:
            data = {
                "results": [asdict(result) for result in self.results],
                "pending": asdict(self.pending) if self.pending else None,
            }
            files.replace(self._path, json.dumps(data))
