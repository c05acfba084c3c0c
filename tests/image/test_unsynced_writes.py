# SPDX-License-Identifier: GPL-2.0-only
"""A disk that loses accepted but unflushed writes: no acknowledged commit is lost with them.

QEMU keeps a log of every write and flush of the data disk while configurations are committed, by the product's store
and over the control socket. Afterwards the disk is made again as a power cut at many moments may have left it: all
that was flushed until then, and of the rest whatever luck has kept, in any order. Each of these disks is recovered as
a boot does it, and what was acknowledged before the cut must be there, whole. A file that is written beside and never
synced shows that the disk does lose.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from simulator import Board, payload

from appliance.config.check.load import loads
from appliance.config.commit.store import Store
from tests.support import board_appliance, board_harness, disk_log
from tests.support.commit_writers import SCRIPT, WRITERS

pytestmark = pytest.mark.slow

STORED, COMMITTED, CUTS = 40, 4, 250
Acknowledged = list[tuple[int, int]]  # (orders in the log when it was known, number)


@pytest.fixture(scope="module")
def logged(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Board, Path, Path]]:
    """A board with a log of its data disk: the board, the log, and the disk as it was before."""
    folder = tmp_path_factory.mktemp("logged-board")
    log, before = folder / "data.log", folder / "before.img"
    log.touch()
    load = payload.image(artefacts, folder, debug=True)
    drives = tuple(drive if drive.readonly else replace(drive, log=log) for drive in load.drives)
    (disk,) = (drive.path for drive in drives if not drive.readonly)
    subprocess.run(["cp", "--sparse=always", disk, before], check=True)
    load = replace(load, drives=drives)
    with Board(folder, load, accelerator=board_harness.accelerator(artefacts)) as made:
        made.power_on()
        made.sh("true", timeout=120)
        yield made, log, before


def store_commits(board: Board, log: Path) -> Acknowledged:
    """Commit by the store, one after the other, each acknowledged to us before the next."""
    board_appliance.write(board, SCRIPT, WRITERS)
    board.debug.send(f"python3 {SCRIPT} acknowledge {STORED}\n")
    found = []
    for number in range(1, STORED + 1):
        board.debug.expect(rf"acknowledged {number}\b", timeout=60)
        found.append((disk_log.length(log), number))
        board.debug.send("\n")
    board.sh("true")
    return found


def console_commits(board: Board, log: Path) -> Acknowledged:
    """Commit as an administrator does."""
    board_appliance.wait_until(board, lambda: board_appliance.show(board, "status"), "bypassd answers")
    found = []
    for number in range(1, COMMITTED + 1):
        board.sh(f"printf 'set system hostname cut{number}\\n' | bypass configure", timeout=120)
        found.append((disk_log.length(log), number))
    return found


def least(acknowledged: Acknowledged, at: int) -> int:
    """The newest number that was acknowledged before the cut: one order more shows that the last flush was answered."""
    return max((number for orders, number in acknowledged if orders < at), default=0)


def name_of(text: str) -> int:
    name = loads(text, filters=False).system.hostname
    return int(name[3:]) if name.startswith("cut") else 0


def test_no_acknowledged_commit_is_lost_by_a_disk_that_drops_unsynced_writes(
    logged: tuple[Board, Path, Path], tmp_path: Path
) -> None:
    board, log, before = logged
    committed = console_commits(board, log)
    stored = store_commits(board, log)
    board.power_cut()
    orders = list(disk_log.read(log))
    luck = random.Random(11)
    first = committed[0][0]
    moments = sorted(
        {at + 1 for at, _ in (*committed[:-1], *stored[:-1])} | {luck.randint(first, len(orders)) for _ in range(CUTS)}
    )
    disk, image, found = disk_log.Disk(before, orders), tmp_path / "cut.img", tmp_path / "found"
    blocks = careless = 0
    for at in moments:
        blocks += disk.cut(at, image, luck)
        disk_log.recovered(image, ["/cut", "/etc", "/last-run.json"], found)
        assert name_of((found / "etc/config.toml").read_text()) >= least(committed, at), (
            f"cut at {at}: a commit is lost"
        )
        json.loads((found / "last-run.json").read_text())
        wanted = least(stored, at)
        if not wanted:
            continue
        kept = Store(found / "cut/config.toml", found / "cut/history")
        begun = kept.recover("boot", 0)
        assert begun.error is None, f"cut at {at}: {begun}"
        assert wanted <= name_of(begun.text) <= wanted + 1, f"cut at {at}: acknowledged {wanted}"
        assert kept.entry(0).text == begun.text, f"cut at {at}: history and startup are not the same"
        lazy = found / "cut/careless"
        careless += not lazy.exists() or int(lazy.read_text() or 0) < wanted
    print(f"{len(moments)} cuts over {len(orders)} orders, {blocks} blocks lost, {careless} times the unsynced file")
    assert blocks, "the disk lost nothing"
    assert careless, "not even what was never synced was lost"
