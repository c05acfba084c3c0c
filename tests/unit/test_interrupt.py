# SPDX-License-Identifier: GPL-2.0-only
"""Ctrl-C as an event: it is seen by who sleeps in poll, whenever it comes."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import threading

import pytest

from console.interrupt import Interrupt

TRIES = 20


def test_the_descriptor_tells_before_the_interpreter_can() -> None:
    """A signal that comes when no Python code runs (here: a long sum; else: poll is about to sleep) wakes poll."""
    early = threading.Event()
    for _ in range(TRIES):
        done = threading.Event()
        with Interrupt() as stop:

            def send(stop: Interrupt = stop, done: threading.Event = done) -> None:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)
                assert select.select([stop.fileno()], [], [], 10)[0]
                if not stop.happened:
                    early.set()
                done.set()

            thread = threading.Thread(target=send)
            thread.start()
            while not done.is_set():
                hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000)  # no handler runs meanwhile
            thread.join()
            assert (stop.happened, stop.number) == (True, signal.SIGTERM)
        if early.is_set():
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
    """Whoever should have ended after the first one did not."""
    with Interrupt() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.happened
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
