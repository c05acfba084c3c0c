# SPDX-License-Identifier: GPL-2.0-only
"""A guest's QEMU process.

Starting, adopting and ending are those of system/process.py, with the errors of guests. A guest's lease ends
(steering/kernel/leases.py) before the pidfd reports the end of the process, which happens only after its memory has
been freed.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from appliance.errors import GuestError
from appliance.guest.qemu.record import Record
from appliance.system import process
from appliance.system.process import LOG_BYTES, last_words, rotate, start_time

__all__ = ["LOG_BYTES", "Process", "last_words", "listen", "rotate", "start_time"]


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


class Process(process.Process):
    """One running QEMU."""

    @classmethod
    def start(
        cls, argv: Sequence[str], fds: Mapping[int, int], log: Path, environment: Mapping[str, str] | None = None
    ) -> Self:
        """See `system.process.Process`; GuestError says what cannot be started."""
        try:
            return super().start(argv, fds, log, environment)
        except OSError as error:
            raise GuestError(f"{argv[0]} cannot be started: {error.strerror}") from error

    @classmethod
    def adopt(cls, record: Record) -> Self | None:
        """The process that an earlier bypassd started; None if it has ended."""
        return cls.find(record.pid, record.started)
