# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's threads of a guest's queues: found by their names, and pinned in the order of the queues."""

from __future__ import annotations

from pathlib import Path

from appliance.guest.qemu import queue_threads


def test_they_are_found_by_their_names_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for task, name in (("9", "vhost-7"), ("7", "qemu-system-x86"), ("10", "vhost-7"), ("8", "CPU 0/KVM")):
        (tmp_path / "7/task" / task).mkdir(parents=True)
        (tmp_path / "7/task" / task / "comm").write_text(name + "\n")
    (tmp_path / "7/task/11").mkdir()  # it has ended meanwhile
    assert queue_threads.find(7, tmp_path) == [9, 10]


def test_both_ports_queues_are_beside_each_other() -> None:
    """Two segments with two ports each, two queues, and the management port, which is left where it is."""
    threads = list(range(100, 109))
    assert queue_threads.places(7, threads, 4, (2, 3)) == {thread: 2 + (thread - 100) % 2 for thread in range(100, 108)}


def test_without_vhost_it_is_qemus_own_loop() -> None:
    assert queue_threads.places(7, [], 2, (2, 3)) == {7: 2}
    assert queue_threads.places(7, [], 2, ()) == {}
