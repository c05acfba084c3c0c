# SPDX-License-Identifier: GPL-2.0-only
"""The keeper: the small half of the supervisor, started by init. It owns relays, watchdog and the life of bypassd.

It owns the relay lines, the watchdogs and the LEDs while it runs; when it dies, the kernel releases the lines and the
watchdogs keep counting. Its memory is locked and its priority is real-time. It imports only the standard library,
periphery, and smbus2 on a board that needs it, and little of each. core.py decides, loop.py acts, protocol.py is the
link to bypassd.
"""

from __future__ import annotations

import os
import sys

from appliance.keeper.board import Board
from appliance.keeper.logger import Logger
from appliance.keeper.loop import Keeper

_PRIORITY = 50  # SCHED_FIFO; above all our processes, below the kernel's own watchdog threads


def harden(log: Logger) -> None:
    """Lock memory, take real-time priority, hide from the out-of-memory killer. Each refusal is logged in one line."""
    import ctypes
    import gc

    gc.freeze()
    if ctypes.CDLL(None, use_errno=True).mlockall(3):  # MCL_CURRENT | MCL_FUTURE
        log.line(f"memory cannot be locked: {os.strerror(ctypes.get_errno())}", severe=False)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(_PRIORITY))
    except OSError as error:
        log.line(f"no real-time priority: {error.strerror}: run as root", severe=False)
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("-1000")
    except OSError as error:
        log.line(f"the kernel may kill the keeper when memory runs out: {error.strerror}", severe=False)


def main(arguments: list[str] | None = None) -> int:
    """`python -m appliance.keeper [--board F] [--config F] [--root DIR] [--log stderr|kmsg] [-- COMMAND ...]`."""
    given = sys.argv[1:] if arguments is None else arguments
    command = given[given.index("--") + 1 :] if "--" in given else []
    options = {"--board": "", "--config": "", "--root": "/", "--log": "stderr"}
    rest = given[: given.index("--")] if "--" in given else given
    while rest:
        if rest[0] not in options or len(rest) < 2:
            print(f"{main.__doc__}\nbypass-keeper: unexpected argument: {rest[0]}", file=sys.stderr)
            return 2
        options[rest[0]] = rest[1]
        rest = rest[2:]
    log = Logger(options["--log"])
    path = options["--board"] or os.path.join(options["--root"], "usr/share/bypass/board.toml")
    if not command:
        isolated = ["-I"] if sys.flags.isolated else []
        command = [sys.executable, *isolated, "-m", "appliance", "--root", options["--root"], "--board", path]
        if options["--config"]:
            command += ["--config", options["--config"]]
    board = Board(path)
    if board.error:
        log.line(board.error, severe=True)
    keeper = Keeper(board, command, log)
    harden(log)
    keeper.run()
    log.line("ended", severe=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
