# SPDX-License-Identifier: GPL-2.0-only
"""The keeper's log lines: written from several threads, and never waited for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LINES = 3000
TWO_THREADS = f"""
import sys, threading
from appliance.keeper.logger import Logger
sys.setswitchinterval(1e-6)
log = Logger("stderr")
def write():
    try:
        for number in range({LINES}):
            log.line(f"line {{number}}", severe=False)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
both = [threading.Thread(target=write) for _ in range(2)]
[one.start() for one in both]
[one.join() for one in both]
"""


def test_two_threads_log_at_a_time(tmp_path: Path) -> None:
    """The loop and the thread of a bus: every line arrives, and neither thread is ended by the other."""
    written = tmp_path / "log"
    with written.open("w") as log:
        done = subprocess.run([sys.executable, "-c", TWO_THREADS], stdout=subprocess.PIPE, stderr=log, check=True)
    assert done.stdout == b""
    assert len(written.read_text().splitlines()) == 2 * LINES


def test_a_full_pipe_loses_lines_and_is_not_waited_for() -> None:
    """What nobody reads is counted."""
    reads, writes = os.pipe()
    program = (
        "from appliance.keeper.logger import Logger\n"
        "log = Logger('stderr')\n"
        "[log.line('x' * 800, False) for _ in range(1000)]\n"
        "print(log.lost)\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writes, check=True, timeout=60
        )
    finally:
        os.close(reads)
        os.close(writes)
    assert 0 < int(done.stdout) < 1000
