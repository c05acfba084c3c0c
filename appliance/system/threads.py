# SPDX-License-Identifier: GPL-2.0-only
"""Blocking work (a disk, another process) outside of the event loop.

For work that only reads, `asyncio.to_thread` is enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Callable[[], T]) -> T:
    """Do `work` in a thread. A cancellation takes effect when it is done, because a thread cannot be stopped.

    For work that changes something: otherwise its second half would run concurrently with whatever comes next.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task})
        task.cancelled() or task.exception()  # retrieved, because there is nobody to report it to
        raise
