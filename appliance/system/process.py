# SPDX-License-Identifier: GPL-2.0-only
"""Starts programs that outlive bypassd, finds them again in the next bypassd, and notices their end.

A program runs in a session of its own, appends its output to a log file, and inherits given descriptors. Pid and start
time identify it uniquely. A pidfd, which the event loop watches, reports its end. The program lives until it ends or
the machine stops; the object as long as bypassd knows about it.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

LOG_BYTES = 256 << 10
"""A log file is moved to NAME.1 when it grows beyond this."""

_ABOVE = 200  # inherited descriptors are first moved up here, so that none overwrites another
_ENVIRONMENT = {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C", "HOME": "/"}


def start_time(pid: int) -> int | None:
    """When a process started (clock ticks since boot); None = it does not exist (any more)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def rotate(log: Path, limit: int = LOG_BYTES) -> None:
    """Copy the end of a log to NAME.1 if it is too long, and truncate it: its writer holds it open for appending."""
    try:
        with log.open("rb") as file:
            if file.seek(0, os.SEEK_END) <= limit:
                return
            file.seek(-limit, os.SEEK_END)
            log.with_name(log.name + ".1").write_bytes(file.read(limit))
        os.truncate(log, 0)
    except OSError:
        pass  # a full or missing /run costs a log, nothing else


def last_words(log: Path, limit: int = 400) -> str:
    """The last lines that the program wrote, as one line."""
    try:
        text = log.read_bytes()[-4096:].decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines[-3:])[-limit:]


@dataclass
class Process:
    """One running program. `pidfd` becomes readable when it ends."""

    pid: int
    started: int
    pidfd: int
    child: bool  # started by this bypassd: its exit status can be read

    @classmethod
    def start(
        cls, argv: Sequence[str], fds: Mapping[int, int], log: Path, environment: Mapping[str, str] | None = None
    ) -> Self:
        """Start `argv` in a session of its own; it appends to `log` and has no standard input.

        `fds` maps our descriptors to their numbers in the program. OSError: it cannot be started or watched.
        """
        moved: dict[int, int] = {}
        try:
            for theirs, ours in fds.items():
                moved[theirs] = fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, _ABOVE)
            actions: list[tuple[object, ...]] = [
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                *((os.POSIX_SPAWN_DUP2, ours, theirs) for theirs, ours in moved.items()),
            ]
            pid = os.posix_spawnp(
                argv[0],
                list(argv),
                _ENVIRONMENT if environment is None else environment,
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
            )
        finally:
            for fd in moved.values():
                os.close(fd)
        try:
            return cls(pid, start_time(pid) or 0, os.pidfd_open(pid), child=True)
        except OSError:  # it could not be tracked
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise

    @classmethod
    def find(cls, pid: int, started: int) -> Self | None:
        """The process with this pid and start time; None if it does not exist any more."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        # Checked once the pidfd is open: from here on the pid cannot pass to another process.
        if start_time(pid) != started:
            os.close(pidfd)
            return None
        return cls(pid, started, pidfd, child=False)

    @property
    def alive(self) -> bool:
        """Whether it still runs; asks the kernel, does not wait."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    def send(self, number: int) -> None:
        """Send a signal. No error if it has ended."""
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            pass

    def kill(self) -> None:
        """Kill it. No error if it has ended."""
        self.send(signal.SIGKILL)

    def wait(self, limit: float = 5.0) -> None:
        """Block until it ends, for `limit` seconds at most; meant for the milliseconds after `kill`."""
        select.select([self.pidfd], [], [], limit)

    def let_go(self) -> None:
        """Stop watching it; it continues to run."""
        os.close(self.pidfd)

    def reap(self) -> str:
        """Call after its end: returns how it ended, for display. Closes the pidfd."""
        how = "ended"
        if self.child:
            try:
                result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                result = None
            if result is not None and result.si_code == os.CLD_EXITED:
                how = f"exited with status {result.si_status}"
            elif result is not None:
                how = f"killed by {signal.Signals(result.si_status).name}"
        os.close(self.pidfd)
        return how
