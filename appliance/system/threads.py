# SPDX-License-Identifier: GPL-2.0-only
"""Work that blocks (a disk, another process), outside of the event loop.

`asyncio.to_thread` does for what only reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def to_the_end(work: Callable[[], T]) -> T:
    """Do `work` in a thread. Who is cancelled meanwhile stops when it is done, because a thread cannot be stopped.

    For work that changes something: else its second half would happen beside whatever comes next.
    """
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if not task.done():
            await asyncio.wait({task})
        task.cancelled() or task.exception()  # retrieved: nobody is told of it any more
        raise
