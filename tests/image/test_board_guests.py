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


def test_its_serial_line_is_kept(board: Board, guest: dict[str, object]) -> None:
    assert "demo guest: up" in board.sh("bypass guest ips1 log 400").output


def test_images_are_imported_and_taken_back(board: Board, guest: dict[str, object]) -> None:
    """The console, the daemon, its helper and the real qemu-img on the data partition, to the end and back."""
    board.sh("cd /tmp && qemu-img create -q -f qcow2 good.qcow2 64M && head -c 3000000 /dev/urandom >cut.img")
    done = board.sh("cd /tmp && bypass guest import good.qcow2 --name t1 --sha256 $(sha256sum good.qcow2 | cut -c-64)")
    assert "image t1 imported: qcow2" in done.output
    (row,) = (row for row in json.loads(board.sh("bypass show images --json").output) if row["name"] == "t1")
    assert (row["virtual_bytes"], row["verified"]) == (64 << 20, True)
    for words, why in (
        ("import /tmp/good.qcow2 --name t1", "is there already"),
        ("import /tmp/cut.img --name t2", "not whole sectors"),
        ("import /tmp/none --name t2", "No such file"),
        (f"import /tmp/good.qcow2 --name t2 --sha256 {'0' * 64}", "its SHA-256 is"),
    ):
        refused = board.sh(f"bypass guest {words}", check=False)
        assert (refused.status, why in refused.output) == (1, True), refused.output
    board.sh("bypass image t1 undo")
    assert board.sh("ls -A /var/lib/bypass/images").output.split() == []
