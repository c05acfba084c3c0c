# SPDX-License-Identifier: GPL-2.0-only
"""Crash records: what the kernel left in pstore is moved to the data partition, and the last reset gets its cause.

The kernel writes its last messages to persistent memory. That store is small, so records are moved away (read,
written, synced, then unlinked) as soon as bypassd starts; the newest KEPT of them stay. A watchdog that expires raises
an NMI that no driver claims, which the panic text shows; `bootstatus` of most watchdogs does not survive the reset.
Without a record, a mark that an orderly stop leaves on the data partition distinguishes a reboot from a power cut.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from appliance.system import files

_PANIC = re.compile(r"Kernel panic - not syncing: ([^\n]*)")
_HEAD = re.compile(r"(\w+#\d+) Part(\d+)\n")
_MARK = "last-run.json"
KEPT = 32  # records
KEPT_BYTES = 8 << 20  # of all of them together; the newest stays however long it is


@dataclass(frozen=True)
class Reset:
    """Why the machine started: kind is first | none (only bypassd restarted) | orderly | panic | watchdog | power."""

    kind: str
    text: str


@dataclass(frozen=True)
class Record:
    """One crash record on the data partition."""

    name: str
    when: str
    kind: str
    text: str


def judge(text: str) -> Reset | None:
    """What a record's text says about the reset. Pure. None: it contains no panic."""
    found = _PANIC.search(text)
    if not found:
        return None
    reason = found[1].strip().rstrip("]").strip()
    if "NMI: Not continuing" in reason or ("NMI" in reason and "unknown reason" in text):
        return Reset("watchdog", f"hardware watchdog: the keeper or the kernel hung ({reason})")
    return Reset("panic", f"kernel panic: {reason}")


def decide(same_boot: bool, mark: bool, orderly: bool, records: list[str]) -> Reset:
    """Cause of the last reset, from: is this the boot of the mark, is there a mark, did it end orderly, the records."""
    if same_boot:
        return Reset("none", "bypassd was restarted, the machine was not")
    for text in records:
        found = judge(text)
        if found:
            return found
    if not mark:
        return Reset("first", "first start of this data partition")
    if orderly:
        return Reset("orderly", "orderly stop or reboot")
    return Reset("power", "power was cut, or the board was reset from outside: there is no crash record")


class CrashLog:
    """The records of this machine; owns the folder on the data partition."""

    def __init__(self, pstore: Path | None, folder: Path, state: Path, boot_id: str) -> None:
        self._pstore, self._folder, self._mark, self._boot = pstore, folder, state / _MARK, boot_id
        self.reset = Reset("none", "not looked yet")

    def collect(self) -> Reset:
        """Move new records here and judge the last reset. OSError when the data partition cannot be written."""
        texts = []
        self._prune()  # also before: a partition that is full because of old records must take the new one
        for name, parts in self._groups().items():
            text = "".join(text for _, text, _ in parts)
            self._keep(name, text)
            for _, _, path in parts:
                path.unlink()
            texts.append(text)
        self._prune()
        mark = self._read_mark()
        self.reset = decide(mark.get("boot") == self._boot, bool(mark), mark.get("orderly") is True, texts)
        self._write_mark(orderly=False)
        return self.reset

    def mark_orderly(self) -> None:
        """Note that the machine is going down on purpose. OSError as above."""
        self._write_mark(orderly=True)

    def records(self) -> list[Record]:
        """The records that are kept, oldest first."""
        found = []
        for path in sorted(self._folder.glob("*.txt")):
            when, _, rest = path.stem.partition("_")
            kind = rest.partition("_")[0]
            try:
                found.append(Record(path.name, when, kind, path.read_text(encoding="utf-8", errors="replace")))
            except OSError:
                continue
        return found

    def _groups(self) -> dict[str, list[tuple[int, str, Path]]]:
        """The files of each record in pstore with their part numbers; part 1 is the newest text, so it comes last."""
        groups: dict[str, list[tuple[int, str, Path]]] = {}
        if self._pstore is None or not self._pstore.is_dir():
            return {}
        for path in sorted(self._pstore.iterdir()):
            if not path.is_file():
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            head = _HEAD.match(text)  # ERST: a file a part, numbered by the storage; only this line tells the record
            key = head[1] if head else path.name
            groups.setdefault(key, []).append((int(head[2]) if head else 0, text, path))
        return {key: sorted(parts, key=lambda part: -part[0]) for key, parts in groups.items()}

    def _keep(self, name: str, text: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        kind = (judge(text) or Reset("record", "")).kind
        safe = re.sub(r"[^A-Za-z0-9.-]", "-", name)
        files.replace(self._folder / f"{stamp}_{kind}_{safe}.txt", text)

    def _prune(self) -> None:
        """Remove the oldest records: a machine that panics at each boot must not fill its data partition."""
        total = 0
        for number, path in enumerate(sorted(self._folder.glob("*.txt"), reverse=True)):
            total += path.stat().st_size
            if number and (number >= KEPT or total > KEPT_BYTES):
                path.unlink()

    def _read_mark(self) -> dict[str, object]:
        try:
            mark = json.loads(self._mark.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return mark if isinstance(mark, dict) else {}

    def _write_mark(self, orderly: bool) -> None:
        files.replace(self._mark, json.dumps({"boot": self._boot, "orderly": orderly}))


def boot_id() -> str:
    """The kernel's id of this boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
