# SPDX-License-Identifier: GPL-2.0-only
"""Boards whose kernel is brought to hang: by the kernel's own module test_lockup, or by a disk that does not answer.

The module is built beside the kernel and is not in the image: it comes on a disk of its own, behind a sector with its
size.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from simulator import Board, Timing, payload
from simulator.events import Event
from simulator.machine import Drive

from tests.support import board_appliance, board_harness

MODULE = "/run/test_lockup.ko"
STAMPED = r"\[ *(\d+\.\d+)\](?:\[[^\]]*\])? "
READY_S = 120.0
DISK = "for disk in /sys/block/*; do [ $(cat $disk/serial)x = modulex ] && from=/dev/${disk##*/}; done"
# dd and head: what the board's shell has; the size stands in the last bytes of the first sector
FETCH = (
    f"{DISK}; size=$((0x$(dd if=$from bs=4 skip=127 count=1 2>/dev/null | od -A n -t x1 | tr -d ' '))); "
    f"dd if=$from bs=512 skip=1 2>/dev/null | head -c $size >{MODULE}"
)


@contextmanager
def board_that_hangs(artefacts: Path, folder: Path, wiring: str = "", timing: Timing | None = None) -> Iterator[Board]:
    """A board of its own, off, with the module on one more disk. `wiring`: its relay is built in another way."""
    module = (artefacts / "modules/test_lockup.ko").read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    disk = folder / "module.img"
    disk.write_bytes(len(module).to_bytes(512, "big") + module + bytes(-len(module) % 512))
    load = payload.image(artefacts, folder, debug=True, wiring=wiring)
    load = replace(load, drives=(*load.drives, Drive("module", disk)))
    with Board(folder, load, timing=timing, accelerator=board_harness.accelerator(artefacts)) as made:
        yield made


def come_up(board: Board) -> dict[str, Any]:
    """The status of a board that has just been started or reset, as soon as bypassd answers."""
    if board.qemu_pid is None:
        board.power_on()
    board.sh("true", timeout=READY_S)
    return dict(board_appliance.wait_until(board, lambda: board_appliance.show(board, "status"), "bypassd answers"))


def come_up_again(board: Board, since: int) -> dict[str, Any]:
    """The same after a reset that was ordered and is still to come; `since`: mark before the order."""
    board.wait_event(event="reset", since=since)
    return come_up(board)


def keeper_beside(board: Board, cpu: int) -> None:
    """Let the keeper run on the other one of two processors, so that it feeds the watchdog while this one hangs."""
    keeper = board.pids(board_appliance.KEEPER)[0]
    board.sh(f"for task in /proc/{keeper}/task/*; do taskset -p {1 << (1 - cpu):x} ${{task##*/}}; done")


def ready(board: Board) -> None:
    """Inline, with no crash on its account, and the module in its memory."""
    if come_up(board)["crashes"]["reasons"]:
        board.sh("bypass crash-count clear")
    board.wait_inline()
    board.sh(FETCH)


def crash(board: Board, command: str, what: str) -> tuple[Event, Event, Event]:
    """Run this in the board, which ends in a panic and a reset: the events of fault, panic and relay."""
    with board.panic_ordered():
        fault = board.fault(what)
        board.debug.send(f"{command}\n")
        panic = board.wait_event(event="panic", source="pvpanic", since=fault["n"])
        relay = board.wait_event(event="relay", since=fault["n"])
        assert relay["state"] == "bypass"
        assert board.wait_event(event="reset", since=fault["n"])["cause"] == "guest"
    return fault, panic, relay


def record(board: Board) -> str:
    """The newest crash report, once the board is up again."""
    come_up(board)
    rows = board_appliance.show(board, "crash-log")
    return str(board_appliance.ask(board, f"show crash-log {rows[-1]['number']}")[0]["text"])


def took(text: str, reasons: str) -> float:
    """Seconds of the board from the beginning of the hang to the panic, both in the crash record, for these reasons."""
    began = re.search(STAMPED + r"test_lockup: START", text)
    ended = re.search(STAMPED + rf"Kernel panic - not syncing: .*(?:{reasons})", text)
    assert began, text[-3000:]
    assert ended, text[-3000:]
    return float(ended[1]) - float(began[1])


def seconds(earlier: Event, later: Event) -> float:
    return float(later["mono_ns"] - earlier["mono_ns"]) / 1e9
