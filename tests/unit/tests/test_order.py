# SPDX-License-Identifier: GPL-2.0-only
"""The order of the tests, and which one is the last on the appliance's board."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from tests.support import order


@dataclass
class Item:
    """As pytest has it."""

    path: Path
    fixturenames: list[str] = field(default_factory=list)

    @property
    def nodeid(self) -> str:
        return self.path.name


def item(path: str, *fixtures: str) -> Item:
    return Item(order.TESTS / path, list(fixtures))


def names(items: list[Item]) -> list[str]:
    return [item.path.name for item in items]


def test_unit_tests_run_first_and_image_tests_last() -> None:
    items: list[Item] = [item("image/a"), item("datapath/b"), item("unit/c"), item("image/d"), item("unit/e")]
    order.by_kind(items)
    assert names(items) == ["c", "e", "b", "a", "d"]


def test_who_shares_the_board_runs_together_and_the_last_is_known() -> None:
    items: list[Item] = [
        item("unit/u"),
        item("image/own"),
        item("image/first", "board", "booted"),
        item("image/other"),
        item("image/second", "booted"),
    ]
    order.together(items, "booted", order.TESTS / "image")
    assert names(items) == ["u", "first", "second", "own", "other"]
    assert order.last(items, "booted") == "second"
    assert order.last(items[:1], "booted") == ""
