# SPDX-License-Identifier: GPL-2.0-only
"""Detects what blocks the event loop: a callback or the step of a task that takes longer than LIMIT_S.

While one runs, nothing else does: no lease is renewed, no check-in is made. asyncio's own debug mode finds these too,
but makes everything several times slower; this hook costs two clock readings for each callback (a microsecond).

Time in which the process waited for a processor is not the callback's fault; the kernel's account of the thread
(`schedstat`) shows it, where there is one. Lives as long as the loop; one at a time in a process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from appliance.quota import Quota

LIMIT_S: Final = 0.05
"""Nothing may block the loop for longer: half of the pulse."""
MANY_NAMES: Final = 100  # of tasks that are counted separately
_LOGGED_PER_S, _LOGGED_BURST = 0.1, 3  # log lines about each task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stall:
    """`what` blocked the loop for `wall` seconds; it ran for `cpu` of them and waited `waited` for a processor."""

    what: str
    where: str
    wall: float
    cpu: float
    waited: float

    @property
    def own(self) -> float:
        """The seconds for which it is responsible: running, or waiting for a disk, a lock or another process."""
        return max(self.cpu, self.wall - self.waited)

    def __str__(self) -> str:
        spent = f"ran {self.cpu * 1e3:.0f} ms, waited {self.waited * 1e3:.0f} ms for a processor"
        return f"{self.what} blocked the event loop for {self.wall * 1e3:.0f} ms ({spent}){self.where}"


def _waited() -> int | None:
    """How long this thread has waited for a processor since it began, in ns."""
    try:
        with open("/proc/thread-self/schedstat", encoding="ascii") as file:
            return int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return None


@dataclass
class LoopWatch:
    """See the module. `account` reads how long (ns) the thread has waited for a processor; None: unknown."""

    limit: float = LIMIT_S
    clock: Callable[[], float] = time.monotonic
    cpu: Callable[[], float] = time.thread_time
    account: Callable[[], int | None] = _waited
    counts: Counter[str] = field(default_factory=Counter)
    longest: Stall | None = None
    """The stall with the longest time of its own."""
    _before: int = 0
    _original: Callable[[asyncio.Handle], None] | None = None
    _quota: Quota = field(default_factory=lambda: Quota(_LOGGED_PER_S, _LOGGED_BURST))

    def __enter__(self) -> LoopWatch:
        """Watch every loop of this process from now on."""
        self._original = original = asyncio.Handle._run
        clock, cpu, limit = self.clock, self.cpu, self.limit

        def run(handle: asyncio.Handle) -> None:
            ran, began = cpu(), clock()
            original(handle)
            if (took := clock() - began) > limit:
                self._stalled(handle, took, cpu() - ran)

        asyncio.Handle._run = run  # type: ignore[assignment, method-assign]
        self.note_account()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._original is not None
        asyncio.Handle._run = self._original  # type: ignore[assignment, method-assign]

    def note_account(self) -> None:
        """Store the kernel's account. Called often, so that little of it is charged to the next stall."""
        self._before = self.account() or 0

    def _stalled(self, handle: asyncio.Handle, wall: float, cpu: float) -> None:
        before = self._before
        self.note_account()
        stall = Stall(*_named(handle), wall, cpu, min(max(0.0, wall - cpu), (self._before - before) / 1e9))
        if stall.own <= self.limit:
            return  # the machine had no processor for us
        if stall.what in self.counts or len(self.counts) < MANY_NAMES:
            self.counts[stall.what] += 1
        else:
            self.counts["others"] += 1
        if self.longest is None or stall.own > self.longest.own:
            self.longest = stall
        if self._quota.allow(time.monotonic_ns(), stall.what):
            log.warning("%s", stall)


def _named(handle: asyncio.Handle) -> tuple[str, str]:
    """A short, recurring name for what ran, and its present position in the code."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    task = getattr(callback, "__self__", None)
    if not isinstance(task, asyncio.Task):
        name = getattr(callback, "__qualname__", "") or type(callback).__name__
        return f"callback {name}", ""
    frames = task.get_stack(limit=1)
    function, name = getattr(task.get_coro(), "__qualname__", "?"), task.get_name()
    where = f"; {function}"
    if frames:
        where += f" is at {Path(frames[0].f_code.co_filename).name}:{frames[0].f_lineno}"
    return f"task {function if name.startswith('Task-') else name}", where
