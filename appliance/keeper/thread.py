# SPDX-License-Identifier: GPL-2.0-only
"""Threads of the keeper, for what may wait for ever: an exec that reads from a disk, a transfer on a bus.

A thread has a small stack, because all of it is locked memory, and the loop's priority, because the loop waits for it
while it holds the interpreter's lock. It ends with the process.
"""

from __future__ import annotations

import _thread
import os
from collections.abc import Callable

_STACK_BYTES = 256 << 10


def start(run: Callable[[], None], what: str) -> None:
    """Start a thread that calls `run`. OSError: it cannot be created; `what` says for whom."""
    before = _thread.stack_size(_STACK_BYTES)
    try:
        _thread.start_new_thread(_begin, (run,))
    except RuntimeError as error:
        raise OSError(f"a thread for {what} cannot be created: {error}") from error
    finally:
        _thread.stack_size(before)


def _begin(run: Callable[[], None]) -> None:
    try:
        loop = os.getpid()  # the first thread's id
        os.sched_setscheduler(0, os.sched_getscheduler(loop), os.sched_getparam(loop))
    except OSError:
        pass  # not permitted: then the loop has no real-time priority either
    run()
