# SPDX-License-Identifier: GPL-2.0-only
"""The whole image with a kernel that hangs: on one processor or on all, with interrupts off.

The kernel's own module test_lockup, built beside the kernel and loaded from an extra disk, causes the hangs. The crash
record has the times when the hang began and when the kernel panicked, in the board's time; from there to the wire the
board's events count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from simulator import Board, payload
from simulator.events import Event
from simulator.machine import Drive

from tests.support import board_appliance, board_harness

MODULE = "/run/test_lockup.ko"
TO_WIRE_S = 0.5  # from the watchdog's end, or from the panic, until the connectors are joined
STAMPED = r"\[ *(\d+\.\d+)\](?:\[[^\]]*\])? "


@pytest.fixture(scope="module")
def hanging(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board of its own, with the module on one more disk."""
    folder = tmp_path_factory.mktemp("lockup-board")
    module = (artefacts / "modules/test_lockup.ko").read_bytes()
    disk = folder / "module.img"
    disk.write_bytes(len(module).to_bytes(512, "big") + module + bytes(-len(module) % 512))
    load = payload.image(artefacts, folder, debug=True)
    load = replace(load, drives=(*load.drives, Drive("module", disk)))
    with Board(folder, load, accelerator=board_harness.accelerator(artefacts)) as made:
        made.power_on()
        made.sh("true", timeout=120)
        yield made


@pytest.fixture
def ready(hanging: Board) -> Board:
    """Inline, with no crash on its account, and the module in its memory."""
    if hanging.qemu_pid is None:
        hanging.power_on()
    hanging.sh("true", timeout=120)
    status = board_appliance.wait_until(hanging, lambda: board_appliance.show(hanging, "status"), "bypassd answers")
    if status["crashes"]["reasons"]:
        hanging.sh("bypass crash-count clear")
    hanging.wait_inline()
    hanging.sh(
        f"for disk in /sys/block/*; do [ $(cat $disk/serial)x = modulex ] && from=/dev/${{disk##*/}}; done; "
        f"size=$((0x$(dd if=$from bs=4 skip=127 count=1 2>/dev/null | od -A n -t x1 | tr -d ' '))); "
        f"dd if=$from bs=512 skip=1 2>/dev/null | head -c $size >{MODULE}"
    )
    return hanging


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
    """The newest crash record, once the board is up again."""
    board.sh("true", timeout=120)
    board_appliance.wait_until(board, lambda: board_appliance.show(board, "status"), "bypassd answers")
    rows = board_appliance.show(board, "crash-log")
    return str(board_appliance.ask(board, f"show crash-log {rows[-1]['name']}")[0]["text"])


def seconds(earlier: Event, later: Event) -> float:
    return float(later["mono_ns"] - earlier["mono_ns"]) / 1e9


HARD = "disable_irq=1"


@pytest.mark.parametrize(
    ("how", "where", "limit", "reasons"),
    [
        (HARD, "taskset 1", 2.5, "Hard LOCKUP|NMI: Not continuing"),
        (HARD, "taskset 2", 2.5, "Hard LOCKUP|NMI: Not continuing"),
        (HARD, "all_cpus=1", 2.5, "NMI: Not continuing|Hard LOCKUP"),
    ],
)
def test_a_processor_that_hangs_is_a_panic_and_the_wire_is_joined(
    ready: Board, how: str, where: str, limit: float, reasons: str
) -> None:
    """Within 2.5 s with interrupts off; the reset follows at once, and is explained."""
    pinned, option = (where, "") if where.startswith("taskset") else ("", where)
    command = f"{pinned} insmod {MODULE} time_secs=60 {how} {option} &"
    _, panic, relay = crash(ready, command, f"test_lockup {how} {where}")
    assert relay["cause"] == "queue stopped"
    text = record(ready)
    began = re.search(STAMPED + r"test_lockup: START", text)
    ended = re.search(STAMPED + rf"Kernel panic - not syncing: .*(?:{reasons})", text)
    assert began, text[-3000:]
    assert ended, text[-3000:]
    took = float(ended[1]) - float(began[1])
    print(f"{how} {where}: panic after {took:.2f} s, wire {seconds(panic, relay):.3f} s later")
    assert took <= limit
    assert seconds(panic, relay) <= TO_WIRE_S
    status = board_appliance.show(ready, "status")
    assert status["last_reset"]["kind"] in ("panic", "watchdog")
    assert status["crashes"]["count"] == 1
