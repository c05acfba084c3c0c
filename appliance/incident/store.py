# SPDX-License-Identifier: GPL-2.0-only
"""The newest incidents on the data partition, NNNNNN.json and NNNNNN.pcapng, bounded in number and bytes.

If a file cannot be written, the incident stays in memory and says so. Numbers only grow. Blocking: called from worker
threads, one at a time.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import msgspec

from appliance.causes import Cause
from appliance.incident.flows import Flow
from appliance.system import files

log = logging.getLogger(__name__)

KEPT = 64
KEPT_BYTES = 32 << 20
CONSOLE_BYTES = 16 << 10
CLEARED = "cleared"  # a file beside them


class Incident(msgspec.Struct, frozen=True):
    """One incident. `at` in seconds since 1970.

    `bypass_at_most_ms`: from when the guest was last known to work to the first frame that bypassed it; None if no
    frame did.
    """

    number: int
    at: float
    when: str
    guest: str
    kind: str  # "died" | "failed"
    cause: str
    detail: str
    frames: int
    flows: tuple[Flow, ...] = ()
    console: str = ""
    last_proof_ms: float | None = None
    bypass_at_most_ms: float | None = None
    verdict: str = ""  # the finding about flows
    quarantined: tuple[str, ...] = ()
    trouble: str = ""  # why it is not on the disk
    times: int = 1  # the guest failed alike so often, with no frames after the first time
    last: float = 0.0  # the last time, in seconds since 1970; 0: `at`

    @property
    def deadly(self) -> bool:
        """Whether the guest's process or kernel ended. A failed check may have many reasons other than a flow."""
        return self.kind == "died" or self.cause in (Cause.GUEST_PANICKED, Cause.GUEST_WATCHDOG)


class Store:
    """The folder and its incidents."""

    def __init__(self, folder: Path, kept: int = KEPT, kept_bytes: int = KEPT_BYTES) -> None:
        self._folder, self._kept, self._kept_bytes = folder, kept, kept_bytes
        self._incidents: dict[int, Incident] = {}
        self.cleared = 0  # up to this number they are left out of the list
        self._lock = threading.Lock()
        self._captures: dict[int, bytes] = {}  # of incidents that are not on the disk

    def load(self) -> None:
        """Read what earlier runs kept; damaged files are skipped."""
        try:
            self.cleared = int((self._folder / CLEARED).read_text())
        except (OSError, ValueError):
            self.cleared = 0
        for path in sorted(self._folder.glob("*.json")):
            try:
                found = msgspec.json.decode(path.read_bytes(), type=Incident)
            except (OSError, msgspec.DecodeError) as error:
                log.warning("incident %s cannot be read: %s", path.name, error)
                continue
            self._incidents[found.number] = found

    def clear(self) -> int:
        """Leave all that are there out of the list; they stay on the disk. How many. OSError: it is not kept."""
        with self._lock:
            there = len([one for one in self.all() if one.number > self.cleared])
            self.cleared = max((*self._incidents, self.cleared))
            self._folder.mkdir(parents=True, exist_ok=True)
            files.replace(self._folder / CLEARED, str(self.cleared))
            return there

    def all(self) -> list[Incident]:
        """Oldest first."""
        return [self._incidents[number] for number in sorted(self._incidents)]

    def get(self, number: int) -> Incident | None:
        """The incident of that number."""
        return self._incidents.get(number)

    @property
    def next_number(self) -> int:
        """The number of the next incident, also above those of unreadable files."""
        used = [int(path.stem) for path in self._folder.glob("*.*") if path.stem.isdigit()]
        return max((*self._incidents, *used), default=0) + 1

    def save(self, incident: Incident, capture: bytes | None = None) -> Incident:
        """Keep an incident; called again without `capture` once more is known. Returns what was kept."""
        with self._lock:
            return self._save(incident, capture)

    def amend(self, number: int, **more: object) -> None:
        """Add later findings to an incident; does nothing if it has been removed."""
        with self._lock:
            if number in self._incidents:
                self._save(msgspec.structs.replace(self._incidents[number], **more), None)

    def _save(self, incident: Incident, capture: bytes | None) -> Incident:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if capture is not None:
                files.replace(self._path(incident.number, "pcapng"), capture)
            kept = msgspec.structs.replace(incident, trouble="")
            files.replace(self._path(incident.number, "json"), msgspec.json.format(msgspec.json.encode(kept)))
            self._captures.pop(incident.number, None)
        except OSError as error:
            kept = msgspec.structs.replace(incident, trouble=f"kept in memory only: {error.strerror}")
            log.error("incident %d: %s", incident.number, kept.trouble)
            if capture is not None:
                self._captures[incident.number] = capture
        self._incidents[kept.number] = kept
        self._tidy()
        return kept

    def capture(self, number: int) -> bytes:
        """The frames of an incident as pcapng. OSError when they cannot be read."""
        return self._captures[number] if number in self._captures else self._path(number, "pcapng").read_bytes()

    def _path(self, number: int, kind: str) -> Path:
        return self._folder / f"{number:06d}.{kind}"

    def _tidy(self) -> None:
        """Remove the oldest incidents, and files that cannot be read."""
        total = 0
        newest = sorted({*self._incidents, *self._captures}, reverse=True)
        for index, number in enumerate(newest):
            for kind in ("json", "pcapng"):
                try:
                    total += self._path(number, kind).stat().st_size
                except OSError:
                    continue
            total += len(self._captures.get(number, b""))
            if index and (index >= self._kept or total > self._kept_bytes):
                self._incidents.pop(number, None)
                self._captures.pop(number, None)
        for path in self._folder.glob("*.*"):
            if path.stem.isdigit() and int(path.stem) not in self._incidents:
                path.unlink(missing_ok=True)
