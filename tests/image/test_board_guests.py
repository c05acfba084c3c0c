# SPDX-License-Identifier: GPL-2.0-only
"""Guests on the booted board: where a real kernel has KVM, control groups and a data partition."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulator import Board

from tests.support import board_appliance, board_traffic
from tests.support.board_admin import commit

GUEST, RULE = board_appliance.GUEST, board_appliance.RULE
GROUP = "/sys/fs/cgroup/bypass-guests/ips1"


def shown(board: Board) -> dict[str, object]:
    """The row of the demo guest; empty as long as bypassd does not answer for guests."""
    result = board.sh("bypass show guests --json", check=False)
    rows = json.loads(result.output) if result.status == 0 else []
    return next((row for row in rows if row["name"] == "ips1"), {})


@pytest.fixture
def guest(board: Board) -> dict[str, object]:
    """The demo guest, available."""
    limit = time.monotonic() + board.pace.wait(120)
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


def test_sees_no_file_of_the_appliance(board: Board, guest: dict[str, object]) -> None:
    """Its root folder has programs, libraries, devices and its scratch folder."""
    root = f"/proc/{guest['pid']}/root"
    assert set(board.sh(f"ls {root}").output.split()) <= {
        "bin",
        "dev",
        "etc",
        "lib",
        "lib64",
        "proc",
        "sbin",
        "usr",
        "var",
    }
    assert board.sh(f"ls {root}/var/lib/bypass {root}/var/lib/bypass/scratch").output.split()[-1] == "ips1"
    assert board.sh(f"ls {root}/etc {root}/run 2>/dev/null | grep -c bypass", check=False).output.strip() == "0"


def test_is_held_within_limits(board: Board, guest: dict[str, object]) -> None:
    """The kernel's own files say so: its process is in its group, and memory, processes and share are limited."""
    assert "no limits" not in str(guest["warning"])
    assert board.sh(f"cat {GROUP}/cgroup.procs").output.split() == [str(guest["pid"])]
    assert int(board.sh(f"cat {GROUP}/memory.max").output) == (128 + 192) << 20
    assert int(board.sh(f"cat {GROUP}/pids.max").output) < 100
    assert board.sh("cat /sys/fs/cgroup/bypass-guests/cpu.weight").output.split() == ["50"]


def test_its_lease_ends_in_the_kernel(board: Board, guest: dict[str, object]) -> None:
    """The board's kernel has what that takes, and the program is there for good (tests/datapath/test_leases.py)."""
    assert "BPF_EVENTS" not in str(guest["warning"])
    board.sh("test -e /sys/fs/bpf/bypass/thread_exit")


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
        ("import /tmp/good.qcow2 --name t1", "already exists"),
        ("import /tmp/cut.img --name t2", "not recognized as a disk image"),
        ("import /tmp/cut.img --name t2 --kind raw", "not whole sectors"),
        ("import /tmp/none --name t2", "No such file"),
        (f"import /tmp/good.qcow2 --name t2 --sha256 {'0' * 64}", "its SHA-256 is"),
    ):
        refused = board.sh(f"bypass guest {words}", check=False)
        assert (refused.status, why in refused.output) == (1, True), refused.output
    board.sh("bypass image t1 undo")
    assert board.sh("ls -A /var/lib/bypass/images").output.split() == []


# A guest that somebody configures, beside the one that came with the image

SECOND = "second"
MEMORY_MIB = 96  # its kernel leaves half of it; two ports with frames of 3,498 bytes need some


@pytest.fixture
def second(board: Board, guest: dict[str, object]) -> Iterator[str]:
    """One more guest, committed and removed again."""
    commit(board, *board_appliance.like_demo_guest(board, SECOND, MEMORY_MIB))
    yield SECOND
    board_appliance.remove_guest(board, SECOND)


def files(board: Board, pid: object) -> list[str]:
    """What a process has open."""
    return board.sh(f"for fd in /proc/{pid}/fd/*; do readlink $fd; done; true").output.split("\n")


def test_a_configured_guest_runs_on_what_the_kernel_offers(board: Board, second: str) -> None:
    """With KVM and vhost where they are, though its QEMU has no rights; frames pass it, which is what it is proved by.

    Where there is no KVM it runs as well, emulated, and `show guests` warns of it.
    """
    virtual = int(board.sh("grep -cwE 'svm|vmx' /proc/cpuinfo", check=False).output) > 0
    board.sh(f"bypass guest {second} start")
    row = board_appliance.wait_serving(board, second)
    held = files(board, row["pid"])
    assert row["accel"] == ("kvm" if virtual else "tcg")
    assert ("no KVM: it is emulated, and slow" in row["warning"]) == (not virtual)
    assert ("anon_inode:kvm-vm" in held) == virtual
    vhost = virtual and board.sh("test -c /dev/vhost-net", check=False).status == 0
    assert held.count("/dev/vhost-net") == (2 if vhost else 0)
    status = board.sh(f"grep -E '^(Uid|CapEff):' /proc/{row['pid']}/status").output.split()
    assert (int(status[1]) >= 200_000, int(status[-1], 16)) == (True, 0)
    if not virtual:
        return
    # The device is taken away: the next start is emulated, and says so.
    board.sh(f"bypass guest {second} stop")
    board_appliance.wait_until(
        board, lambda: board_appliance.guest(board, second).get("state") == "stopped", "it stops"
    )
    board.sh("mv /dev/kvm /dev/kvm.away")
    try:
        board.sh(f"bypass guest {second} start")
        row = board_appliance.wait_until(board, lambda: _with_process(board, second), "it starts")
        assert (row["accel"], "no KVM: it is emulated, and slow" in row["warning"]) == ("tcg", True)
        assert "no KVM" in board.sh("bypass show guests").output
    finally:
        board.sh("mv /dev/kvm.away /dev/kvm")


def pool(board: Board) -> dict[str, int]:
    """The kernel's huge pages: how many there are and are free."""
    lines = board.sh("grep ^HugePages_ /proc/meminfo").output.split("\n")
    return {key: int(value) for key, _, value in (line.partition(":") for line in lines) if value}


def test_huge_pages_are_there_when_a_guest_wants_them(board: Board, second: str) -> None:
    """Nobody reserved any: they are found for it, its memory is in them and in no others, and they go with it."""
    before = pool(board)
    commit(board, ("set", "guest", second, "hugepages", "true"))
    board.sh(f"bypass guest {second} start")
    row = board_appliance.wait_serving(board, second)
    now = pool(board)
    assert "huge pages" not in str(row["warning"])
    assert (now["HugePages_Total"], now["HugePages_Free"]) == (
        before["HugePages_Total"] + MEMORY_MIB // 2,
        before["HugePages_Free"],
    )
    held = board.sh(f"grep ^HugetlbPages: /proc/{row['pid']}/status").output.split()
    assert held == ["HugetlbPages:", str(MEMORY_MIB << 10), "kB"]
    group = GROUP.replace("ips1", second)
    limits = board.sh(f"cat {group}/hugetlb.2MB.current {group}/hugetlb.2MB.max {group}/memory.max").output.split()
    assert [int(text) >> 20 for text in limits] == [MEMORY_MIB, MEMORY_MIB, 192]
    board.sh(f"bypass guest {second} stop")
    board_appliance.wait_until(board, lambda: pool(board) == before, "its huge pages are ordinary memory again")


def _with_process(board: Board, name: str) -> dict[str, object]:
    row = board_appliance.guest(board, name)
    return row if row.get("pid") else {}


@pytest.fixture
def mirror(board: Board, second: str) -> Iterator[str]:
    """The second guest as a mirror beside the first one, both with the limits that suit the board's speed."""
    board_appliance.offer(board)
    board.sh(f"bypass guest {second} start")
    board_appliance.wait_serving(board, second)
    before = board_appliance.segment(board)["attach"]
    commit(board, ("set", "rule", RULE, "mirrors", second, "beside", GUEST))
    yield second
    commit(board, ("set", "rule", RULE, "path", GUEST), ("delete", "rule", RULE, "mirrors"))
    assert board_appliance.segment(board)["attach"] == before
    board_appliance.wait_healthy(board)


@pytest.mark.slow  # a second emulated guest
def test_a_canary_is_compared_and_changes_places(board: Board, mirror: str, tmp_path: Path) -> None:
    """Copies of real traffic, the command's verdict on them, the promotion as a commit, and the way back.

    The two guests are alike, so they must treat all frames alike; one of two emulated ones may be slower, which is then
    said. No frame is lost by a change of places, and none leaves twice.
    """
    assert board_appliance.segment(board)["attach"] == "tc"
    assert board_appliance.mirror_beside(board, mirror) == GUEST
    rate = min(board_traffic.FRAMES, board.pace.frames)
    with board_traffic.frames(board, tmp_path, rate) as streams:
        told = board_appliance.ask(board, f"canary {mirror} compare {round(board.pace.wait(10))}")
        assert told["compared_frames"] > 0, told
        assert told["different_frames"] == 0, told
        assert told["as_before"] is not bool(told["slower"]), told
        assert all(row["alike"] and row["hop"] == "forwarded" for row in told["verdicts"]), told
        for words, inline, copied in (("promote", mirror, GUEST), ("demote", GUEST, mirror)):
            board.sh(f"bypass canary {mirror} {words}")
            assert board_appliance.mirror_beside(board, copied) == inline
            (rule,) = (row for row in board_appliance.show(board, "rules")["rules"] if row["name"] == RULE)
            assert rule["path"] == [inline]
            assert board_appliance.show(board, "commits")[0]["comment"] == f"canary {mirror} {words}"
            before = {hop: board_appliance.frames_to(board, hop) for hop in (inline, copied)}
            board_traffic.carried(board, streams, time.monotonic_ns())
            after = {hop: board_appliance.frames_to(board, hop) for hop in (inline, copied)}
            assert after[inline] > before[inline]
            assert after[copied] == before[copied]
    reports = [stream.stop() for stream in streams]
    assert [(report.lost, report.duplicates) for report in reports] == [(0, 0), (0, 0)]
