# SPDX-License-Identifier: GPL-2.0-only
"""The order in which all tests run, and how they are distributed when they run in parallel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import order, unblocked
from tests.support.workers import ByFile


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order.by_kind(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(autouse=True)
def nothing_blocks_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with unblocked.watched(monkeypatch) as seen:
        yield
    assert not seen, "it waits for a disk or another process while leases are due"
