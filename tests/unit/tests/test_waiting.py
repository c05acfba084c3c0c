# SPDX-License-Identifier: GPL-2.0-only
"""How long tests wait before they fail."""

from __future__ import annotations

import os

import pytest

from tests.support.waiting import stretched, wait_until


def test_a_busy_machine_waits_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    for load, limit in ((0.1, 60.0), (2.0, 60.0), (8.0, 240.0)):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        assert stretched(60.0) == limit


def test_what_never_happens_fails_and_says_so() -> None:
    with pytest.raises(AssertionError, match="the end did not happen within 0 s: nothing came"):
        wait_until(lambda: False, "the end", 0.001, explain=lambda: "nothing came")
