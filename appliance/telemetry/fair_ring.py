# SPDX-License-Identifier: GPL-2.0-only
"""A bounded list that no single source can take over. Pure.

In a plain ring, the most active source displaces all others: a guest that drains itself in a loop would erase
yesterday's power cut. Here the source with the most items loses its oldest one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import count
from typing import Generic, TypeVar

T = TypeVar("T")


def share(weights: Iterable[int], room: int) -> float:
    """The share that each of the largest sources may keep so that all fit; sources with less keep everything."""
    left = float(room)
    ordered = sorted(weights)
    for index, weight in enumerate(ordered):
        fair = left / (len(ordered) - index)
        if weight > fair:
            return fair
        left -= weight
    return float(room)


def fair(items: Sequence[T], room: int, source: Callable[[T], Hashable], size: Callable[[T], int]) -> list[T]:
    """The items of a long list that fit, in order: the newest of each source, up to its share."""
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
    """At most `room` items, in order of arrival. `size` gives an item's weight; by default each weighs 1."""

    def __init__(
        self,
        room: int,
        source: Callable[[T], Hashable],
        size: Callable[[T], int] = lambda _: 1,
        items: Iterable[T] = (),
    ) -> None:
        self._room, self._source, self._size = room, source, size
        self._items: dict[int, T] = {}  # by a number that only grows
        self._by_source: dict[Hashable, deque[int]] = {}
        self._weights: dict[Hashable, int] = {}
        self._numbers = count()
        self._total = 0
        for item in items:
            self.append(item)

    def __len__(self) -> int:
        return len(self._items)

    def append(self, item: T) -> None:
        """Add an item; to make room, the oldest items of the source that has most are dropped."""
        number, source, size = next(self._numbers), self._source(item), self._size(item)
        self._items[number] = item
        self._by_source.setdefault(source, deque()).append(number)
        self._weights[source] = self._weights.get(source, 0) + size
        self._total += size
        while self._total > self._room and len(self._items) > 1:
            self._drop_oldest_of(max(self._weights, key=self._weight_and_age))

    def _weight_and_age(self, source: Hashable) -> tuple[int, int]:
        return self._weights[source], -self._by_source[source][0]

    def _drop_oldest_of(self, source: Hashable) -> None:
        numbers = self._by_source[source]
        size = self._size(self._items.pop(numbers.popleft()))
        self._weights[source] -= size
        self._total -= size
        if not numbers:
            del self._by_source[source], self._weights[source]

    def items(self) -> list[T]:
        """All items, oldest first."""
        return list(self._items.values())

    def take(self) -> list[T]:
        """Remove and return all items, oldest first."""
        everything = self.items()
        self._items.clear()
        self._by_source.clear()
        self._weights.clear()
        self._total = 0
        return everything
