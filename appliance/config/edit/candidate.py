# SPDX-License-Identifier: GPL-2.0-only
"""The candidate: the configuration that is being edited, and who is editing it.

There is only one, so that two administrators cannot overwrite each other unnoticed. It is held by a client *process*,
identified by the kernel; the hold ends with that process, or when another administrator takes it over and the first is
told. Edits stay until they are committed or discarded, also across a broken session and a restart of bypassd (a file
in /run). Owns the document under edit and the holder's pidfd.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from appliance.api.rpc import Caller
from appliance.config.edit.document import Document
from appliance.errors import BypassError, RefusedError
from appliance.system import files

log = logging.getLogger(__name__)


class Holder(NamedTuple):
    """Who is editing. `since`, `last`: seconds since the epoch."""

    user: str
    uid: int
    pid: int
    tty: str
    since: float
    last: float

    def __str__(self) -> str:
        place = f" on {self.tty}" if self.tty else ""
        ago = max(0, round(time.time() - self.last))
        return f"{self.user}{place} (process {self.pid}) since {_clock(self.since)}, last active {ago} s ago"


def _clock(when: float) -> str:
    return datetime.fromtimestamp(when, UTC).strftime("%H:%M:%SZ")


def tty_of(pid: int) -> str:
    """The terminal of a process; "" when it has none, or is gone."""
    try:
        name = os.readlink(f"/proc/{pid}/fd/0")
    except OSError:
        return ""
    return name.removeprefix("/dev/") if name.startswith(("/dev/tty", "/dev/pts/", "/dev/console")) else ""


class Candidate:
    """See the module. `running` gives the text that edits start from; `tell(event, user, text)` publishes an event."""

    def __init__(
        self,
        running: Callable[[], str],
        memory: Path | None = None,
        tell: Callable[[str, str, str], None] = lambda event, user, text: None,
    ) -> None:
        self._running, self._memory, self._tell = running, memory, tell
        self._document: Document | None = None  # None: nothing was changed
        self.author = ""  # who changed it last
        self.holder: Holder | None = None
        self._taken: dict[int, str] = {}  # pid -> who took the hold from it
        self._pidfd = -1
        self._restore()

    # -- who

    def hold(self, who: Caller, *, takeover: bool = False) -> None:
        """Take the candidate. RefusedError names who has it."""
        if self.holder is not None and self.holder.pid != who.pid:
            if not takeover:
                raise RefusedError(f"the candidate is being edited by {self.holder}; nothing was changed", _TAKE)
            self._taken = {**dict(list(self._taken.items())[-31:]), self.holder.pid: who.user}
            text = f"{who.user} took over the candidate from {self.holder.user}"
            self._let_go()
            self._tell("taken", who.user, text)
        now = time.time()
        if self.holder is None:
            self._follow(who.pid)
            self._tell("held", who.user, f"{who.user} is editing the configuration")
            self.holder = Holder(who.user, who.uid, who.pid, tty_of(who.pid), now, now)
        self._taken.pop(who.pid, None)

    def require(self, who: Caller) -> None:
        """RefusedError unless `who` holds it."""
        if self.holder is not None and self.holder.pid == who.pid:
            self.holder = self.holder._replace(last=time.time())
            return
        if who.pid in self._taken:
            raise RefusedError(f"{self._taken[who.pid]} took over the candidate; it includes your changes", _TAKE)
        if self.holder is not None:
            raise RefusedError(f"the candidate is being edited by {self.holder}", _TAKE)
        raise RefusedError("you are not editing the configuration", "enter `configure` first")

    def release(self, who: Caller) -> None:
        """Release the hold; does nothing when somebody else has it."""
        if self.holder is not None and self.holder.pid == who.pid:
            self._let_go()
            self._tell("released", who.user, f"{who.user} has finished editing")

    def _follow(self, pid: int) -> None:
        """Watch for the end of the process."""
        try:
            self._pidfd = os.pidfd_open(pid)
        except OSError as error:
            raise RefusedError(f"process {pid} cannot be watched: {error.strerror}") from error
        asyncio.get_running_loop().add_reader(self._pidfd, self._gone)

    def _gone(self) -> None:
        user = self.holder.user if self.holder else ""
        self._let_go()
        self._tell("released", user, f"the session of {user} ended; its changes are still in the candidate")

    def _let_go(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
        self._pidfd, self.holder = -1, None

    def close(self) -> None:
        """Stop watching, when bypassd ends."""
        if self._pidfd >= 0:
            self._let_go()

    # -- what

    @property
    def changed(self) -> bool:
        """Whether it differs from the running configuration."""
        return self._document is not None and self._document.text != self._running()

    @property
    def document(self) -> Document:
        """The document under edit; made from the running configuration at first use."""
        if self._document is None:
            self._document = Document(self._running())
        return self._document

    @property
    def text(self) -> str:
        """Its text."""
        return self._running() if self._document is None else self._document.text

    def edited(self, who: Caller) -> None:
        """Record a change of the document."""
        self.author = who.user

    def replace(self, text: str, who: Caller) -> None:
        """Replace it with another text; ConfigError when that is not TOML."""
        self._document = Document(text)
        self.author = who.user

    def discard(self) -> None:
        """Reset to the running configuration."""
        self._document, self.author = None, ""

    # -- over a restart of bypassd

    def save(self) -> None:
        """Write it to its file, for the next bypassd. A write error is logged."""
        if self._memory is None:
            return
        try:
            if self._document is None:
                self._memory.unlink(missing_ok=True)
                return
            data = json.dumps({"author": self.author, "text": self._document.text})
            files.replace(self._memory, data, synced=False)
        except OSError as error:
            log.error("the candidate will be lost when bypassd restarts: %s", error)

    def _restore(self) -> None:
        if self._memory is None:
            return
        try:
            kept = json.loads(self._memory.read_text())
            self._document, self.author = Document(str(kept["text"])), str(kept["author"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, BypassError) as error:
            log.error("the candidate from before the restart is lost: %s", error)


_TAKE = "`configure takeover` takes it over and notifies the other session"
