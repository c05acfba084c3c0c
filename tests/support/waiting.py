# SPDX-License-Identifier: GPL-2.0-only
"""Waiting for a condition that no event announces: polled, with a failure if it never becomes true.

A limit says when a test has failed, not how long something should take; it is far above what a busy machine needs.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

PATIENCE_S = 60.0
PAUSE_S = 0.01


async def until(true: Callable[[], object], what: str = "it", patience: float = PATIENCE_S) -> None:
    """Let the event loop run until the condition is true. AssertionError after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not true():
        assert time.monotonic() < deadline, f"{what} did not happen within {patience:g} s"
        await asyncio.sleep(PAUSE_S)


def wait_until(
    true: Callable[[], object],
    what: str = "it",
    patience: float = PATIENCE_S,
    check: Callable[[], object] = lambda: None,
    explain: Callable[[], object] = lambda: "",
) -> None:
    """Block until the condition is true. `check` may raise if it never will be; `explain` extends the error."""
    deadline = time.monotonic() + patience
    while not true():
        check()
        assert time.monotonic() < deadline, f"{what} did not happen within {patience:g} s: {explain()}"
        threading.Event().wait(PAUSE_S)
