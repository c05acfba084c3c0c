# SPDX-License-Identifier: GPL-2.0-only
"""The order of the tests: the fastest to fail run first, and tests that share a board run together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

KINDS = ("unit", "datapath", "image")
TESTS = Path(__file__).parents[1]


class Item(Protocol):
    """The part of pytest's items that is used."""

    @property
    def path(self) -> Path:
        """Of the test's file."""

    @property
    def nodeid(self) -> str:
        """As pytest names the test."""


T = TypeVar("T", bound=Item)


def _uses(item: Item, fixture: str) -> bool:
    return fixture in getattr(item, "fixturenames", ())


def by_kind(items: list[T]) -> None:
    """Unit tests first, then datapath, then image; within each kind in the order found."""

    def kind(item: Item) -> int:
        found = item.path.relative_to(TESTS).parts[0] if item.path.is_relative_to(TESTS) else ""
        return KINDS.index(found) if found in KINDS else -1

    items.sort(key=kind)


def together(items: list[T], fixture: str, folder: Path) -> None:
    """Of the items in `folder`, those that use `fixture` first; all other items keep their positions."""
    places = [place for place, item in enumerate(items) if item.path.is_relative_to(folder)]
    moved = sorted((items[place] for place in places), key=lambda item: not _uses(item, fixture))
    for place, item in zip(places, moved, strict=True):
        items[place] = item


def last(items: Sequence[Item], fixture: str) -> str:
    """The node id of the last item that uses `fixture`; empty if none does."""
    return next((item.nodeid for item in reversed(items) if _uses(item, fixture)), "")
