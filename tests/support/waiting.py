# SPDX-License-Identifier: GPL-2.0-only
"""Waiting for a condition that no event announces: polled, with a failure if it never becomes true.

A limit says when a test has failed, not how long something should take; it is far above what the machine needs, and it
grows with what else the machine has to do.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable

PATIENCE_S = 60.0
PAUSE_S = 0.01


def stretched(seconds: float) -> float:
    """This limit on a machine that is as busy as this one: by how many threads want each processor."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


async def until(true: Callable[[], object], what: str = "it", patience: float = PATIENCE_S) -> None:
    """Let the event loop run until the condition is true. AssertionError after `patience` seconds."""
    began = time.monotonic()
    while not true():
        waited = time.monotonic() - began
        assert waited < stretched(patience), f"{what} did not happen within {waited:.0f} s"
        await asyncio.sleep(PAUSE_S)


def wait_until(
    true: Callable[[], object],
    what: str = "it",
    patience: float = PATIENCE_S,
    check: Callable[[], object] = lambda: None,
    explain: Callable[[], object] = lambda: "",
) -> None:
    """Block until the condition is true. `check` may raise if it never will be; `explain` extends the error."""
    began = time.monotonic()
    while not true():
        check()
        waited = time.monotonic() - began
        assert waited < stretched(patience), f"{what} did not happen within {waited:.0f} s: {explain()}"
        threading.Event().wait(PAUSE_S)
