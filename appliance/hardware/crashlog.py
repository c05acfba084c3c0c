# SPDX-License-Identifier: GPL-2.0-only
"""Crash records: moves what the kernel left in pstore to the data partition, and finds the cause of the last reset.

The kernel writes its last messages to persistent memory. That store is small, so records are moved away (read,
written, synced, then unlinked) as soon as bypassd starts; the newest KEPT of them stay. A watchdog that expires raises
an NMI that no driver claims, which the panic text shows; `bootstatus` of most watchdogs does not survive the reset.
Without a record, a mark that an orderly stop leaves on the data partition distinguishes a reboot from a power cut.
The history of crashes (crash_loop.py) is stored beside the mark and written in the same step.

Without a data partition only pstore itself remains: the records stay there, shortened to the part that has the panic,
and their number stands for the history until they are removed.
"""

from __future__ import annotations

import json
import re
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from appliance.hardware import crash_loop
from appliance.hardware.crash_loop import History, Limits
from appliance.system import files

_PANIC = re.compile(r"Kernel panic - not syncing: ([^\n]*)")
_HEAD = re.compile(r"(\w+#\d+) Part(\d+)\n")
_MARK = "last-run.json"
KEPT = 32  # records
KEPT_BYTES = 8 << 20  # of all of them together; the newest stays whatever its size


class Reset(NamedTuple):
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
    """What a record's text says about the reset; None: it contains no panic. Pure."""
    found = _PANIC.search(text)
    if not found:
        return None
    reason = found[1].strip().rstrip("]").strip()
    if "NMI: Not continuing" in reason or ("NMI" in reason and "unknown reason" in text):
        return Reset("watchdog", f"hardware watchdog: the keeper or the kernel hung ({reason})")
    return Reset("panic", f"kernel panic: {reason}")


def decide(same_boot: bool, mark: bool, orderly: bool, records: list[str]) -> Reset:
    """The cause of the last reset. `same_boot`: this boot wrote the mark; `orderly`: the mark is of an orderly stop."""
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
    return Reset("power", "the power was cut, or the board was reset externally: there is no crash record")


class CrashLog:
    """The records of this machine; owns the folder on the data partition.

    `kept`: the data partition is present, so what is written to it survives a reset.
    """

    def __init__(self, pstore: Path | None, folder: Path, state: Path, boot_id: str, *, kept: bool = True) -> None:
        self._pstore, self._folder, self._mark, self._boot = pstore, folder, state / _MARK, boot_id
        self._kept = kept
        self.reset = Reset("none", "not determined yet")
        self.history = History(boot_id)
        self._writing = threading.Lock()  # for the mark: notes are written in a thread
        self._orderly = False

    def collect(self, limits: Limits | None = None) -> Reset:
        """Judge the last reset, count it, and move new records here. OSError if the data partition cannot be written:
        records that could not be moved stay in pstore and are counted again from there."""
        self._prune()  # also before: a partition that is full of old records must have room for the new one
        groups = list(self._groups().values())
        texts = ["".join(text for _, text, _ in parts) for parts in groups]
        mark = self._read_mark()
        self.reset = decide(mark.get("boot") == self._boot, bool(mark), mark.get("orderly") is True, texts[::-1])
        old = crash_loop.unpack(mark.get("history"))
        if old.boot != self._boot:  # several records: earlier boots crashed before they got this far
            found = [reset for text in texts if (reset := judge(text))]
            earlier = tuple(crash_loop.Crash(0, reset.kind, reset.text) for reset in found[:-1])
            old = old._replace(crashes=old.crashes + earlier)
        self.history = crash_loop.begin(old, self._boot, self.reset.kind, self.reset.text, limits or Limits())
        again = mark.get("boot") == self._boot and not self._kept  # moved already, and still in pstore too
        for parts, text in zip(groups, texts, strict=True) if not again else ():
            self._keep(parts[-1][2].name, text)
        self._write_mark()
        for parts in groups:
            for _, _, path in parts if self._kept else parts[:-1]:
                path.unlink()
        self._prune()
        return self.reset

    def note(self) -> None:
        """Store the present `history`. May be called from any thread. OSError as above."""
        if not self._kept and not self.history.crashes:
            for parts in self._groups().values():
                for _, _, path in parts:
                    path.unlink()
        self._write_mark()

    def mark_orderly(self) -> None:
        """Record that the machine is going down on purpose. OSError as above."""
        self._orderly = True
        self._write_mark()

    def records(self) -> list[Record]:
        """The stored records, oldest first."""
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
        """The files of each record in pstore with their part numbers; part 1 is the newest text, so it comes last.

        Oldest record first. ERST has one file per part, numbered by the storage: the first line gives the record's
        number, which restarts at every boot, so a repeated part begins another boot's record.
        """
        groups: dict[str, list[tuple[int, str, Path]]] = {}
        if self._pstore is None or not self._pstore.is_dir():
            return {}
        latest: dict[str, str] = {}
        for path in sorted(self._pstore.iterdir()):
            if not path.is_file():
                continue
            text = path.read_text(encoding="utf-8", errors="replace")
            head = _HEAD.match(text)
            record, part = (head[1], int(head[2])) if head else (path.name, 0)
            key = latest.get(record, record)
            if any(number == part for number, _, _ in groups.get(key, ())):
                key = path.name
            latest[record] = key
            groups.setdefault(key, []).append((part, text, path))
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

    def _write_mark(self) -> None:
        with self._writing:
            mark = {"boot": self._boot, "orderly": self._orderly, "history": crash_loop.pack(self.history)}
            files.replace(self._mark, json.dumps(mark))


def boot_id() -> str:
    """The kernel's id of this boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
