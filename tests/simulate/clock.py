# SPDX-License-Identifier: GPL-2.0-only
"""Simulated time: one heap of events in nanoseconds, and an asyncio loop on it.

Events of the same time run in the order in which they were made. An event belongs to a `Scope` (a boot, a process):
it never runs when the scope has ended, and waits while the scope is frozen.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import time
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 3600 * SECOND

NEAR = 10 * SECOND
"""While the world is at rest, whatever was planned no longer ahead than this is routine: a jump takes it along."""

_running, _run_in = asyncio._get_running_loop, asyncio._set_running_loop

T = TypeVar("T")


class KilledError(BaseException):
    """The process or machine ended during this call; no handler of the appliance runs any more."""


class Scope:
    """A unit that ends or hangs together. A scope within another ends with it."""

    __slots__ = ("_inner", "alive", "frozen", "waiting")

    def __init__(self, outer: Scope | None = None) -> None:
        self.alive: bool = outer is None or outer.alive
        self.frozen = False
        self.waiting: list[Entry] = []  # due while it was frozen
        self._inner: list[Scope] = []
        if outer is not None:
            outer._inner.append(self)

    def end(self) -> None:
        self.alive = False
        self.waiting.clear()
        for scope in self._inner:
            scope.end()
        self._inner.clear()

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self, clock: Clock) -> None:
        self.frozen = False
        waiting, self.waiting = self.waiting, []
        for entry in waiting:
            clock.push(clock.now, entry)


class Entry:
    """One event in the heap. `fixed`: it happens at its time of the plan, whatever the world does."""

    __slots__ = ("call", "fixed", "scope")

    def __init__(self, call: Callable[[], object] | None, scope: Scope | None, fixed: bool) -> None:
        self.call = call
        self.scope = scope
        self.fixed = fixed

    def cancel(self) -> None:
        self.call = None

    @property
    def live(self) -> bool:
        return self.call is not None and (self.scope is None or self.scope.alive)


class Clock:
    """The time and what is due. Only `run_next` and `jump` move it, and only forward."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.steps = 0
        self.fixed = 0  # of them, those that a jump would not have taken along
        self._heap: list[tuple[int, int, Entry]] = []
        self._made = 0

    def at(self, when: int, call: Callable[[], object], scope: Scope | None = None, *, fixed: bool = False) -> Entry:
        """Schedule `call` at a time; a past time means as soon as possible."""
        now = self.now
        entry = Entry(call, scope, fixed or when - now > NEAR)
        self._made = number = self._made + 1
        heapq.heappush(self._heap, (when if when > now else now, number, entry))
        return entry

    def after(self, delay: int, call: Callable[[], object], scope: Scope | None = None) -> Entry:
        return self.at(self.now + delay, call, scope)

    def push(self, when: int, entry: Entry) -> None:
        self._made += 1
        heapq.heappush(self._heap, (max(when, self.now), self._made, entry))

    def run_next(self) -> None:
        """Run the next event. IndexError: nothing is due, ever."""
        when, _, entry = heapq.heappop(self._heap)
        call, scope = entry.call, entry.scope
        if call is None or (scope is not None and not scope.alive):
            return
        if scope is not None and scope.frozen:
            scope.waiting.append(entry)
            return
        self.now = when
        self.steps += 1
        self.fixed += entry.fixed
        entry.call = None
        call()

    def quiet_until(self) -> int:
        """How far a world at rest may jump: to the next event that is not routine."""
        return min((when for when, _, entry in self._heap if entry.fixed and entry.live), default=self.now)

    def jump(self, to: int) -> int:
        """Move on, and take along what is routine; by how much."""
        by = to - self.now
        self._heap = [
            (when if entry.fixed else when + by, number, entry) for when, number, entry in self._heap if entry.live
        ]
        heapq.heapify(self._heap)
        self.now = to
        return by


_present: list[Clock] = []


def _monotonic_ns() -> int:
    return _present[-1].now


def _monotonic() -> float:
    return _present[-1].now / 1e9


@contextmanager
def installed(clock: Clock) -> Iterator[None]:
    """In this block `time.monotonic` and `time.monotonic_ns` return the simulated time, in the whole process."""
    real = time.monotonic, time.monotonic_ns
    _present.append(clock)
    time.monotonic, time.monotonic_ns = _monotonic, _monotonic_ns
    try:
        yield
    finally:
        _present.pop()
        time.monotonic, time.monotonic_ns = real


def _drop(coroutine: Coroutine[Any, Any, object]) -> None:
    """End a coroutine where it is. One that wants to wait for something meanwhile is ended there as well.

    Not by `close`: it leaves an inner coroutine that waits in its `finally` behind, which complains when it is freed.
    """
    for _ in range(100):
        try:
            coroutine.throw(KilledError())
        except BaseException:
            return
    raise AssertionError(f"{coroutine} does not end")


class Loop(asyncio.BaseEventLoop):
    """The event loop of one simulated process. What would run in a thread runs at once, `thread` later.

    `failed` gets what nobody handled.
    """

    def __init__(self, clock: Clock, scope: Scope, failed: Callable[[BaseException], None]) -> None:
        self._clock, self._scope, self._failed = clock, scope, failed
        super().__init__()
        self.thread: Callable[[], int] = lambda: 0  # how long work in a thread takes
        self.waiting: Callable[[int], bool] = lambda number: False  # whether a descriptor is readable already
        self.readers: dict[int, Callable[[], object]] = {}
        self.signals: dict[int, Callable[[], object]] = {}
        self._tasks: list[asyncio.Task[Any]] = []

    def _enter(self, call: Callable[[], object]) -> None:
        before = _running()
        _run_in(self)
        try:
            call()
        except KilledError:
            pass
        except Exception as error:
            self._failed(error)
        finally:
            _run_in(before)

    def inside(self, call: Callable[[], object], delay: int = 0) -> None:
        """Run something in this process, as a callback of its loop."""
        self._clock.after(delay, partial(self._enter, call), self._scope)

    def close(self) -> None:
        """The process has ended: none of its code continues, and its coroutines end where they are."""
        while self._tasks:
            task = self._tasks.pop()
            coroutine = task.get_coro()
            if not task.done() and isinstance(coroutine, Coroutine):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                self._enter(partial(_drop, coroutine))

    # -- what asyncio needs of a loop

    def time(self) -> float:
        return self._clock.now / 1e9

    def get_debug(self) -> bool:
        return False

    def is_closed(self) -> bool:
        return not self._scope.alive

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._clock.at(self._clock.now, partial(self._run, handle), self._scope)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._clock.at(round(when * 1e9), partial(self._run, handle), self._scope)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def _run(self, handle: asyncio.Handle) -> None:
        if not handle.cancelled():
            self._enter(handle._run)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self,
        coro: Coroutine[Any, Any, T] | Generator[Any, None, T],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[T]:
        assert isinstance(coro, Coroutine)
        if not self._scope.alive:
            coro.close()
            raise KilledError
        task: asyncio.Task[T] = asyncio.Task(coro, loop=self, name=name, context=context)
        if len(self._tasks) > 200:
            self._tasks = [one for one in self._tasks if not one.done()]
        self._tasks.append(task)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except BaseException as error:
                if not self._scope.alive:
                    return  # the power went in the middle of it
                if not isinstance(error, Exception):
                    raise
                future.set_exception(error)
            else:
                future.set_result(result)

        self.inside(work, self.thread())
        return future

    def add_reader(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        number = fd if isinstance(fd, int) else fd.fileno()
        self.readers[number] = lambda: callback(*args)
        if self.waiting(number):
            self._clock.after(0, lambda: self.readable(number), self._scope)

    def remove_reader(self, fd: Any) -> bool:
        return self.readers.pop(fd if isinstance(fd, int) else fd.fileno(), None) is not None

    def readable(self, fd: int) -> None:
        """Notify the reader of this descriptor, if there is one, as soon as the process runs."""
        if self._scope.frozen:
            self.inside(partial(self.readable, fd))
        elif self._scope.alive and (reader := self.readers.get(fd)):
            self._enter(reader)

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        self.signals[sig] = lambda: callback(*args)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if self._scope.alive and error is not None:
            self._failed(error)
