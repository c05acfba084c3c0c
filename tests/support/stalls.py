# SPDX-License-Identifier: GPL-2.0-only
"""What blocked bypassd's event loop on a booted board, from its log; checked by every test of the appliance's board.

bypassd logs each piece of work that blocks the loop for more than 50 ms (appliance/system/loop_watch.py). The emulated
board computes many times slower than hardware, so there anything longer than LIMIT_S at the reference speed is a
failure, and the limit grows as the measured speed falls.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from simulator import Board
from simulator.events import WaitTimeout

LIMIT_S = 0.5
"""At the reference speed of the emulation (board/simulator/pace.py): ten times the 50 ms of hardware.

Of 157 stalls in all image tests at 0.65 of that speed, the median was 75 ms, the longest 436 ms.
"""
LOG = "/run/log/bypass.log"
_SAID = re.compile(
    r"(?P<what>(?:task|callback) .*) blocked the event loop for (?P<wall>\d+) ms "
    r"\(ran (?P<ran>\d+) ms, waited (?P<waited>\d+) ms for a processor\)"
)


class Kept(NamedTuple):
    """One stall: what it was, its own share in seconds, and the whole line."""

    what: str
    own_s: float
    line: str


def parse(log: str) -> list[Kept]:
    """The stalls in a log. Pure."""
    found = []
    for line in log.splitlines():
        if hit := _SAID.search(line):
            wall, ran, waited = (int(hit[name]) for name in ("wall", "ran", "waited"))
            found.append(Kept(hit["what"], max(ran, wall - waited) / 1000, line))
    return found


class Stalls:
    """The stalls of one board."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def new(self, board: Board) -> list[Kept]:
        """New stalls in the log; none while the board is off or not up."""
        if board.qemu_pid is None:
            return []
        words = f"grep -h 'blocked the event loop' {LOG}.1 {LOG} 2>/dev/null || true"
        try:
            found = parse(board.sh(words, timeout=20, check=False).output)
        except WaitTimeout:
            return []
        fresh = [one for one in found if one.line not in self._seen]
        self._seen.update(one.line for one in fresh)
        return fresh

    def check(self, board: Board) -> None:
        """AssertionError: something blocked the loop too long since the last call."""
        limit, found = board.pace.wait(LIMIT_S), self.new(board)
        for one in found:
            board.events.add("stall", text=one.line)
        long = [one.line for one in found if one.own_s > limit]
        assert not long, f"longer than {limit:g} s: " + "; ".join(long)
