# SPDX-License-Identifier: GPL-2.0-only
"""The real keeper with a file for the relay's coil: for test_keeper_process. Only the two device classes are replaced.

    python keeper_on_files.py FOLDER COMMAND ...

FOLDER/relay gets one line a position; FOLDER/watchdog gets one line a call.
"""

from __future__ import annotations

import sys
from pathlib import Path

from appliance import keeper
from appliance.hardware.relay import Relay, RelaySpec
from appliance.hardware.watchdog import Watchdog
from appliance.keepercore import Limits

FOLDER = Path(sys.argv[1])


def note(name: str, text: str) -> None:
    with (FOLDER / name).open("a", encoding="utf-8") as file:
        file.write(text + "\n")


class FileRelay(Relay):
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

    def close(self) -> None:
        note("relay", "close")


class FileWatchdog(Watchdog):
    def __init__(self) -> None:
        self._timeout = 60_000

    def set_timeout(self, milliseconds: int) -> int:
        note("watchdog", f"timeout {milliseconds}")
        self._timeout = milliseconds
        return milliseconds

    def feed(self) -> None:
        note("watchdog", "feed")

    def close(self, orderly: bool) -> None:
        note("watchdog", "stopped" if orderly else "closed")


def main() -> int:
    """Run the keeper of a board with one relay and a watchdog, quick to lose patience."""
    setattr(keeper, "Relay", FileRelay)  # noqa: B010
    setattr(keeper, "find", str)  # noqa: B010
    setattr(Watchdog, "open", lambda path: FileWatchdog())  # noqa: B010
    board = keeper.Board(str(FOLDER / "board.toml"))
    assert not board.error
    made = keeper.Keeper(board, sys.argv[2:], keeper.Logger("stderr"), Limits(checkin=300_000_000))
    made.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
