# SPDX-License-Identifier: GPL-2.0-only
"""Checks that the guest's vCPUs get processor time: the kernel's view of QEMU's threads, compared between two looks.

A guest is stalled when its threads are runnable and wait for a processor (the host is overloaded, or a limit throttles
them), are stopped, or hang in the kernel (a disk that does not answer). A guest that spins or sleeps on its own looks
healthy here; heartbeats and its own watchdog detect that. `CpuStall` is pure; `look` reads /proc (proc(5); schedstat:
kernel document scheduler/sched-stats).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.health.detector import Bad, Good, milliseconds

WAITED_SHARE = 0.8
"""A thread that waited for a processor for a larger share of the time than this is starved."""

_STATES = {"T": "is stopped", "t": "is stopped by a debugger", "D": "hangs in the kernel (its disk does not answer?)"}


@dataclass(frozen=True)
class Thread:
    """One look at a thread: state letter, time on a processor and time waiting for one (ns since its start)."""

    name: str
    state: str
    ran: int
    waited: int


@dataclass
class CpuStall:
    """Compares each look with the one before."""

    _last: Mapping[int, Thread] = field(default_factory=dict)
    _at: int | None = None

    def step(self, now: int, threads: Mapping[int, Thread]) -> Good | Bad | None:
        """One look at all threads; None for the first, which cannot be compared."""
        before, began = self._last, self._at
        self._last, self._at = threads, now
        if began is None or now <= began:
            return None
        for tid, thread in threads.items():
            old = before.get(tid)
            if old is None:
                continue
            if thread.state in _STATES and thread.state == old.state and thread.ran == old.ran:
                return Bad(f"{thread.name} {_STATES[thread.state]}")
            waited = thread.waited - old.waited
            if waited > (now - began) * WAITED_SHARE:
                return Bad(
                    f"{thread.name} waited {milliseconds(waited)} of {milliseconds(now - began)} for a processor"
                )
        return Good(now)


def look(pid: int, processors: Sequence[int], proc: Path = Path("/proc")) -> dict[int, Thread]:
    """Look at QEMU's main thread and its vCPUs; threads that have ended are left out."""
    found: dict[int, Thread] = {}
    names = {pid: "QEMU", **{tid: f"virtual processor {index}" for index, tid in enumerate(processors)}}
    for tid, name in names.items():
        folder = proc / str(pid) / "task" / str(tid)
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            ran, waited, _ = (folder / "schedstat").read_text().split()
        except (OSError, ValueError, IndexError):
            continue
        found[tid] = Thread(name, state, int(ran), int(waited))
    return found
