# SPDX-License-Identifier: GPL-2.0-only
"""The first hour of a new appliance as `console/first-hour.sh` does it, with its serial line and OpenSSH's client.

The script needs a terminal for the serial line; a pseudo-terminal passes on what is typed. Whatever it did is looked at
from the inside afterwards.
"""

from __future__ import annotations

import os
import pty
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from simulator import Board

from tests.support import board_appliance
from tests.support.board_admin import ADDRESS, READY_S, Admin, new_board
from tests.support.board_appliance import show

pytestmark = pytest.mark.slow  # two boots on a board of its own

SCRIPT = Path(__file__).parents[2] / "console/first-hour.sh"
PHRASE = "the phrase of a backup"


@contextmanager
def serial_line(board: Board) -> Iterator[str]:
    """A terminal of this computer whose input is typed on the board's serial line."""
    ours, theirs = pty.openpty()

    def passed_on() -> None:
        while True:
            try:
                board.console.send(os.read(ours, 4096))
            except OSError:
                return

    thread = threading.Thread(target=passed_on, daemon=True)
    thread.start()
    try:
        yield os.ttyname(theirs)
    finally:
        os.close(theirs)  # the last one: the read above ends
        thread.join()
        os.close(ours)


def test_the_script_of_the_first_hour(artefacts: Path, tmp_path: Path) -> None:
    """It ends well; every step has happened: commits, one that was rolled back, a reboot by order, and the backup."""
    assert len(SCRIPT.read_text().splitlines()) <= 30
    (tmp_path / "ssh").mkdir()
    (tmp_path / "phrase").write_text(f"{PHRASE}\n")
    with new_board(artefacts, tmp_path / "board") as board:
        board.console.expect("setup, no or Enter: ", timeout=READY_S)
        admin = Admin(board, tmp_path / "ssh")
        key, _ = admin.make_key("first")
        ssh = " ".join(admin.words("admin")[:-1])
        with serial_line(board) as line:
            words = [str(SCRIPT), line, f"{ADDRESS}/24", str(key), "phrase", "ips1"]
            around = ["env", "-C", str(tmp_path), f"SSH={ssh}", *words]
            done = board.mgmt.run(around, timeout=board.pace.wait(10 * READY_S), check=False)
        assert done.returncode == 0, done.stdout
        comments = [row["comment"] for row in show(board, "commits")]
        assert comments[0].startswith("restored from")
        assert "setup" in comments
        assert "rolled back" in done.stdout
        assert "the SSH host keys are those of the backup already" in done.stdout, "and nobody was refused meanwhile"
        assert 'match = "tcp port 80"' in done.stdout
        assert [rule["name"] for rule in show(board, "rules")["rules"]] == ["web", "all"]
        assert show(board, "status")["last_reset"]["kind"] == "reboot"
        board_appliance.wait_serving(board)
