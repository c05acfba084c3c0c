# SPDX-License-Identifier: GPL-2.0-only
"""All hops of one kind: which there are, from the commit that adds one until the one that removes it is done.

Owns the hops and their tasks while the part runs; leases, run folders and what a hop is made of live longer. The caller
(the part) makes a hop and removes what belongs to it; the order of both, and what happens when a commit comes while the
part starts or while a hop of the same name is still being removed, are decided here. A commit calls `add_new`, `apply`
and `remove_old`, in this order; one that is rolled back calls the first two again with the old configuration.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar

from appliance.errors import GuestError, NotFoundError
from appliance.hop.hop import Hop

CHECK_IN_S = 0.2
"""How often it is looked whether a hop that is being removed has ended."""
REMOVE_S = 30.0
"""How long a commit waits for the end of a removed hop before it adds one of the same name."""


class Named(Protocol):
    """A hop's table in the configuration."""

    @property
    def name(self) -> str:
        """The hop's name."""
        ...


class Living(Protocol):
    """A hop with what it is made of."""

    hop: Hop

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def idle(self) -> bool:
        """Nothing of it runs, and nothing is being started or ended."""
        ...

    def autostart(self) -> None:
        """bypassd starts, or the hop is new: begin as the configuration and the last order say."""

    def stop(self) -> object:
        """Take its traffic away, then end it; `idle` says when that is done."""

    async def run(self) -> None:
        """Look after it until cancelled, which leaves it working."""


L = TypeVar("L", bound=Living)
C = TypeVar("C", bound=Named)


class Hops(Generic[L, C]):
    """See the module. `kind`: "guest" or "remote"."""

    def __init__(
        self,
        kind: str,
        *,
        make: Callable[[C], Awaitable[L]],
        forget: Callable[[L], Awaitable[object]],
        removed: Callable[[L], object],
    ) -> None:
        """`forget` removes everything that belongs to a hop, which has ended; `removed` hears of it afterwards."""
        self._kind, self._make, self._forget, self._removed = kind, make, forget, removed
        self._all: dict[str, L] = {}
        self._wanted: Sequence[C] = ()
        self._tasks: asyncio.TaskGroup | None = None
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._removing: dict[str, asyncio.Task[None]] = {}
        self.ready = False
        """The hops exist; before `started`, and after the part has failed, a commit changes nothing here."""

    def __iter__(self) -> Iterator[L]:
        return iter(list(self._all.values()))  # the caller may wait between two of them

    def get(self, name: str) -> L | None:
        """The hop with this name; None if there is none."""
        return self._all.get(name)

    def named(self, name: object) -> L:
        """The hop with this name; NotFoundError if there is none."""
        try:
            return self._all[str(name)]
        except KeyError:
            known = ", ".join(self._all) or "none"
            raise NotFoundError(f'there is no {self._kind} "{name}"; there is: {known}') from None

    # Life

    async def load(self, wanted: Sequence[C]) -> None:
        """The part starts: make the hops. BypassError: one cannot be made."""
        self._all, self._wanted = {}, wanted
        self._lives, self._removing = {}, {}
        for config in wanted:
            self._all[config.name] = await self._make(config)

    def started(self) -> None:
        """The part has adopted what an earlier bypassd left: from now on commits count."""
        self.ready = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.TaskGroup]:
        """Run all hops until the end of the block, in a group of tasks that others may join."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._lives, self._removing = {}, {}
                for one in self._all.values():
                    self._live(one)
                self._remove_others(self._wanted)  # of a commit that came before this
                yield self._tasks
        finally:
            self.ready, self._tasks = False, None

    def _live(self, one: L) -> None:
        assert self._tasks is not None
        one.autostart()
        self._lives[one.name] = self._tasks.create_task(one.run(), name=f"{self._kind} {one.name}")

    def look(self, now: int) -> None:
        """Look at each hop, often (`Hop.look`)."""
        for one in self._all.values():
            one.hop.look(now)

    # Another configuration

    async def add_new(self, wanted: Sequence[C]) -> None:
        """Make the hops that are not there yet. GuestError: one of this name is still being removed."""
        for config in wanted:
            if config.name in self._removing:
                try:
                    async with asyncio.timeout(REMOVE_S):
                        await asyncio.wait({self._removing[config.name]})
                except TimeoutError:
                    text = f"a {self._kind} of this name is still being removed: try again later"
                    raise GuestError(text) from None
            if config.name not in self._all:
                self._all[config.name] = await self._make(config)

    async def apply(self, wanted: Sequence[C], change: Callable[[L, C], Awaitable[None]]) -> None:
        """Have every hop follow its table, by `change`, and start those that are new.

        Those that are not wanted go on, until `remove_old`; one that has never run is removed at once.
        """
        self._wanted = wanted
        for config in wanted:
            if config.name not in self._all:
                self._all[config.name] = await self._make(config)
            await change(self._all[config.name], config)
            if self._tasks is not None and config.name not in self._lives:
                self._live(self._all[config.name])
        names = [config.name for config in wanted]
        if self._tasks is not None:
            known = {*names, *self._lives, *self._removing}
            for name in [name for name in self._all if name not in known]:
                await self._forget(self._all.pop(name))  # it was added by a commit that was rolled back
        order = [*names, *(name for name in self._all if name not in names)]
        self._all = {name: self._all[name] for name in order}

    def remove_old(self, wanted: Sequence[C]) -> None:
        """The commit is final: end and remove the hops that are not wanted, one beside the other."""
        if self._tasks is not None:
            self._remove_others(wanted)

    def _remove_others(self, wanted: Iterable[C]) -> None:
        assert self._tasks is not None
        names = {config.name for config in wanted}
        for name in [name for name in self._all if name not in names and name not in self._removing]:
            self._removing[name] = self._tasks.create_task(self._remove(self._all[name]), name=f"remove {name}")

    async def _remove(self, one: L) -> None:
        """End a hop for good, and remove everything that belongs to it."""
        one.stop()
        while not one.idle:
            await asyncio.sleep(CHECK_IN_S)
        life = self._lives.pop(one.name, None)
        if life is not None:
            life.cancel()
            await asyncio.wait({life})
        one.hop.lease.revoke()
        await self._forget(one)
        self._all.pop(one.name, None)
        self._removed(one)
        self._removing.pop(one.name, None)
