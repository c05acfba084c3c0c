# SPDX-License-Identifier: GPL-2.0-only
"""Boots the appliance repeatedly with two guests, one of them on the management LAN: does the board's kernel, or a
program on it, ever fail?

    python -m tests.support.boots --boots 100 [--threads single] [--no-inner-kvm]

While a second guest started under the emulated processor's own virtualization and its port joined the bridge of the
management LAN, a panic was seen once in six boots, and a shell that ended unexpectedly. Each variant excludes one
suspect: QEMU's threads (one per processor of the board, or one for all) and the virtualization inside (without it the
guests are emulated as well). Prints a line for each boot with the kernel's messages about panics, oopses and processes
that were killed by a processor exception, and the guests that did not serve in time, which is no failure of the board.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import boardspec
from simulator import Board, payload
from simulator.board import BoardError

from tests.support import board_appliance, board_harness
from tests.support.board_admin import commit

SECOND, ADDRESS, MANAGEMENT = "second", "10.88.0.9/24", "10.88.0.2/24"
DEMO = "/usr/share/bypass/guest-demo"
GUESTS_S = 60.0  # at the reference speed
BAD = re.compile(r"segfault|general protection|invalid opcode|traps:|BUG:|Oops|Kernel panic|Out of memory|oom-kill")


def configure(board: Board) -> None:
    """Configure a second guest that starts with the appliance, bridged to the management LAN."""
    settings = (
        *(
            ("kernel", f"{DEMO}/bzImage"),
            ("initrd", f"{DEMO}/initrd.gz"),
            ("cmdline", f"console=ttyS0 quiet management={ADDRESS}"),
        ),
        ("management", "bridged"),
        *(("memory", "96M"), ("autostart", "true"), ("probes", "1", "kind", "inband")),
        ("probes", "1", "interval", "100ms"),
    )
    guest = (("set", "guest", SECOND, *words) for words in settings)
    commit(board, ("set", "management", "address", MANAGEMENT), *guest)


def one(board: Board, first: bool) -> tuple[list[str], str]:
    """One boot, until both guests serve; returns the kernel's messages about failures, and the guests that do not."""
    if first:
        board_appliance.wait_serving(board)
        configure(board)
        board.sh(f"bypass guest {SECOND} start", check=False)
    idle = ""
    try:
        board_appliance.wait_until(board, lambda: not waiting(board), "both guests serve", GUESTS_S)
    except AssertionError:
        idle = waiting(board)
    found = [line for line in board.sh("dmesg").output.splitlines() if BAD.search(line)]
    return found + [str(event["text"]) for event in board.events.since(0) if event["event"] == "shell lost"], idle


def waiting(board: Board) -> str:
    """The guests that do not serve, and why."""
    rows = {name: board_appliance.guest(board, name) for name in (board_appliance.GUEST, SECOND)}
    return ", ".join(
        f"{name} is {row.get('state')} ({row.get('cause')})"
        for name, row in rows.items()
        if row.get("state") != "available"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Boot the appliance repeatedly with two guests, and report failures.")
    parser.add_argument("--boots", type=int, default=100)
    parser.add_argument("--threads", choices=("multi", "single"), default="multi", help="of the emulator")
    parser.add_argument("--no-inner-kvm", action="store_true", help="a processor without virtualization")
    asked = parser.parse_args()
    artefacts = board_harness.artefacts()
    accelerator = replace(board_harness.accelerator(artefacts), threads=asked.threads)
    if asked.no_inner_kvm:
        plain = boardspec.load().arch.qemu.emulated_cpu.split(",")[0]
        accelerator = replace(accelerator, cpu=f"{plain},-svm")
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        for number in range(1, asked.boots + 1):
            began = time.monotonic()
            with Board(directory, payload.image(artefacts, directory, debug=True), accelerator=accelerator) as board:
                board.power_on()
                try:
                    found, idle = one(board, first=number == 1)
                except (BoardError, AssertionError) as error:
                    found, idle = [f"{type(error).__name__}: {error}", board.console.text[-4000:]], ""
            failed += bool(found)
            result = "; ".join(filter(None, (*found, idle))) or "nothing"
            print(f"boot {number}: {time.monotonic() - began:.0f} s: {result}", flush=True)
    print(f"{failed} of {asked.boots} boots failed ({asked.threads}, inner KVM {not asked.no_inner_kvm})")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
