# SPDX-License-Identifier: GPL-2.0-only
"""The flows that hops have shunted, in the kernel (steer.h, `struct shunt`).

A hop that may shunt flows has a table of its own in the map `shunts`, so it outlives bypassd with the pinned datapath,
and its size is the hop's bound. Tables are written by the datapath (a hop's tags) and by user space (its agent); the
kernel replaces an entry as a whole. Times are ns of CLOCK_MONOTONIC.
"""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass

from appliance.errors import DatapathError, RefusedError
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import ShuntKey, ShuntValue
from appliance.steering.kernel.maps import Map
from appliance.steering.kernel.objects import Kernel
from appliance.steering.kernel.shunted_flow import ShuntedFlow
from appliance.system import libbpf

_TIME, _IDLE, _COST, _USED, _ENTERED, _UNFIT, _TOO_FREQUENT, _FULL = range(8)  # fields of struct shunt_limit
_RECOVERED = 1  # field of struct lease
_USER_SPACE = 1  # field of struct shunt_epoch
Table = Map[ShuntKey, ShuntValue]


@dataclass(frozen=True)
class ShuntCounts:
    """What a hop asked for by tags: entered, and refused by cause."""

    entered: int
    unfit: int
    too_frequent: int
    full: int


@dataclass(frozen=True)
class Shunted:
    """A shunt in force. `directions`: one bit for the side that the frames come from."""

    flow: ShuntedFlow
    since: int
    until: int
    seen: int
    idle: int
    directions: int


class Shunts:
    """By the hop's number."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._outer = kernel, kernel.maps["shunts"]
        self._counting = threading.Lock()  # what may be long runs in threads

    def _open(self, hop: int) -> Table | None:
        found = self._outer.get(hop)
        try:
            return Map("shunts", libbpf.map_by_id(found.value), ShuntKey, ShuntValue) if found is not None else None
        except DatapathError:
            return None  # replaced meanwhile

    @contextmanager
    def _table(self, hop: int) -> Iterator[Table | None]:
        table = self._open(hop)
        try:
            yield table
        finally:
            if table is not None:
                table.close()

    def arrange(self, hop: int, most: int, time_ns: int, idle_ns: int, rate: int) -> None:
        """Let the hop shunt `most` flows at the same time. A table of this size stays, with its content."""
        limits = self._kernel.shunt_limits
        for field, value in ((_TIME, time_ns), (_IDLE, idle_ns), (_COST, 10**9 // rate)):
            limits.write(hop, value, field)
        with self._table(hop) as table:
            if table is not None and table.size() == most:
                return
        self._replace(hop, most)
        self._count()

    def keep_only(self, hops: Set[int]) -> None:
        """No other hop may shunt flows any more."""
        for hop in range(1, layout.MAX_HOPS):
            if hop not in hops and self._kernel.shunt_limits.read(hop, _COST):
                self._kernel.shunt_limits.write(hop, 0, _COST)
                self._outer.delete(hop)
                self._count()

    def _replace(self, hop: int, most: int) -> None:
        fd = libbpf.create_inner_hash("shunts", ctypes.sizeof(ShuntKey), ctypes.sizeof(ShuntValue), most)
        try:
            self._outer.set(hop, fd)
        finally:
            os.close(fd)

    def _recovered(self, hop: int) -> int:
        return self._kernel.leases.read(hop, _RECOVERED)

    def _count(self) -> None:
        """What the CPUs have found out about shunts is no longer valid."""
        epoch = self._kernel.shunt_epoch
        with self._counting:
            epoch.write(0, epoch.read(0, _USER_SPACE) + 1, _USER_SPACE)

    def reader(self, hop: int, now: int) -> Callable[[], list[Shunted]]:
        """What returns those in force, oldest first; a table may be long, so it can be called in a thread."""
        table, recovered = self._open(hop), self._recovered(hop)

        def read() -> list[Shunted]:
            if table is None:
                return []
            try:
                entries = list(table.items())
            finally:
                table.close()
            found = (
                Shunted(ShuntedFlow.of(key), value.since, value.until, value.seen, value.idle, value.directions)
                for key, value in entries
                if _in_force(value, recovered, now)
            )
            return sorted(found, key=lambda one: one.since)

        return read

    def enter(self, hop: int, flow: ShuntedFlow, now: int, *, time_ns: int, idle_ns: int, directions: int = 3) -> None:
        """Shunt a flow from now on; RefusedError if the hop's table is full, or it has none."""
        with self._table(hop) as table:
            if table is None:
                raise RefusedError("it may shunt no flows")
            try:
                table.set(flow.key(), ShuntValue(now, now + time_ns, now, idle_ns, directions))
            except DatapathError as error:
                if error.code != errno.E2BIG:
                    raise
                raise RefusedError(f"{table.size()} flows are shunted, which is the most") from error
        self._count()  # it may replace one of another time or direction

    def remove(self, hop: int, flow: ShuntedFlow) -> None:
        """Its frames go to the hop again."""
        self.remover(hop, [flow])()

    def remover(self, hop: int, flows: list[ShuntedFlow]) -> Callable[[], None]:
        """The same for many, as `reader`."""
        table = self._open(hop)

        def remove() -> None:
            if table is not None:
                try:
                    for flow in flows:
                        table.delete(flow.key())
                    self._count()
                finally:
                    table.close()

        return remove

    def clear(self, hop: int) -> None:
        """All of them; does nothing for a hop that may shunt none."""
        with self._table(hop) as table:
            if table is not None:
                self._replace(hop, table.size())
                self._count()

    def sweeper(self, hops: Iterable[int], now: int) -> Callable[[], None]:
        """What removes those that are over, which count against the bound until then. It has all that it needs."""
        tables = [(table, self._recovered(hop)) for hop in hops if (table := self._open(hop)) is not None]

        def sweep() -> None:
            for table, recovered in tables:
                try:
                    for key in [key for key, value in table.items() if not _in_force(value, recovered, now)]:
                        table.delete(key)
                finally:
                    table.close()

        return sweep

    def counts(self, hop: int) -> ShuntCounts:
        """Since the datapath was loaded."""
        read = self._kernel.shunt_limits.read
        return ShuntCounts(*(read(hop, field) for field in (_ENTERED, _UNFIT, _TOO_FREQUENT, _FULL)))


def _in_force(value: ShuntValue, recovered: int, now: int) -> bool:
    return bool(now < min(value.until, value.seen + value.idle) and value.since >= recovered)
