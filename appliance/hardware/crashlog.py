# SPDX-License-Identifier: GPL-2.0-only
"""Crash reports: moves what the kernel kept over a reset to the data partition, and finds the cause of the last reset.

The kernel writes its last messages to persistent memory. That store is small, so records are moved away (read,
written as a report, synced, then unlinked) as soon as bypassd starts; the newest KEPT reports stay, and their numbers
only grow. Where the store is memory that a reset does not clear, a report also has bypassd's last log lines and the
tail of the console; these two are dropped after a boot that ended in good order.

A mark on the data partition tells an orderly stop, and by whose order, from a power cut. It also has the history of
crashes (crash_loop.py) and the boots (boots.py), and is written in one step, before anything is started.

Without a data partition only pstore itself remains: the records stay there, shortened to the part that has the panic,
and their number stands for the history until they are removed.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from appliance.hardware import boots, crash_loop, crash_report, pstore
from appliance.hardware.crash_loop import History, Limits
from appliance.hardware.crash_report import About, Section
from appliance.hardware.pstore import Crash, File
from appliance.hardware.reset_cause import Evidence, Reset, decide, judge, ran_s
from appliance.system import files

_MARK = "last-run.json"
_NAME = re.compile(r"(\d{6,})_(\w+)\.txt")
KEPT = 32  # reports
KEPT_BYTES = 8 << 20  # of all of them together; the newest stays whatever its size
_HEAD_BYTES = 4096  # of a report: its head is in there
CLOCK_SET_SINCE = 2025  # a clock that shows an earlier year was never set


@dataclass(frozen=True)
class Report:
    """One crash report on the data partition. `text` is empty where only its head was asked for."""

    about: About
    size: int
    text: str = ""


@dataclass(frozen=True)
class LastRun:
    """What the last run left, as far as it can be read."""

    known: bool = False
    boot: str = ""
    order: str = ""
    by: str = ""
    version: str = ""
    ran_s: int | None = None
    report: int = 0  # the highest number of a report
    history: History = field(default_factory=History)
    boots: boots.Boots = field(default_factory=boots.Boots)


class CrashLog:
    """The reports of this machine; owns the folder on the data partition.

    `kept`: the data partition is present, so what is written to it survives a reset. `watchdog` names the watchdog that
    says that it reset the machine; empty if none does. `drill` takes the cause that was found and returns it, or that
    of a drill that ordered the reset.
    """

    def __init__(
        self,
        store: Path | None,
        folder: Path,
        state: Path,
        boot_id: str,
        *,
        kept: bool = True,
        version: str = "",
        watchdog: Callable[[], str] = str,
    ) -> None:
        self._pstore, self._folder, self._mark, self._boot = store, folder, state / _MARK, boot_id
        self._kept, self._version, self._watchdog = kept, version, watchdog
        self.reset = Reset("none", "not determined yet")
        self.history = History(boot_id)
        self.boots = boots.Boots()
        self.report = 0  # of the last reset; 0: none
        self.planned = ("orderly", "")  # what an end in good order is for (reset_cause.ORDERS), and by whose order
        self.drill: Callable[[Reset, LastRun, str], Reset] = lambda reset, last, text: reset
        self._last_number = 0
        self._writing = threading.Lock()  # for the mark: notes are written in a thread
        self._order = self._by = ""

    def collect(self, limits: Limits | None = None) -> Reset:
        """Judge the last reset, count it, and move new records here. OSError if the data partition cannot be written:
        records that could not be moved stay in pstore and are counted again from there."""
        self._prune()  # also before: a partition that is full of old reports must have room for the new one
        found = pstore.read(self._pstore)
        last = self._read_mark()
        same = last.boot == self._boot
        texts = [crash.text for crash in found.crashes]
        warm = bool(found.console or found.messages)
        flagged = "" if same else self._watchdog()
        evidence = Evidence(
            same, last.known, last.order, last.by, tuple(texts[::-1]), flagged, warm, last.version, self._version
        )
        self.reset = self.drill(decide(evidence), last, texts[-1] if texts else "")
        old = last.history
        if old.boot != self._boot:  # several records: earlier boots crashed before they got this far
            resets = [reset for text in texts if (reset := judge(text))]
            earlier = tuple(crash_loop.Crash(0, reset.kind, reset.text) for reset in resets[:-1])
            old = old._replace(crashes=old.crashes + earlier)
        self.history = crash_loop.begin(old, self._boot, self.reset.kind, self.reset.text, limits or Limits())
        self._last_number = max([last.report, *self._numbers()])
        self.boots = last.boots
        self.report = last.boots.newest[-1].report if same and last.boots.newest else 0
        self._number_old()
        again = same and not self._kept  # moved already, and still in pstore too
        if not again:
            self._write_reports(found, last)
        if not same:
            ran = ran_s(texts[-1]) if texts else last.ran_s
            boot = boots.Boot(0, _now(), self.reset.kind, self.reset.text, self._version, ran, self.report)
            self.boots = boots.add(self.boots, boot)
        self._write_mark()
        for path in found.paths if self._kept else self._shortened(found):
            path.unlink()
        self._prune()
        return self.reset

    def note(self) -> None:
        """Store the present `history`. May be called from any thread. OSError as above."""
        if not self._kept and not self.history.crashes:
            for path in pstore.read(self._pstore).paths:
                path.unlink()
        self._write_mark()

    def mark_orderly(self) -> None:
        """Record that the machine is going down on purpose, as `planned`. OSError as above."""
        self._order, self._by = self.planned
        self._write_mark()

    # -- the reports

    def reports(self) -> list[Report]:
        """The heads of the stored reports, oldest first."""
        return [report for path in sorted(self._folder.glob("*.txt")) if (report := self._read(path, _HEAD_BYTES))]

    def read(self, number: int) -> Report | None:
        """One report with its whole text; None: there is none of that number. OSError if it cannot be read."""
        for path in self._folder.glob(f"{number:06d}_*.txt"):
            if (report := self._read(path)) is not None:
                return report
        return None

    def _read(self, path: Path, most: int = -1) -> Report | None:
        try:
            with path.open("rb") as file:
                text = file.read(most).decode("utf-8", errors="replace")
            size = path.stat().st_size
        except OSError:
            return None
        named = _NAME.fullmatch(path.name)
        about = crash_report.parse(text)
        if about is None:  # damaged; or written by a version that numbered nothing
            about = About(int(named[1]) if named else 0, named[2] if named else "record", "", "")
        return Report(about, size, text if most < 0 else "")

    def _numbers(self) -> list[int]:
        return [int(named[1]) for path in self._folder.glob("*.txt") if (named := _NAME.fullmatch(path.name))]

    def _number_old(self) -> None:
        """Give a number to what an earlier version stored, TIME_KIND_NAME.txt."""
        for path in sorted(self._folder.glob("*.txt")):
            if not _NAME.fullmatch(path.name):
                self._last_number += 1
                kind = re.sub(r"[^a-z]", "", path.stem.partition("_")[2].partition("_")[0]) or "record"
                path.rename(self._folder / f"{self._last_number:06d}_{kind}.txt")

    def _write_reports(self, found: pstore.Store, last: LastRun) -> None:
        """One for each boot that crashed. What user space left belongs to the last boot."""
        tails = [
            *_sections("bypassd's last log lines", found.messages, pstore.TAIL_BYTES),
            *_sections("console", found.console, pstore.TAIL_BYTES),
        ]
        if not found.crashes and tails and self.reset.kind in ("watchdog", "unknown"):
            self._write(self.reset, last, None, tails)
        for crash in found.crashes:
            newest = crash is found.crashes[-1]
            reset = judge(crash.text) or (self.reset if newest and self.reset.kind != "none" else None)
            reset = reset or Reset("record", "a kernel record without a panic")
            self._write(reset, last if newest else LastRun(), crash, tails if newest else [])

    def _write(self, reset: Reset, last: LastRun, crash: Crash | None, tails: list[Section]) -> None:
        log = _sections("kernel log", crash.files if crash else (), pstore.LOG_BYTES)
        ran = ran_s(crash.text) if crash else None
        self._last_number += 1
        about = About(self._last_number, reset.kind, reset.text, _now(), last.version, last.boot, ran)
        name = f"{about.number:06d}_{re.sub(r'[^a-z]', '', reset.kind)}.txt"
        files.replace(self._folder / name, crash_report.compose(about, [*log, *tails]))
        self.report = about.number

    def _shortened(self, found: pstore.Store) -> list[Path]:
        """Without a data partition: what can go, all but the part of each crash that has the panic."""
        keep = {crash.files[-1].path for crash in found.crashes}
        return [path for path in found.paths if path not in keep]

    def _prune(self) -> None:
        """Remove the oldest: a machine that panics at each boot must not fill its data partition."""
        total = 0
        for number, path in enumerate(sorted(self._folder.glob("*.txt"), key=_age, reverse=True)):
            total += path.stat().st_size
            if number and (number >= KEPT or total > KEPT_BYTES):
                path.unlink()

    # -- the mark

    def _read_mark(self) -> LastRun:
        try:
            mark = json.loads(self._mark.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return LastRun()
        if not isinstance(mark, dict):
            return LastRun()
        number, ran = mark.get("report"), mark.get("ran_s")
        order = str(mark.get("order") or "orderly") if mark.get("orderly") is True else ""
        return LastRun(
            known=bool(mark),
            boot=str(mark.get("boot", "")),
            order=order,
            by=str(mark.get("by", "")),
            version=str(mark.get("version", "")),
            ran_s=ran if isinstance(ran, int) else None,
            report=number if isinstance(number, int) else 0,
            history=crash_loop.unpack(mark.get("history")),
            boots=boots.unpack(mark.get("boots")),
        )

    def _write_mark(self) -> None:
        with self._writing:
            mark = {
                "boot": self._boot,
                "orderly": bool(self._order),
                "order": self._order,
                "by": self._by,
                "version": self._version,
                "ran_s": int(time.clock_gettime(time.CLOCK_BOOTTIME)) if self._order else None,
                "report": self._last_number,
                "history": crash_loop.pack(self.history),
                "boots": boots.pack(self.boots),
            }
            files.replace(self._mark, json.dumps(mark))


def _sections(title: str, found: tuple[File, ...], room: int) -> list[Section]:
    """One section for these files, or none."""
    text = "".join(file.text if file.text.endswith("\n") else f"{file.text}\n" for file in found)
    source = ", ".join(file.path.name for file in found)
    return [Section(title, source, pstore.tail(text, room))] if text else []


def _age(path: Path) -> tuple[int, str]:
    """Sorts the reports by number; files of a version that did not number them come first."""
    named = _NAME.fullmatch(path.name)
    return (int(named[1]), path.name) if named else (0, path.name)


def _now() -> str:
    now = datetime.now(UTC)
    return f"{now:%Y-%m-%dT%H:%M:%SZ}" if now.year >= CLOCK_SET_SINCE else ""


def boot_id() -> str:
    """The kernel's id of this boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
