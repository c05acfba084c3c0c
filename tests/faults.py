# SPDX-License-Identifier: GPL-2.0-only
"""The faults that the demo injects into a running board, one table row each: how to inject and undo it.

A fault is injected from outside (power, reset) or by root in the board's debug shell, and judged on the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from simulator import Board, Event

from tests.support.board_appliance import BYPASSD, GUEST, KEEPER, SEGMENT, guest

# Real-time loops above the keeper's priority on every processor, with the kernel's brake on real-time tasks taken off.
STARVE = """
echo -1 >/proc/sys/kernel/sched_rt_runtime_us
for cpu in $(seq $(nproc)); do
  python3 -S -c 'import os
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(99))
while True: pass' >/dev/null 2>&1 &
done"""


@dataclass(frozen=True)
class Fault:
    """One fault. `undo` runs once its effect has been seen; None: the appliance recovers by itself."""

    name: str
    ring: int
    make: Callable[[Board], Any]
    undo: Callable[[Board], Any] | None = None
    relay: bool = False  # the relay is expected to close
    resets: bool = False  # the machine starts anew
    panics: bool = False
    download: bool = True  # one path always remains, so the download must end whole

    def allow(self, board: Board) -> AbstractContextManager[None]:
        """During the fault and the recovery, its panic is no failure."""
        return board.panic_ordered() if self.panics else nullcontext()


def shell(command: str) -> Callable[[Board], Any]:
    """A step that is a command in the board."""
    return lambda board: board.sh(command)


def signal(name: str, words: str) -> Callable[[Board], Any]:
    """A step that sends a signal to the process whose command line contains these words."""
    return lambda board: board.sh(f"kill -{name} {board.pids(words)[0]}")


def kill_guest(board: Board) -> None:
    """kill -9 of the guest's QEMU, by the number that the console shows."""
    board.sh(f"kill -9 {guest(board)['pid']}")


def lost_shell(command: str) -> Callable[[Board], Any]:
    """A command after which the board no longer answers."""

    def step(board: Board) -> None:
        board.sh(f"(sleep 0.2; {command}) >/dev/null 2>&1 &")

    return step


def power_cut(board: Board) -> Event:
    """Pull the plug."""
    return board.power_cut()


def power_on(board: Board) -> None:
    """Put the plug back."""
    board.power_on()


FAULTS = (
    Fault(
        "application hung",
        1,
        shell(f"bypass guest {GUEST} command hang"),
        shell(f"bypass guest {GUEST} command resume"),
    ),
    Fault("guest killed", 1, kill_guest),
    Fault("bypassd killed", 2, signal("KILL", BYPASSD)),
    Fault("bypassd stopped", 2, signal("STOP", BYPASSD)),
    Fault("keeper killed", 3, signal("KILL", KEEPER), relay=True),
    Fault("keeper stopped", 3, signal("STOP", KEEPER), relay=True, resets=True, panics=True),
    Fault(
        "console bypass",
        3,
        shell(f"bypass segment {SEGMENT} bypass"),
        shell(f"bypass segment {SEGMENT} auto"),
        relay=True,
    ),
    Fault("watchdog starved", 3, lost_shell(STARVE), relay=True, resets=True, panics=True),
    Fault("kernel panic", 3, lost_shell("echo c >/proc/sysrq-trigger"), relay=True, resets=True, panics=True),
    Fault("power cut", 3, power_cut, power_on, relay=True),
)
