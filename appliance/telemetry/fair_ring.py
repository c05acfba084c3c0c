# SPDX-License-Identifier: GPL-2.0-only
"""A bounded list that no single source can take over. Pure.

When a plain ring is full, whoever writes most pushes everybody else out: a guest that drains itself in a loop would
leave nothing of yesterday's power cut. Here the source that has most loses its oldest item.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from heapq import merge
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


def share(weights: Iterable[int], room: int) -> float:
    """What the largest sources may keep each so that all fit: those that have less keep everything."""
    left = float(room)
    ordered = sorted(weights)
    for index, weight in enumerate(ordered):
        fair = left / (len(ordered) - index)
        if weight > fair:
            return fair
        left -= weight
    return float(room)


def fair(items: Sequence[T], room: int, source: Callable[[T], Hashable], size: Callable[[T], int]) -> list[T]:
    """What fits of a long list, in its order: of each source the newest, up to its share."""
    weights: dict[Hashable, int] = {}
    sizes = [size(item) for item in items]
    for item, weight in zip(items, sizes, strict=True):
        weights[source(item)] = weights.get(source(item), 0) + weight
    most = share(weights.values(), room)
    kept: list[T] = []
    used: dict[Hashable, float] = {}
    for item, weight in zip(reversed(items), reversed(sizes), strict=True):
        owner = source(item)
        used[owner] = used.get(owner, 0) + weight
        if used[owner] <= most:
            kept.append(item)
    kept.reverse()
    return kept


class FairRing(Generic[T]):
    """At most `room` items, in the order in which they came. `size` weighs an item; left out, each weighs 1."""

    def __init__(
        self,
        room: int,
        source: Callable[[T], Hashable],
        size: Callable[[T], int] = lambda _: 1,
        items: Iterable[T] = (),
    ) -> None:
        self._room, self._source, self._size = room, source, size
        self._by_source: dict[Hashable, deque[tuple[int, T]]] = {}
        self._weights: dict[Hashable, int] = {}
        self._numbers = count()
        self._total = self._count = 0
        for item in items:
            self.append(item)

    def __len__(self) -> int:
        return self._count

    def append(self, item: T) -> None:
        """Add an item; what then is too much goes, the oldest first, from the source that has most."""
        source, size = self._source(item), self._size(item)
        self._by_source.setdefault(source, deque()).append((next(self._numbers), item))
        self._weights[source] = self._weights.get(source, 0) + size
        self._total += size
        self._count += 1
        while self._total > self._room and self._count > 1:
            self._drop_oldest_of(
                max(self._weights, key=lambda each: (self._weights[each], -self._by_source[each][0][0]))
            )

    def _drop_oldest_of(self, source: Hashable) -> None:
        items = self._by_source[source]
        size = self._size(items.popleft()[1])
        self._weights[source] -= size
        self._total -= size
        self._count -= 1
        if not items:
            del self._by_source[source], self._weights[source]

    def items(self) -> list[T]:
        """All of them, oldest first."""
        return [item for _, item in merge(*self._by_source.values(), key=lambda pair: pair[0])]

    def take(self) -> list[T]:
        """All of them, oldest first; the ring is empty then."""
        everything = self.items()
        self._by_source.clear()
        self._weights.clear()
        self._total = self._count = 0
        return everything
