# SPDX-License-Identifier: GPL-2.0-only
"""Ctrl-C as an event: it always wakes a process that sleeps in poll."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
import time

import pytest

from console.terminal.interrupt import Interrupt

TRIES = 5


def test_the_descriptor_tells_before_the_interpreter_can() -> None:
    """A signal that comes when no Python code runs (here: in a wait of C, else: as poll begins) wakes poll.

    Whether the main thread was in that wait already cannot be seen from outside, so it is tried a few times.
    """
    libc, mutex, main = ctypes.CDLL(None), ctypes.create_string_buffer(64), threading.main_thread().ident or 0
    early = False
    for _ in range(TRIES):
        locked, nearly = threading.Event(), threading.Event()
        with Interrupt() as stop:

            def send(
                stop: Interrupt = stop, locked: threading.Event = locked, nearly: threading.Event = nearly
            ) -> None:
                nonlocal early
                libc.pthread_mutex_lock(mutex)
                try:
                    locked.set()
                    nearly.wait()
                    time.sleep(0.02)  # the main thread goes to sleep in C meanwhile
                    signal.pthread_kill(main, signal.SIGTERM)
                    woken = bool(select.select([stop.fileno()], [], [], 2)[0])
                    early = early or (woken and not stop.happened)
                finally:
                    libc.pthread_mutex_unlock(mutex)

            thread = threading.Thread(target=send)
            thread.start()
            locked.wait()
            nearly.set()
            libc.pthread_mutex_lock(mutex)  # no handler in Python runs before it returns
            libc.pthread_mutex_unlock(mutex)
            thread.join()
            assert (stop.happened, stop.number) == (True, signal.SIGTERM)
        if early:
            return
    pytest.fail("poll was never woken before the handler had run")


def test_all_is_as_before_afterwards() -> None:
    """Handlers, and who else is woken by signals."""
    read, write = os.pipe2(os.O_NONBLOCK)
    before = signal.set_wakeup_fd(write)
    try:
        handler = signal.getsignal(signal.SIGTERM)
        with Interrupt():
            assert signal.getsignal(signal.SIGTERM) != handler
        assert signal.getsignal(signal.SIGTERM) == handler
        assert signal.set_wakeup_fd(before) == write
    finally:
        signal.set_wakeup_fd(before)
        os.close(read)
        os.close(write)


def test_a_second_ctrl_c_ends_what_hangs() -> None:
    """The command that should have ended after the first one did not."""
    with Interrupt() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.happened
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
