# SPDX-License-Identifier: GPL-2.0-only
"""The keeper's log lines, which never delay its loop.

They come from the loop and from the threads of the buses, so nothing here is shared between two calls.
"""

from __future__ import annotations

import os
import select


class Logger:
    """To the kernel log, or to stderr if it can be written without waiting."""

    def __init__(self, where: str) -> None:
        self.lost = 0
        self._kmsg = -1
        if where == "kmsg":
            try:
                self._kmsg = os.open("/dev/kmsg", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                pass  # stderr is used instead

    def line(self, text: str, severe: bool) -> None:
        """Write one line, or count it as lost."""
        text = text.replace("\n", " ")[:900]
        try:
            if self._kmsg >= 0:
                # facility 3 = daemon; error or notice, so that `quiet` keeps notices off the serial line
                os.write(self._kmsg, f"<{3 << 3 | (3 if severe else 5)}>bypass-keeper: {text}\n".encode())
            elif _takes(2):
                os.write(2, f"bypass-keeper: {text}\n".encode())
            else:
                self.lost += 1
        except OSError:
            self.lost += 1


def _takes(descriptor: int) -> bool:
    """Whether a write does not wait. A poll object of its own: one refuses to be used by two threads at a time."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))
