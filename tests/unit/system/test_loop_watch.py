# SPDX-License-Identifier: GPL-2.0-only
"""What keeps the event loop is found, named and counted; a machine without a free processor is not blamed on it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from appliance.system.loop_watch import MANY_NAMES, LoopWatch
from appliance.system.threads import to_the_end


class Machine:
    """Clocks that a test moves."""

    def __init__(self) -> None:
        self.wall = self.ran = 0.0
        self.waited = 0

    def watch(self) -> LoopWatch:
        return LoopWatch(clock=lambda: self.wall, cpu=lambda: self.ran, account=lambda: self.waited)

    def runs(self, seconds: float) -> None:
        self.wall += seconds
        self.ran += seconds

    def blocks(self, seconds: float) -> None:
        """As in a system call."""
        self.wall += seconds

    def waits(self, seconds: float) -> None:
        """For a processor."""
        self.wall += seconds
        self.waited += int(seconds * 1e9)


def during(machine: Machine, work: Callable[[], None], name: str = "guest ips1") -> LoopWatch:
    async def body() -> None:
        work()
        await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.create_task(body(), name=name)

    with machine.watch() as watch:
        asyncio.run(main())
    return watch


def test_work_and_waiting_are_told_apart(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()
    assert during(machine, lambda: machine.runs(0.04)).longest is None
    assert during(machine, lambda: machine.waits(3)).longest is None, "nobody could have run"
    for long in (machine.runs, machine.blocks):
        watch = during(machine, lambda long=long: long(0.06))  # type: ignore[misc]
        assert watch.counts == {"task guest ips1": 1}
        assert watch.longest is not None
        assert watch.longest.own == pytest.approx(0.06)
    assert "task guest ips1 blocked the event loop for 60 ms" in caplog.text
    assert "is at test_loop_watch.py:" in caplog.text


def test_the_longest_is_kept_and_names_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()

    async def body(seconds: float) -> None:
        machine.blocks(seconds)

    async def main() -> None:
        for number in range(MANY_NAMES + 20):
            await asyncio.create_task(body(0.3 if number == 5 else 0.1), name=f"task of {number}")
        for _ in range(50):
            await asyncio.create_task(body(0.1), name="task of 5")

    with machine.watch() as watch:
        asyncio.run(main())
    assert watch.longest is not None
    assert (watch.longest.what, round(watch.longest.wall, 1)) == ("task task of 5", 0.3)
    assert watch.counts["task task of 5"] == 51
    assert watch.counts["others"] == 20
    assert caplog.text.count("task of 5 kept") <= 3, "the log is not flooded"


def test_a_callback_is_named_too() -> None:
    machine = Machine()

    async def main() -> None:
        done = asyncio.Event()

        def slow() -> None:
            machine.blocks(1)
            done.set()

        asyncio.get_running_loop().call_soon(slow)
        await done.wait()

    with machine.watch() as watch:
        asyncio.run(main())
    assert list(watch.counts) == ["callback test_a_callback_is_named_too.<locals>.main.<locals>.slow"]


def test_it_is_gone_afterwards() -> None:
    before = asyncio.Handle._run
    during(Machine(), lambda: None)
    assert asyncio.Handle._run is before


def test_the_kernels_own_account() -> None:
    """A real block of the thread is its own fault, whatever else the machine does."""
    with LoopWatch() as watch:
        asyncio.run(_blocks())
    assert watch.longest is not None
    assert watch.longest.own >= 0.05


async def _blocks() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=0.2)


def test_work_in_a_thread_is_done_before_who_waits_for_it_stops() -> None:
    """A cancelled commit, or guest, must not have its second half happen beside what comes next."""
    began, go, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        began.set()
        go.wait(10)
        done.set()

    async def main() -> None:
        task = asyncio.create_task(to_the_end(work))
        await asyncio.to_thread(began.wait, 10)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done.is_set()
        assert await to_the_end(lambda: 7) == 7
        with pytest.raises(ZeroDivisionError):
            await to_the_end(lambda: 1 // 0)

    began_at = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began_at < 10
