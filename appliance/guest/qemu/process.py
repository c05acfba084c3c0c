# SPDX-License-Identifier: GPL-2.0-only
"""A guest's QEMU process: start it so that it outlives bypassd, find it again, know when it has ended.

QEMU runs in a session of its own, with its words in a log file, and inherits the file descriptors that the command line
names (command.py). What a later bypassd needs to find it again is written to `state.json`: pid and start time identify
a process beyond doubt. Its end is told by a pidfd, which the event loop watches; its lease is over by then
(steering/leases.py), for a pidfd tells when the guest's memory has been given back. The process lives until the guest
ends, is stopped, or the machine ends; this object as long as bypassd knows of it.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from appliance.errors import GuestError

LOG_BYTES = 256 << 10
"""A log file is set aside once (NAME.1) when it grows beyond this."""

_ABOVE = 200  # inherited descriptors are first moved up here, so that placing one never overwrites another


class Record(msgspec.Struct, frozen=True):
    """What is kept of a running guest for the next bypassd. `digest` = of what it was started as; `since` in ns."""

    pid: int
    started: int
    digest: str
    accel: str
    since: int
    proved: bool = False
    warnings: tuple[str, ...] = ()
    huge: int = 0  # bytes of its memory that are in huge pages


def start_time(pid: int) -> int | None:
    """When a process started (clock ticks since boot); None = there is none (any more)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def listen(path: Path) -> socket.socket:
    """A listening Unix socket for QEMU to inherit. An old one is replaced."""
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(str(path))
        path.chmod(0o600)
        sock.listen(1)
    except OSError as error:
        sock.close()
        raise GuestError(f"{path}: {error.strerror}") from error
    return sock


def rotate(log: Path) -> None:
    """Set the log aside when it is too long. Its writer holds it open for appending, so it is copied and emptied."""
    try:
        if log.stat().st_size > LOG_BYTES:
            log.with_name(log.name + ".1").write_bytes(log.read_bytes()[-LOG_BYTES:])
            os.truncate(log, 0)
    except OSError:
        pass  # a full or missing /run costs a log, never a guest


def last_words(log: Path, limit: int = 400) -> str:
    """The end of what QEMU said, as one line."""
    try:
        text = log.read_bytes()[-4096:].decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "; ".join(lines[-3:])[-limit:]


@dataclass
class Process:
    """One running QEMU. `pidfd` becomes readable when it ends."""

    pid: int
    started: int
    pidfd: int
    child: bool  # started by this bypassd: its exit status can be read

    @classmethod
    def start(cls, words: Sequence[str], fds: Mapping[int, int], log: Path) -> Process:
        """Start `words`; `fds` says which of our descriptors QEMU gets under which number."""
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
                words[0],
                list(words),
                {"PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), "LC_ALL": "C", "HOME": "/"},
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
            )
        except OSError as error:
            raise GuestError(f"{words[0]} cannot be started: {error.strerror}") from error
        finally:
            for fd in moved.values():
                os.close(fd)
        return cls(pid, start_time(pid) or 0, os.pidfd_open(pid), child=True)

    @classmethod
    def adopt(cls, record: Record) -> Process | None:
        """The process an earlier bypassd started; None when it is not there any more."""
        try:
            pidfd = os.pidfd_open(record.pid)
        except OSError:
            return None
        # Checked after the pidfd is held: from here on the number cannot pass to another process.
        if start_time(record.pid) != record.started:
            os.close(pidfd)
            return None
        return cls(record.pid, record.started, pidfd, child=False)

    @property
    def alive(self) -> bool:
        """Whether it still runs; asks the kernel, does not wait."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return not poll.poll(0)

    def kill(self) -> None:
        """End it at once. No error when it is gone."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def wait(self, limit: float = 5.0) -> None:
        """Wait for the end, `limit` seconds at most: for the moment after `kill`, which takes milliseconds."""
        select.select([self.pidfd], [], [], limit)

    def let_go(self) -> None:
        """Look after it no more; it runs on."""
        os.close(self.pidfd)

    def reap(self) -> str:
        """After the end: how it ended, for a person. Closes the pidfd."""
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
