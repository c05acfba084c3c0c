# SPDX-License-Identifier: GPL-2.0-only
"""Everything that is served to other appliances, and its tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from appliance.config.schema.model import Config, Segment
from appliance.config.schema.model import Serve as Table
from appliance.config.schema.served import segments
from appliance.errors import NotFoundError
from appliance.remote.serve import Serve


class Serves:
    """See the module. `make`: from a table and its segment of the datapath."""

    def __init__(self, make: Callable[[Table, Segment], Serve]) -> None:
        self._make = make
        self._all: dict[str, Serve] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._lives: dict[str, asyncio.Task[None]] = {}
        self._config = Config()

    def __iter__(self) -> Iterator[Serve]:
        return iter(list(self._all.values()))

    def named(self, name: object) -> Serve:
        """The one with this name; NotFoundError if there is none."""
        try:
            return self._all[str(name)]
        except KeyError:
            known = ", ".join(self._all) or "none"
            raise NotFoundError(f'there is no serve "{name}"; there is: {known}') from None

    def load(self, config: Config) -> None:
        """The part starts: make them, and adopt the tunnels of an earlier bypassd."""
        self._all = {}
        self.follow(config)
        for one in self._all.values():
            one.adopt()

    @contextmanager
    def running(self, tasks: asyncio.TaskGroup) -> Iterator[None]:
        """Run all of them until the end of the block."""
        self._tasks, self._lives = tasks, {}
        self.follow(self._config)
        try:
            yield
        finally:
            self._tasks = None

    def follow(self, config: Config) -> None:
        """After the switch of the policy: each follows its table; new ones are made and run. Others wait, withdrawn."""
        self._config = config
        of = {segment.name: segment for segment in segments(config)}
        groups = {group.name: group.members for group in config.group}
        remotes = [remote.name for remote in config.remote]
        for table in config.serve:
            one = self._all.get(table.name)
            if one is None:
                one = self._all[table.name] = self._make(table, of[table.name])
            one.reconfigure(table, of[table.name], groups, remotes)
            if self._tasks is not None and table.name not in self._lives:
                self._lives[table.name] = self._tasks.create_task(one.run(), name=f"serve {table.name}")

    def look(self, now: int) -> None:
        """Look at each, often."""
        for one in self._all.values():
            one.look(now)

    async def withdraw(self, new: Config) -> None:
        """Before the switch: those that `new` does not have return no more frames."""
        wanted = {table.name for table in new.serve}
        for one in self:
            if one.name not in wanted:
                await one.withdraw()

    async def remove_old(self, new: Config) -> list[str]:
        """The commit is final: remove those that `new` does not have; returns their names."""
        wanted = {table.name for table in new.serve}
        gone = [name for name in self._all if name not in wanted]
        for name in gone:
            life = self._lives.pop(name, None)
            if life is not None:
                life.cancel()
                await asyncio.wait({life})
            await self._all.pop(name).tunnels.take_down()
        return gone
