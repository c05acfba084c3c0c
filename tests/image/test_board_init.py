# SPDX-License-Identifier: GPL-2.0-only
"""init of the whole image outlives what is typed at a serial line while it starts a program there.

Until it runs its program init's child shares init's memory. It writes to syslog, and if a Ctrl-C ended it there, init
would wait for syslog's lock for ever: no keeper, no shell would be started again, and no order to reboot be heard.
A syslog that takes a line a second makes that moment long.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulator import Board, payload
from simulator.events import WaitTimeout

from tests.support import board_appliance, board_harness

pytestmark = pytest.mark.slow

SLOW_S = 12
SLOW_SYSLOG = f"""
import os, socket, time
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind("/dev/log")
filler = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
filler.connect("/dev/log")
filler.setblocking(False)
end = time.monotonic() + {SLOW_S}
while time.monotonic() < end:
    try:
        while True:
            filler.send(b"full")
    except BlockingIOError:
        time.sleep(1)
        log.recv(4096)
os.unlink("/dev/log")
"""


@pytest.fixture
def typed_at(artefacts: Path, tmp_path: Path) -> Iterator[Board]:
    """A board of its own: one whose init hangs is good for nothing."""
    load = payload.image(artefacts, tmp_path, debug=True)
    with Board(tmp_path, load, accelerator=board_harness.accelerator(artefacts)) as made:
        made.power_on()
        made.sh("true", timeout=120)
        yield made


def test_ctrl_c_while_a_shell_starts_does_not_stop_init(typed_at: Board) -> None:
    """The shell is there again, and a keeper that ends is restarted."""
    board = typed_at
    board.wait_inline()
    keeper = board.pids(board_appliance.KEEPER)
    board.sh(f"python3 -c {shlex.quote(SLOW_SYSLOG)} >/dev/null 2>&1 &")
    board.sh("while [ ! -S /dev/log ]; do usleep 50000; done")
    shell = board.sh("echo $PPID").output
    mark = board.debug.mark()
    board.debug.send("exit\n")
    end = time.monotonic() + SLOW_S
    while time.monotonic() < end:  # a key that is held down
        try:
            board.debug.expect("debug# ", 0.05, since=mark)
            board.debug.send("exit\n")
            mark = board.debug.mark()
        except WaitTimeout:
            board.debug.send("\x03")
    assert board.sh("echo $PPID", timeout=90).output != shell
    board.sh(f"kill -9 {keeper[0]}")
    board_appliance.wait_until(
        board, lambda: [pid for pid in board.pids(board_appliance.KEEPER) if pid not in keeper], "a new keeper"
    )
