# SPDX-License-Identifier: GPL-2.0-only
"""Fifty power cuts while configurations are committed: each time the old or the new one is there, complete.

Two writers run on the board. One commits over the control socket, as an administrator would; the other writes by the
same store as fast as the disk takes it, so that many cuts fall into the middle of a write. Both note, synced, what was
acknowledged. After each cut what is found must be what was acknowledged last, or the one that was just being written.
Cuts that left a trace of unfinished writing are counted, and there must be some in each turn: a file beside its place,
a history ahead of startup, a commit that nobody was told of. A cut before the first sync leaves none: there were more.

What is lost is what the board's kernel had not given to its disk yet; a disk that loses what it has taken is the
subject of test_unsynced_writes.py. tests/unit/config/test_store.py cuts behind every single system call; this is the
same with a real kernel and disk.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulator import Board, payload
from simulator.events import WaitTimeout

from tests.support import board_appliance, board_harness
from tests.support.commit_writers import SCRIPT, WRITERS

pytestmark = pytest.mark.slow

ROUNDS, CUTS = 5, 10
LONGEST_S = 14.0  # from the shell's answer to the cut: longer than bypassd needs for its first commits


@pytest.fixture(scope="module")
def cut(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board of its own, because its disk may be damaged."""
    directory = tmp_path_factory.mktemp("cut-board")
    load = payload.image(artefacts, directory, debug=True)
    with Board(directory, load, accelerator=board_harness.accelerator(artefacts)) as made:
        made.power_on()
        made.sh("true", timeout=120)
        board_appliance.write(made, SCRIPT, WRITERS)
        made.sh("mkdir -p /var/lib/bypass/cut; sync")
        yield made


def come_up(board: Board, when: str) -> None:
    """Power on, and wait for a shell."""
    if board.qemu_pid is None:
        board.power_on()
    try:
        board.sh("true", timeout=120)
    except WaitTimeout as error:
        said = board.console.text[-3000:]
        raise AssertionError(f"{when}: the board does not come up: {board.status()}\n{said}") from error


def hostname(board: Board) -> str:
    """The name that holds, once bypassd answers; "" before."""
    return board.sh("hostname").output.strip() if board_appliance.show(board, "status") else ""


def test_power_cut_before_a_commit_is_confirmed(cut: Board) -> None:
    """A commit awaiting confirmation does not outlive the machine: the restart rolls it back."""
    come_up(cut, "before")
    before = board_appliance.wait_until(cut, lambda: hostname(cut), "bypassd answers")
    cut.sh("printf 'set system hostname unsure\\ncommit confirmed 600\\n' | bypass configure", timeout=120)
    board_appliance.wait_until(cut, lambda: hostname(cut) == "unsure", "the new name holds")
    cut.power_cut()
    come_up(cut, "after")
    assert board_appliance.wait_until(cut, lambda: hostname(cut), "bypassd answers") == before
    assert "unsure" not in cut.sh("cat /etc/bypass/config.toml").output


@pytest.mark.parametrize("turn", range(ROUNDS))
def test_power_cuts_while_configurations_are_committed(cut: Board, turn: int) -> None:
    """Ten cuts at random times: nothing is torn, nothing acknowledged is lost."""
    moments = random.Random(turn)
    tally, traces = {"store": 0, "commit": 0}, Counter[str]()
    for number in range(CUTS):
        come_up(cut, f"cut {number}")
        found = json.loads(cut.sh(f"python3 {SCRIPT} check", timeout=120).output.splitlines()[-1])
        traces[found.pop("trace")] += 1
        for writer, (acknowledged, there) in found.items():
            traces["commit unacknowledged"] += (writer, there) == ("commit", acknowledged + 1)
            assert acknowledged <= there <= acknowledged + 1, f"cut {number}: {writer}: {found}"
            tally[writer] = max(tally[writer], there)
        cut.sh(f"cd /tmp; for what in fast commits; do python3 {SCRIPT} $what >/tmp/$what.log 2>&1 & done")
        threading.Event().wait(moments.uniform(1.0, LONGEST_S))
        cut.power_cut()
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(traces.items()) if kind and count)
    done = f"{tally['store']} stores and {tally['commit']} commits so far"
    print(f"turn {turn}: {CUTS} cuts, {done}; cut off while writing: {said}")
    assert tally["store"] > 0
    assert sum(count for kind, count in traces.items() if kind) > 0, "no cut fell into a write"
