# SPDX-License-Identifier: GPL-2.0-only
"""The configurations on the disk: startup, the last 50 commits, and one that awaits confirmation.

    /etc/bypass/config.toml                startup: in force after a restart
    /var/lib/bypass/config/000123.toml     history: each file is a configuration after a few lines of comment that say
                                           who committed it, when and why, so that `cp` makes it the startup one
    /var/lib/bypass/config/pending.toml    committed, not confirmed: in force until its time is over

A commit writes its history file first, then startup. Whenever the power fails, startup is either the old text or the
new one, complete; `recover` finds a history file whose startup was never written and undoes it, and adds a startup that
somebody edited by hand to the history. A pending configuration becomes startup only when it is confirmed, so a restart
of the machine rolls it back. Owns these files, for the life of bypassd.
"""

from __future__ import annotations

import contextlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from appliance.config.check.load import read_text
from appliance.errors import BypassError, ConfigError, RefusedError
from appliance.system import files
from appliance.system.files import Disk

KEPT: Final = 50
ROLLED_BACK: Final = 10  # notes of commits that were rolled back
RESTARTS: Final = 1  # restarts of bypassd that a pending configuration survives: the next one is attributed to it
_FIRST = "# throughwire configuration "
_LAST = "# ---"


class Entry(NamedTuple):
    """One configuration of the history. `how`: commit, confirmed, found (edited by hand), installed."""

    number: int
    when: str
    user: str
    comment: str
    how: str
    text: str


class Pending(NamedTuple):
    """A configuration in force until `deadline` (ns of CLOCK_MONOTONIC of the boot `boot`)."""

    entry: Entry
    boot: str
    deadline: int
    restarts: int


class Begun(NamedTuple):
    """What is in force at the start of bypassd. `notes` are for log and ledger; `error`: startup cannot be read."""

    text: str
    source: str
    pending: Pending | None
    notes: tuple[str, ...] = ()
    error: ConfigError | None = None


class RolledBack(NamedTuple):
    """A commit that was rolled back: when, whose commit of when it was, and why. `by` "": nobody confirmed it."""

    when: str
    by: str
    user: str
    committed: str
    comment: str
    why: str


def now() -> str:
    """The time as it is stored: UTC, in seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Store:
    """See the module. Calls block on the disk: make them in a thread."""

    def __init__(self, startup: Path, folder: Path, system: Disk | None = None) -> None:
        self.startup, self._folder, self._disk = startup, folder, system or Disk()
        self._pending = folder / "pending.toml"
        self._rolled_back = folder / "rolled-back.json"

    # -- reading

    def history(self) -> list[Entry]:
        """The commits, newest first, without files that cannot be read."""
        entries = []
        for number in self._numbers():
            entry = self._read(self._path(number))
            if entry is not None:
                entries.append(entry[0])
        return entries

    def entry(self, back: int) -> Entry:
        """The configuration of `back` commits ago; 0 is the newest. RefusedError when it is not kept."""
        numbers = self._numbers()
        if not 0 <= back < len(numbers):
            raise RefusedError(f"there is no configuration {back}: {len(numbers)} are kept, `show commits` lists them")
        found = self._read(self._path(numbers[back]))
        if found is None:
            raise RefusedError(f"{self._path(numbers[back])} cannot be read")
        return found[0]

    def rolled_back(self) -> list[RolledBack]:
        """The commits that were rolled back last, newest first; none where the note cannot be read."""
        try:
            return [RolledBack(*map(str, row)) for row in json.loads(self._rolled_back.read_text("utf-8"))]
        except (OSError, ValueError, TypeError):
            return []

    @property
    def newest(self) -> int:
        """The number of the newest commit; 0 when there is none."""
        return next(iter(self._numbers()), 0)

    def startup_text(self) -> str:
        """Startup as it is on the disk now. ConfigError when it cannot be read."""
        return read_text(self.startup)

    # -- the start of bypassd

    def recover(self, boot: str, monotonic: int) -> Begun:
        """Finish or undo what a power cut left half done; return the text in force now. Never raises."""
        notes: list[str] = []
        try:
            text = self.startup_text()
        except ConfigError as error:
            return Begun("", str(self.startup), None, (), error)
        pending = self._resume(text, boot, monotonic, notes)
        try:
            self._reconcile(text, notes)
        except BypassError as error:
            notes.append(f"the history of configurations is not complete: {error}")
        if pending is not None:
            return Begun(pending.entry.text, str(self._pending), pending, tuple(notes))
        return Begun(text, str(self.startup), None, tuple(notes))

    def _resume(self, startup: str, boot: str, monotonic: int, notes: list[str]) -> Pending | None:
        """The pending configuration, if it is still in force; else it is removed, and a note says why."""
        pending = self.pending()
        if pending is None:
            if self._pending.exists():
                self._forget_pending()
            return None
        who = f"the unconfirmed configuration that {pending.entry.user} committed at {pending.entry.when}"
        if pending.entry.text == startup:
            why = ""  # confirmed: only its removal was cut off
        elif pending.boot != boot:
            why = f"{who} is rolled back: the machine was restarted"
        elif pending.restarts >= RESTARTS:
            why = f"{who} is rolled back: bypassd was restarted again while it was running"
        elif pending.deadline <= monotonic:
            why = f"{who} is rolled back: it was not confirmed in time"
        else:
            more = pending._replace(restarts=pending.restarts + 1)
            try:
                self.write_pending(more)
            except BypassError as error:
                why = f"{who} is rolled back: {error}"
            else:
                notes.append(f"{who} still holds, for {(pending.deadline - monotonic) // 10**9} s")
                return more
        if why:
            notes.append(why)
            self.note_rolled_back(pending.entry, "", why.rpartition("is rolled back: ")[2])
        self._forget_pending()
        return None

    def give_up_pending(self) -> Begun:
        """The pending configuration cannot be used: fall back to startup. ConfigError when that cannot be read."""
        self._forget_pending()
        return Begun(self.startup_text(), str(self.startup), None)

    def _forget_pending(self) -> None:
        try:
            files.remove(self._disk, self._pending)
        except BypassError:
            pass  # its boot or time is over, so it will not hold at the next start either

    def _reconcile(self, startup: str, notes: list[str]) -> None:
        """Make the newest entry of the history equal to startup."""
        entries = self.history()[:2]
        if entries and entries[0].text == startup:
            return
        if len(entries) == 2 and entries[1].text == startup:
            notes.append(f"commit {entries[0].number} was interrupted before it was complete, and is rolled back")
            files.remove(self._disk, self._path(entries[0].number))
            return
        how = "found" if entries else "installed"
        comment = f"{self.startup} was edited by hand" if entries else "the first configuration"
        self._add(Entry(self.newest + 1, now(), "root" if entries else "factory", comment, how, startup))

    # -- writing

    def stage(self, entry: Entry) -> None:
        """Write everything that `publish` will put in place; RefusedError when the disk does not take it."""
        files.stage(self._disk, self._path(entry.number), _write(entry))
        try:
            files.stage(self._disk, self.startup, entry.text.encode())
        except BypassError:
            files.drop(self._disk, self._path(entry.number))
            raise

    def unstage(self, entry: Entry) -> None:
        """Discard what was staged, and what `publish` did when it failed half way."""
        files.drop(self._disk, self._path(entry.number))
        files.drop(self._disk, self.startup)
        try:
            if self.startup_text() != entry.text:
                files.remove(self._disk, self._path(entry.number))
        except BypassError:
            return  # `recover` sees to it at the next start

    def note_edit(self) -> str:
        """Add a startup that somebody edited by hand to the history; return a note when there was one."""
        notes: list[str] = []
        try:
            text = self.startup_text()
            if text != self.entry(0).text:
                self._reconcile(text, notes)
                return f"{self.startup} was edited by hand; its text is kept as configuration {self.newest}"
        except BypassError:
            pass  # unreadable, or no history yet: there is nothing to keep
        return ""

    def publish(self, entry: Entry) -> None:
        """Make the staged text the newest history entry and startup. `recover` undoes a half-done publish."""
        files.publish(self._disk, self._path(entry.number))
        files.publish(self._disk, self.startup)
        for number in self._numbers()[KEPT:]:
            files.remove(self._disk, self._path(number))

    def note_rolled_back(self, entry: Entry, by: str, why: str) -> None:
        """Keep for `history` that this commit was rolled back. A disk that takes nothing costs only the note."""
        rows = [RolledBack(now(), by, entry.user, entry.when, entry.comment, why), *self.rolled_back()]
        with contextlib.suppress(BypassError):
            files.write(self._disk, self._rolled_back, json.dumps(rows[:ROLLED_BACK]).encode())

    def pending(self) -> Pending | None:
        """The configuration that awaits confirmation."""
        found = self._read(self._pending)
        if found is None:
            return None
        entry, more = found
        try:
            return Pending(entry, str(more["boot"]), int(str(more["deadline"])), int(str(more["restarts"])))
        except (KeyError, ValueError):
            return None

    def write_pending(self, pending: Pending) -> None:
        """Store a configuration that awaits confirmation."""
        more = {"boot": pending.boot, "deadline": pending.deadline, "restarts": pending.restarts}
        files.write(self._disk, self._pending, _write(pending.entry, more))

    def remove_pending(self) -> None:
        """Remove it, after it was confirmed or rolled back."""
        files.remove(self._disk, self._pending)

    # -- inside

    def _add(self, entry: Entry) -> None:
        files.write(self._disk, self._path(entry.number), _write(entry))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.toml"

    def _numbers(self) -> list[int]:
        """The numbers of the history's files, newest first."""
        try:
            names = [path.name for path in self._folder.iterdir()]
        except OSError:
            return []
        return sorted((int(name[:-5]) for name in names if re.fullmatch(r"\d{6,12}\.toml", name)), reverse=True)

    @staticmethod
    def _read(path: Path) -> tuple[Entry, dict[str, object]] | None:
        try:
            return _parse(read_text(path))
        except (ConfigError, ValueError, KeyError):
            return None


def _write(entry: Entry, more: dict[str, object] | None = None) -> bytes:
    """A configuration behind its comment; `cp` makes a startup configuration of it."""
    about: dict[str, object] = {"when": entry.when, "user": entry.user, "how": entry.how, "comment": entry.comment}
    about |= more or {}
    lines = [f"{_FIRST}{entry.number}", *(f"# {key}: {json.dumps(value)}" for key, value in about.items()), _LAST]
    return ("\n".join(lines) + "\n" + entry.text).encode()


def _parse(text: str) -> tuple[Entry, dict[str, object]]:
    """The reverse. ValueError or KeyError when the file is not of this kind."""
    head, mark, body = text.partition(f"\n{_LAST}\n")
    first, *rest = head.split("\n")
    if not mark or not first.startswith(_FIRST):
        raise ValueError("not a configuration of the history")
    about: dict[str, object] = {}
    for line in rest:
        key, _, value = line.removeprefix("# ").partition(": ")
        about[key] = json.loads(value)
    number = int(first.removeprefix(_FIRST))
    words = [str(about.pop(key)) for key in ("when", "user", "comment", "how")]
    return Entry(number, words[0], words[1], words[2], words[3], body), about
