# SPDX-License-Identifier: GPL-2.0-only
"""Guests on the booted board: where a real kernel has KVM, control groups and a data partition."""

from __future__ import annotations

import json
import time

import pytest
from boardsim import Board

GROUP = "/sys/fs/cgroup/bypass-guests/ips1"


def shown(board: Board) -> dict[str, object]:
    """The row of the demo guest; empty as long as bypassd does not answer for guests."""
    result = board.sh("bypass show guests --json", check=False)
    rows = json.loads(result.output) if result.status == 0 else []
    return next((row for row in rows if row["name"] == "ips1"), {})


@pytest.fixture
def guest(board: Board) -> dict[str, object]:
    """The demo guest, available."""
    limit = time.monotonic() + 120
    while (row := shown(board)).get("state") != "available":
        assert time.monotonic() < limit, row
    return row


def test_runs_without_rights(board: Board, guest: dict[str, object]) -> None:
    """A user of its own, no capability, no network device but the loopback."""
    status = board.sh(f"grep -E '^(Uid|CapEff|Seccomp):' /proc/{guest['pid']}/status").output.split()
    assert int(status[1]) >= 200_000
    assert int(status[status.index("CapEff:") + 1], 16) == 0
    assert status[status.index("Seccomp:") + 1] == "2"
    assert board.sh(f"tail -n +3 /proc/{guest['pid']}/net/dev | cut -d: -f1").output.split() == ["lo"]


def test_is_held_within_limits(board: Board, guest: dict[str, object]) -> None:
    """The kernel's own files say so: its process is in its group, and memory, processes and share are limited."""
    assert "no limits" not in str(guest["warning"])
    assert board.sh(f"cat {GROUP}/cgroup.procs").output.split() == [str(guest["pid"])]
    assert int(board.sh(f"cat {GROUP}/memory.max").output) == (128 + 192) << 20
    assert int(board.sh(f"cat {GROUP}/pids.max").output) < 100
    assert board.sh("cat /sys/fs/cgroup/bypass-guests/cpu.weight").output.split() == ["50"]
