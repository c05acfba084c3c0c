# SPDX-License-Identifier: GPL-2.0-only
"""What a part of bypassd is, and how the supervisor knows that every part is alive.

A part (links, steering, guests, control) is started, run and stopped by supervisor/parts.py, in the order given by
supervisor/table.py and in reverse. While it runs it checks in: it calls the `Alive` that it was given, from the code
that does its work, at least once every `patience`. One module (supervisor/pulse.py) checks in with the keeper and
renews the datapath's dead-man lease, only while no part is late. So one hung part is enough to stop both, which is
intended: no second thread keeps reporting that all is well.

`CheckIns` lives as long as bypassd; a part's entry lives from its first `watch` until `forget`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Protocol

Alive = Callable[[], None]
"""A part calls this to check in. It costs one clock read and one store."""

PATIENCE_NS = 1_000_000_000
"""The default patience of a part: 1 s."""


class Part(Protocol):
    """One part of bypassd.

    `start` brings up what the part owns (adopting what an earlier bypassd left) and returns when it works. It may be
    called again after a failure and after `stop`. `run` works until it is cancelled, and checks in. `stop` ends what
    must not outlive bypassd and leaves alone what must (guests, pins). It is called after `run` has ended, also when
    `start` failed half way, and must not raise.

    A `BypassError` from `start` or `run` is an expected failure with one clear line: the supervisor shows it with the
    part's `fault` as cause, and starts the part again with back-off. Every other exception is a bug, and what the part
    left behind is unknown: bypassd exits, and the keeper starts a fresh one that adopts datapath and guests.
    """

    @property
    def name(self) -> str:
        """One word for log lines and `show status`."""
        ...

    @property
    def patience(self) -> int:
        """How long (ns) the part may go without checking in before it counts as hung."""
        ...

    async def start(self) -> None:
        """Bring the part up; BypassError says in one line why it cannot."""
        ...

    async def run(self, alive: Alive) -> None:
        """Work until cancelled, calling `alive` at least once every `patience`."""
        ...

    async def stop(self) -> None:
        """End what must not outlive bypassd."""
        ...


@dataclass
class _Entry:
    patience: int
    last: int


class CheckIns:
    """When each part checked in last. Times are nanoseconds of CLOCK_MONOTONIC."""

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._entries: dict[str, _Entry] = {}

    def watch(self, name: str, patience: int) -> Alive:
        """Expect check-ins of `name` from now on; the returned function is the check-in."""
        entry = _Entry(patience, self._clock())
        self._entries[name] = entry

        def alive() -> None:
            entry.last = self._clock()

        return alive

    def forget(self, name: str) -> None:
        """Stop expecting check-ins of `name` (it is stopped, or waits for its restart)."""
        self._entries.pop(name, None)

    def late(self, now: int) -> list[tuple[str, int]]:
        """The parts that are late, with the time since their last check-in (ns), the longest first."""
        silent = [
            (name, now - entry.last) for name, entry in self._entries.items() if now - entry.last > entry.patience
        ]
        return sorted(silent, key=lambda item: -item[1])

    def patience(self, name: str) -> int:
        """How long (ns) a part may be silent. KeyError: it is not watched."""
        return self._entries[name].patience

    def ages(self, now: int) -> dict[str, int]:
        """Nanoseconds since each part's last check-in."""
        return {name: now - entry.last for name, entry in self._entries.items()}


async def happens(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for `event`, at most so long (None: without limit); whether it happened. It stays set."""
    try:
        async with asyncio.timeout(seconds):  # not wait_for: before Python 3.12 it can swallow a cancellation
            await event.wait()
    except TimeoutError:
        return False
    return True


async def wait_alive(event: asyncio.Event, alive: Alive, every: float) -> None:
    """Wait for `event`, checking in every `every` seconds: for parts that mostly wait."""
    while not event.is_set():
        alive()
        await happens(event, every)
    alive()


async def in_thread(work: Coroutine[object, object, None], alive: Alive, patience: int) -> None:
    """Do `work` that waits for a thread, and keep checking in: the kernel may block the thread for seconds."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            alive()
            await asyncio.wait({task}, timeout=patience / 4e9)
    finally:
        task.cancel()
    await task
