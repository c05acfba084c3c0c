# SPDX-License-Identifier: GPL-2.0-only
"""The kernel's threads (vhost) that move a guest's frames between taps and QEMU's memory: one a queue.

They are threads of QEMU's process, as vCPUs are, and QEMU does not tell their numbers: they are known by their name,
and their order is that in which QEMU opened the queues (qemu/command.py), so by ascending number. Pinned, they neither
share a processor by chance nor change it, which would let frames overtake those that still wait at the last one.
Without vhost QEMU's main thread moves the frames of all queues.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def find(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """The ids of these threads of a QEMU, in the order of its queues; none without vhost."""
    found = []
    for task in (proc / str(pid) / "task").iterdir():
        try:
            if (task / "comm").read_text(encoding="ascii", errors="replace").startswith("vhost-"):
                found.append(int(task.name))
        except OSError:
            continue  # it ended
    return sorted(found)


def places(pid: int, threads: Sequence[int], ports: int, pin: Sequence[int]) -> dict[int, int]:
    """The processor of each thread (pure). `pin`: by queue. Behind those of the `ports` is the management port's."""
    if not pin:
        return {}
    if len(threads) < ports * len(pin):
        return {pid: pin[0]}
    return {thread: pin[at % len(pin)] for at, thread in enumerate(threads[: ports * len(pin)])}
