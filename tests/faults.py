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
from simulator.stream import PORT

from tests.support.board_admin import commit
from tests.support.board_appliance import BYPASSD, GUEST, KEEPER, RULE, SEGMENT, guest, show, wait_until

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
    """One fault. `undo` runs once its effect has been seen; None: the appliance recovers by itself.

    `prepare` runs before it, when traffic flows; `after`, when all is as before, takes back what `prepare` did.
    """

    name: str
    ring: int
    make: Callable[[Board], Any]
    undo: Callable[[Board], Any] | None = None
    relay: bool = False  # the relay is expected to close
    resets: bool = False  # the machine starts anew
    panics: bool = False
    download: bool = True  # one path always remains, so the download must end whole
    prepare: Callable[[Board], Any] | None = None
    after: Callable[[Board], Any] | None = None
    lossless: bool = False  # of the numbered frames none may be lost
    links: bool = False  # both ports are expected to be set down: no frame crosses until the fault is undone

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


def shunt_streams(board: Board) -> None:
    """Let the guest shunt flows, and have its application shunt those of the numbered frames, one a direction."""
    commit(board, ("set", "guest", GUEST, "shunts", "max", "100"))
    board.sh(f"bypass guest {GUEST} command shunt {PORT}")
    wait_until(board, lambda: shunted(board), "the flows of the numbered frames shunted")


def shunted(board: Board) -> bool:
    """Whether the guest has shunted the flows of the numbered frames."""
    rows = (show(board, "shunts") or {}).get("shunts", [])
    return sum(PORT in (row["lan_port"], row["wan_port"]) for row in rows) == 2


def unshunt(board: Board) -> None:
    """As before `shunt_streams`."""
    board.sh("bypass clear shunts")
    commit(board, ("delete", "guest", GUEST, "shunts", "max"))


def ports_up(board: Board) -> int:
    """How many of both ports are set up. A virtio port has no PHY by which its neighbour could see that it is not."""
    flags = board.sh("cat /sys/class/net/lan0/flags /sys/class/net/wan0/flags").output.split()
    return sum(int(value, 16) & 1 for value in flags)


FAULTS = (
    Fault(
        "application hung",
        1,
        shell(f"bypass guest {GUEST} command hang"),
        shell(f"bypass guest {GUEST} command resume"),
    ),
    Fault(
        "application hung, flow shunted",
        1,
        shell(f"bypass guest {GUEST} command hang"),
        shell(f"bypass guest {GUEST} command resume"),
        prepare=shunt_streams,
        after=unshunt,
        lossless=True,
    ),
    Fault(
        "application hung, link-down",
        1,
        shell(f"bypass guest {GUEST} command hang"),
        shell(f"bypass guest {GUEST} command resume"),
        prepare=lambda board: commit(board, ("set", "rule", RULE, "on_unavailable", "link-down")),
        after=lambda board: commit(board, ("delete", "rule", RULE, "on_unavailable")),
        links=True,
        download=False,
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
