# SPDX-License-Identifier: GPL-2.0-only
"""Parts as a declared list, their order by what each one needs, and the runner that keeps them alive.

A part is started when everything that it needs has been tried once: a part that fails is retried with back-off while
the others go on, because a console without a datapath is better than no console. Parts are stopped in reverse order. An
expected failure (BypassError) is shown as the part's fault; every other exception ends bypassd.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from appliance import progress
from appliance.errors import BypassError
from appliance.part import CheckIns, Part

log = logging.getLogger(__name__)

RETRY_FIRST_S, RETRY_LAST_S = 0.5, 10.0

Given = TypeVar("Given")
"""What parts are made from."""


@dataclass(frozen=True)
class Entry(Generic[Given]):
    """One part of the list.

    `make` returns the part, which the runner then starts, runs and stops; or None, for a step with nothing to run
    afterwards. `needs` must be in the list too; `after` only orders entries that are. With `configured` it waits for a
    valid configuration, and until there is one no other part waits for it.
    """

    name: str
    make: Callable[[Given], Awaitable[Part | None]]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    configured: bool = False


def pick(entries: Iterable[Entry[Given]], names: Iterable[str]) -> tuple[Entry[Given], ...]:
    """The entries of a role. ValueError: there is no entry of that name."""
    table = {entry.name: entry for entry in entries}
    wanted = set(names)
    if unknown := sorted(wanted - table.keys()):
        raise ValueError(f"no such part: {', '.join(unknown)}")
    return tuple(entry for name, entry in table.items() if name in wanted)


def order(entries: Sequence[Entry[Given]]) -> tuple[Entry[Given], ...]:
    """The order of start: every entry after what it needs, and otherwise as listed.

    ValueError: a duplicate name, a need that is not in the list, or a cycle.
    """
    names = [entry.name for entry in entries]
    if double := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"listed twice: {', '.join(double)}")
    for entry in entries:
        if missing := [need for need in entry.needs if need not in names]:
            raise ValueError(f"part {entry.name} needs {', '.join(missing)}, which is not in the list")
    left, placed = list(entries), list[Entry[Given]]()
    while left:
        done = {entry.name for entry in placed}
        ready = next((e for e in left if all(name in done for name in _before(e) if name in names)), None)
        if ready is None:
            raise ValueError(f"parts need each other in a cycle: {', '.join(entry.name for entry in left)}")
        left.remove(ready)
        placed.append(ready)
    return tuple(placed)


def _before(entry: Entry[Given]) -> tuple[str, ...]:
    return (*entry.needs, *entry.after)


class PartRunner(Generic[Given]):
    """Starts, restarts and stops the parts of a list, and keeps `states` and `faults` (by part) up to date."""

    def __init__(
        self,
        entries: Sequence[Entry[Given]],
        given: Given,
        check_ins: CheckIns,
        *,
        states: dict[str, str],
        faults: dict[str, str],
        wake: Callable[[], None],
    ) -> None:
        """`wake` is called when a part came up or failed. ValueError as in `order`."""
        self._entries, self._given, self._check_ins, self._wake = order(entries), given, check_ins, wake
        self._states, self._faults = states, faults
        self._table = {entry.name: entry for entry in self._entries}
        self._tried = {name: asyncio.Event() for name in self._table}
        self._made: dict[str, Part] = {}
        self._configured = asyncio.Event()

    def configured(self) -> None:
        """There is a valid configuration: continue with what waits for it."""
        self._configured.set()

    def start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start everything in `group`, in order; returns the tasks, to be cancelled before `stop`."""
        return [group.create_task(self._bring_up(entry), name=entry.name) for entry in self._entries]

    def coming(self) -> bool:
        """Whether a part is on its way up for the first time: not those that wait for a configuration, nor those that
        wait for one that has failed."""
        return any(
            not self._tried[entry.name].is_set()
            and (self._configured.is_set() or not entry.configured)
            and not any(name in self._faults for name in entry.needs)
            for entry in self._entries
        )

    async def all_tried(self) -> None:
        """Wait until every part has been tried once."""
        for tried in self._tried.values():
            await tried.wait()

    async def stop(self) -> None:
        """Stop what was started, in reverse order. Never raises."""
        for entry in reversed(self._entries):
            part = self._made.get(entry.name)
            if part is None:
                continue
            try:
                await part.stop()
            except Exception:
                log.exception("part %s did not stop", entry.name)

    async def _bring_up(self, entry: Entry[Given]) -> None:
        if entry.configured:
            await self._configured.wait()
        for name in _before(entry):
            before = self._table.get(name)
            if before is not None and (self._configured.is_set() or not before.configured):
                await self._tried[name].wait()
        part = await entry.make(self._given)
        if part is None:
            self._tried[entry.name].set()
        else:
            self._made[entry.name] = part
            await self._keep(entry.name, part)

    async def _keep(self, name: str, part: Part) -> None:
        """Start and run one part, and restart it after an expected failure."""
        delay = RETRY_FIRST_S
        while True:
            self._states[name] = "starting"
            try:
                await part.start()
                self._faults.pop(name, None)
                self._states[name] = "running"
                self._tried[name].set()
                progress.step()
                self._wake()
                began = time.monotonic()
                await part.run(self._check_ins.watch(name, part.patience))
                raise RuntimeError(f"part {name} ended by itself")
            except BypassError as error:
                self._fault(name, str(error))
            finally:
                self._check_ins.forget(name)
            self._tried[name].set()
            await part.stop()
            if self._states[name] == "running" and time.monotonic() - began > RETRY_LAST_S:
                delay = RETRY_FIRST_S
            self._states[name] = "failed"
            await asyncio.sleep(delay)  # no event reports when the cause in the kernel or a file is gone
            delay = min(2 * delay, RETRY_LAST_S)

    def _fault(self, name: str, text: str) -> None:
        if self._faults.get(name) != text:
            log.error("part %s: %s", name, text)
        self._faults[name] = text
        self._wake()
