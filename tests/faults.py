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
from tests.support.board_appliance import (
    BYPASSD,
    GUEST,
    KEEPER,
    RULE,
    SEGMENT,
    ask,
    frames_to,
    guest,
    like_demo_guest,
    mirror_beside,
    remove_guest,
    show,
    wait_serving,
    wait_until,
)

CANARY, CANARY_MIB, COMPARED_S = "canary1", 96, 10

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

    `prepare` runs before it, when traffic flows; `told`, after that, is what the console says, for the table; `after`,
    when all is as before, takes back what `prepare` did.
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
    told: Callable[[Board], str] | None = None
    after: Callable[[Board], Any] | None = None
    lossless: bool = False  # of the numbered frames none may be lost, or arrive twice
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


def place_canary(board: Board) -> None:
    """A second guest like the first one, which gets copies of its frames."""
    commit(board, *like_demo_guest(board, CANARY, CANARY_MIB))
    board.sh(f"bypass guest {CANARY} start")
    wait_serving(board, CANARY)
    commit(board, ("set", "rule", RULE, "mirrors", CANARY, "beside", GUEST))


def compare_canary(board: Board) -> str:
    """What the console says of both guests: they are alike, so they must treat all frames alike.

    One of two emulated guests may be the slower one, which is then said, too.
    """
    said = ask(board, f"canary {CANARY} compare {round(board.pace.wait(COMPARED_S))}")
    if not said or not said["compared_frames"] or said["different_frames"]:
        raise AssertionError(f"the canary does not treat the frames as the guest beside it does: {said}")
    return str(said["message"])


def promote_canary(board: Board) -> None:
    """The canary changes places with the guest beside it, and frames go through it."""
    board.sh(f"bypass canary {CANARY} promote")
    assert mirror_beside(board, GUEST) == CANARY, show(board, "mirrors")
    before = frames_to(board, CANARY)
    wait_until(board, lambda: frames_to(board, CANARY) > before, "frames through the promoted canary")


def demote_canary(board: Board) -> None:
    """As before the promotion."""
    board.sh(f"bypass canary {CANARY} demote")
    assert mirror_beside(board, CANARY) == GUEST, show(board, "mirrors")
    before = frames_to(board, GUEST)
    wait_until(board, lambda: frames_to(board, GUEST) > before, "frames through the guest again")


def remove_canary(board: Board) -> None:
    """As before `place_canary`, however far that has come."""
    if mirror_beside(board, GUEST):
        demote_canary(board)
    if mirror_beside(board, CANARY):
        commit(board, ("delete", "rule", RULE, "mirrors"))
    if guest(board, CANARY):
        remove_guest(board, CANARY)


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
    Fault(
        "canary promoted",
        1,
        promote_canary,
        demote_canary,
        prepare=place_canary,
        told=compare_canary,
        after=remove_canary,
        lossless=True,
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
