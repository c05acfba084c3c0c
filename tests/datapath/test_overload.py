# SPDX-License-Identifier: GPL-2.0-only
"""A healthy guest under a flood of ten times what it carries stays in the path; one that hangs meanwhile does not.

The guest is a process that forwards between two taps at a known rate (tests/support/flooded_guest.py); everything else
is real. The heartbeats have the defaults of a probe here: a shared machine may stop us for longer than 40 ms.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

REPOSITORY = Path(__file__).resolve().parents[2]
CAPACITY = 1500
WINDOW_MS = 3 * 100 + 25


def flooded(bpf_object: Path, *more: object) -> Any:
    words = ["--interval", "100ms", "--misses", "3", "--capacity", CAPACITY, *more]
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.flooded_guest", str(bpf_object), *map(str, words)],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'board'}:{REPOSITORY}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("mode", ["xdp", "tc"])
def test_ten_times_its_capacity_costs_a_healthy_guest_nothing(bpf_object: Path, mode: str) -> None:
    """It is overloaded, never suspect, goes on forwarding, and the rest bypasses it: all of it counted by that name."""
    found = flooded(bpf_object, "--mode", mode, "--seconds", 5)
    assert found["falls"] == 0, found
    assert found["states"][2:] == ["available", "overloaded"]
    assert found["offered_per_s"] > 3 * CAPACITY, "the flood was none"
    assert found["handed"] > CAPACITY
    assert found["excess"] == found["skipped"] == found["outcomes"]["bypassed"] > found["handed"]


def test_the_excess_is_dropped_where_the_rule_says_so(bpf_object: Path) -> None:
    found = flooded(bpf_object, "--on-overload", "block-excess", "--seconds", 3)
    assert found["falls"] == 0, found
    assert found["excess"] == found["outcomes"]["excess"] > 0
    assert "bypassed" not in found["outcomes"]


def test_a_guest_that_hangs_under_the_flood_is_bypassed_as_soon_as_ever(bpf_object: Path) -> None:
    found = flooded(bpf_object, "--seconds", 20, "--hang", 3)
    assert found["states"][-1] == "suspect"
    assert found["bypass_after_hang_ms"] < WINDOW_MS + 100
