# SPDX-License-Identifier: GPL-2.0-only
"""Ctrl-C as an event to wait for, instead of an exception at an arbitrary point.

Commands that run until they are interrupted (capture, monitor) end in good order: the file is complete, the screen is
restored. Lives as long as the `with` block, which restores the previous handlers.
"""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """`happened`, and a descriptor that is readable from then on.

    The interpreter itself writes to it when the signal arrives: a Python handler runs only when the interpreter gets to
    it, which is never if the signal arrived just before the process went to sleep in poll.
    """

    def __init__(self) -> None:
        self.happened = False
        self.number = 0  # of the signal

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._woken = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before: dict[signal.Signals, Any] = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.happened and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C: the command that should have ended hangs
        self.happened, self.number = True, number

    def fileno(self) -> int:
        """For poll."""
        return self._read

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._woken)
        os.close(self._read)
        os.close(self._write)
