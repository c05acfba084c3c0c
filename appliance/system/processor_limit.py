# SPDX-License-Identifier: GPL-2.0-only
"""Interrupts a system call of this thread that takes too much processor time, as the verification of a BPF program can.

The kernel only checks for signals while it verifies. So a second thread watches the processor time of this one and
sends it a signal, repeatedly, because one that arrives just before the call would be lost. Processor time, not elapsed
time: a thread that waits for a processor uses none. The signal's handler is a function of libc that does nothing: a
Python handler would have to be set in the main thread, and the default would end the process. Nothing is left behind.
"""

from __future__ import annotations

import ctypes
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Final

SIGNAL: Final = signal.SIGRTMIN + 6
_AGAIN_S: Final = 0.02  # between two signals
_LEAST_S: Final = 0.005  # between two readings of the clock


@cache
def _ignore_signal() -> None:
    """Make the signal only interrupt."""
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    libc.signal(SIGNAL, ctypes.cast(libc.abs, ctypes.c_void_p))
    libc.siginterrupt(SIGNAL, 1)


@contextmanager
def processor_limit(seconds: float) -> Iterator[Callable[[], bool]]:
    """Interrupt this thread's system calls once it has used this much processor time; the value says whether."""
    _ignore_signal()
    thread = threading.get_ident()
    clock = time.pthread_getcpuclockid(thread)
    end = time.clock_gettime(clock) + seconds
    done, over = threading.Event(), threading.Event()

    def watch() -> None:
        left = seconds
        while not done.wait(max(left, _LEAST_S)):
            left = end - time.clock_gettime(clock)
            if left <= 0:
                over.set()
                signal.pthread_kill(thread, SIGNAL)
                left = _AGAIN_S

    watcher = threading.Thread(target=watch, name="processor limit", daemon=True)
    watcher.start()
    try:
        yield over.is_set
    finally:
        done.set()
        watcher.join()
