# SPDX-License-Identifier: GPL-2.0-only
"""The last log lines of this process for the crash report of a machine that crashes meanwhile.

They go where the kernel keeps them over a reset: to /dev/pmsg0, where the board has memory for that; otherwise
warnings and worse go to the kernel log, whose end is in the crash record. Neither waits for a disk. The kernel log is
shared with the kernel, so what goes there is limited in rate.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from appliance.quota import TokenBucket

RATE, BURST = 5.0, 30  # lines a second in the kernel log, and at once
LINE = 500  # characters
_PRIORITY = 3 << 3 | 4  # daemon, warning: with `quiet` it does not go to the serial line, which would take its time


class CrashLines(logging.Handler):
    """Writes to one of the two; see the module. Owns the descriptor for the life of the process."""

    def __init__(self, fd: int, *, kernel_log: bool, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(logging.WARNING if kernel_log else logging.INFO)
        self._fd, self._kernel_log = fd, kernel_log
        self._clock, self._bucket = clock, TokenBucket(RATE, BURST, clock())

    def emit(self, record: logging.LogRecord) -> None:
        """Never raises and never waits: a line that cannot be written is in the log file all the same."""
        try:
            text = " ".join(record.getMessage().split())[:LINE]
            if not self._kernel_log:
                stamp = f"{time.clock_gettime(time.CLOCK_MONOTONIC):.3f}"
                os.write(self._fd, f"[{stamp}] {record.levelname} {record.name}: {text}\n".encode())
            elif self._bucket.allow(self._clock()):
                os.write(self._fd, f"<{_PRIORITY}>bypassd: {record.levelname} {record.name}: {text}\n".encode())
        except (OSError, ValueError, TypeError):
            pass  # the store is full or gone, or the message's arguments are wrong, which the log file reports


def install(root: Path) -> CrashLines | None:
    """Copy the log of this process there from now on. None: the machine below `root` has neither device."""
    for name, kernel_log in (("pmsg0", False), ("kmsg", True)):
        try:
            fd = os.open(root / "dev" / name, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        handler = CrashLines(fd, kernel_log=kernel_log)
        logging.getLogger().addHandler(handler)
        return handler
    return None
