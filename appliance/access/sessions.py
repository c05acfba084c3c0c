# SPDX-License-Identifier: GPL-2.0-only
"""Who is logged in, from the login logs and the process table, and how to end a user's sessions."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from appliance.access.serial_login import LINE
from appliance.access.sshlog import SshEvent
from appliance.api.schema import access
from appliance.system.process import start_time


@dataclass(frozen=True)
class Session:
    """One login. `pid` is the SSH server's process for it, or the shell at the serial line."""

    pid: int
    user: str
    address: str
    how: str


class Sessions:
    """The sessions that appear in a log and whose process still runs."""

    def __init__(self) -> None:
        self._sessions: dict[int, Session] = {}

    def note(self, event: SshEvent) -> None:
        """Process an event of a log."""
        if event.kind == "login":
            self._sessions[event.pid] = Session(event.pid, event.user, event.address, event.how)
        elif event.kind == "logout":
            self._sessions.pop(event.pid, None)

    def of(self, pid: int) -> Session | None:
        """The session of this process."""
        return self._sessions.get(pid)

    def present(self) -> list[Session]:
        """All sessions, oldest first."""
        self._forget_the_dead()
        return list(self._sessions.values())

    def show(self) -> list[access.Session]:
        """All sessions, as the API shows them."""
        return [access.Session(s.user, s.address, s.how, _age(s.pid), s.pid) for s in self.present()]

    def end(self, user: str, uid: int) -> int:
        """Kill every session of a user and every other process with its user id; returns the number of processes."""
        pids = {pid for pid, session in self._sessions.items() if session.user == user and _runs(session)}
        pids |= {pid for pid in _all() if _owner(pid) == uid}
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            self._sessions.pop(pid, None)
        return len(pids)

    def end_one(self, pid: int) -> Session | None:
        """Kill one session; None: there is no such session (any more)."""
        found = next((session for session in self.present() if session.pid == pid and _runs(session)), None)
        if found is None:
            return None
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        self._sessions.pop(pid, None)
        return found

    def left(self) -> list[str]:
        """Users whose session at the console has ended; no log reports that."""
        over = [session for session in self._sessions.values() if session.address == LINE and not _runs(session)]
        for session in over:
            del self._sessions[session.pid]
        return [session.user for session in over]

    def _forget_the_dead(self) -> None:
        for session in [session for session in self._sessions.values() if session.address != LINE]:
            if not _runs(session):
                del self._sessions[session.pid]


def runs_as(uid: int) -> bool:
    """Whether any process has this user id."""
    return any(_owner(pid) == uid for pid in _all())


def _all() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _age(pid: int) -> int:
    """How many seconds a process has run."""
    started = start_time(pid)
    return 0 if started is None else round(time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"))


def _owner(pid: int) -> int:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return -1


def _runs(session: Session) -> bool:
    """Whether its process still runs; another process that got its number does not count."""
    try:
        name = Path(f"/proc/{session.pid}/comm").read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return False
    return name == ("bypass" if session.address == LINE else "dropbear")
