# SPDX-License-Identifier: GPL-2.0-only
"""Budgets: a burst, then the rate; each source its own; memory for those that are busy only."""

from __future__ import annotations

import pytest

from appliance import quota
from appliance.quota import Quota, TokenBucket

SECOND = 1_000_000_000


def test_token_bucket() -> None:
    """A burst is free, then the rate holds, and rest fills the bucket again but not beyond the burst."""
    bucket = TokenBucket(rate=10, burst=3, now=0.0)
    assert [bucket.take(0.0) for _ in range(5)] == [0, 0, 0, 0.1, 0.2]
    assert bucket.take(100.0) == 0
    assert [bucket.take(100.0) for _ in range(3)] == [0, 0, 0.1]


def test_each_source_has_its_own_budget() -> None:
    found = Quota(2, 3)
    assert [found.allow(0, "a") for _ in range(4)] == [True, True, True, False]
    assert found.allow(0, "b")
    assert [found.allow(SECOND, "a") for _ in range(3)] == [True, True, False]


def test_quiet_sources_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "MANY_SOURCES", 10)
    found = Quota(1, 2)
    for source in range(9):
        found.allow(0, source)
    assert [found.allow(SECOND * 10, "busy") for _ in range(3)] == [True, True, False]
    for number in range(9):
        found.allow(SECOND * 10, f"new {number}")
    assert not found.allow(SECOND * 10, "busy")
    for number in range(1000):
        found.allow(SECOND * 10, number)
    assert len(found._buckets) <= 10
