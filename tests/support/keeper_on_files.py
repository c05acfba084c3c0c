# SPDX-License-Identifier: GPL-2.0-only
"""The real keeper with files for the relay's coil and the watchdog; only these two device classes are replaced.

    python keeper_on_files.py FOLDER COMMAND ...

FOLDER/relay gets one line per position; FOLDER/watchdog gets one line per call.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

from appliance.hardware.relay.kinds import KINDS
from appliance.hardware.relay.protocol import RelaySpec
from appliance.hardware.watchdog import Watchdog, WatchdogDevice, Watchdogs
from appliance.keeper import loop
from appliance.keeper.board import Board
from appliance.keeper.limits import Limits
from appliance.keeper.logger import Logger
from tests.support.keeper_limits import LIMITS

FOLDER = Path(sys.argv[1])
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
FILES = {name: os.open(FOLDER / name, FLAGS, 0o644) for name in ("relay", "watchdog")}


def note(name: str, text: str) -> None:
    os.write(FILES[name], (text + "\n").encode())


class FileRelay:
    def __init__(self, spec: RelaySpec) -> None:
        self.spec, self._position = spec, "bypass"

    def open(self) -> str:
        note("relay", "open")
        return self._position

    def set(self, mode: str) -> None:
        self._position = mode
        note("relay", mode)

    def read(self) -> str:
        return self._position

    def kick(self, level: bool) -> None: ...

    def close(self) -> None:
        note("relay", "close")


class FileWatchdog(Watchdog):
    def __init__(self) -> None:
        self._timeout = 60_000

    def set_timeout(self, milliseconds: int) -> int:
        note("watchdog", f"timeout {milliseconds}")
        self._timeout = milliseconds
        return milliseconds

    def facts(self) -> WatchdogDevice:
        return WatchdogDevice("file", "a file", self._timeout)

    def feed(self) -> None:
        note("watchdog", "feed")

    def close(self) -> None:
        note("watchdog", "closed")


def pidfd_open(pid: int, flags: int = 0, real: Callable[[int, int], int] = os.pidfd_open) -> int:
    if (FOLDER / "no-pidfd").exists():
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
    return real(pid, flags)


def main(limits: Limits = LIMITS) -> int:
    """Run the keeper of a board with one relay and a watchdog, by default with short timeouts."""
    KINDS["level"] = KINDS["level"]._replace(make=FileRelay)
    setattr(Watchdogs, "open", lambda drivers, pretimeout_ms: Watchdogs([FileWatchdog()]))  # noqa: B010
    setattr(os, "pidfd_open", pidfd_open)  # noqa: B010
    board = Board(str(FOLDER / "board.toml"))
    assert not board.error
    made = loop.Keeper(board, sys.argv[2:], Logger("stderr"), limits)
    made.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
