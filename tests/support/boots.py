# SPDX-License-Identifier: GPL-2.0-only
"""Boots the appliance repeatedly with two guests, one of them on the management LAN: does the board's kernel, or a
program on it, ever fail?

    python -m tests.support.boots --boots 100 [--threads single] [--no-inner-kvm]

While a second guest started under the emulated processor's own virtualization and its port joined the bridge of the
management LAN, a panic was seen once in six boots, and a shell that ended unexpectedly. Each variant excludes one
suspect: QEMU's threads (one per processor of the board, or one for all) and the virtualization inside (without it the
guests are emulated as well). Prints a line for each boot, and the kernel's messages about panics, oopses and processes
that were killed by a processor exception.
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


def one(board: Board, first: bool) -> list[str]:
    """Wait in one boot until both guests serve; returns the kernel's messages about failures."""
    if first:
        board_appliance.wait_serving(board)
        configure(board)
        board.sh(f"bypass guest {SECOND} start", check=False)
    for name in (board_appliance.GUEST, SECOND):
        board_appliance.wait_serving(board, name)
    found = [line for line in board.sh("dmesg").output.splitlines() if BAD.search(line)]
    return found + [str(event["text"]) for event in board.events.since(0) if event["event"] == "shell lost"]


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
                    found = one(board, first=number == 1)
                except (BoardError, AssertionError) as error:
                    found = [f"{type(error).__name__}: {error}", board.console.text[-4000:]]
            failed += bool(found)
            print(f"boot {number}: {time.monotonic() - began:.0f} s: {'; '.join(found) or 'nothing'}", flush=True)
    print(f"{failed} of {asked.boots} boots failed ({asked.threads}, inner KVM {not asked.no_inner_kvm})")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
