# SPDX-License-Identifier: GPL-2.0-only
"""What a test run started ends with it, however the run ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import leftovers

TOP = Path(__file__).parents[2]
RUN = """
import os, subprocess, sys, time
from pathlib import Path
from tests.support import leftovers
with leftovers.ended(Path(sys.argv[1])):
    scratch = {"TMPDIR": f"{sys.argv[1]}/scratch"}
    child = subprocess.Popen(["sleep", "600"], env={**os.environ, **scratch}, start_new_session=True)
    print(child.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_process_of_the_run_ends_with_it(tmp_path: Path, killed: bool) -> None:
    """In good order, and when the run is killed; what belongs to another run stays."""
    base, other = tmp_path / "run", tmp_path / "run2"
    with subprocess.Popen(["sleep", "600"], env={**os.environ, "TMPDIR": str(other)}) as stranger:
        run = subprocess.Popen(
            [sys.executable, "-c", RUN, str(base)], cwd=TOP, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert run.stdout
        assert run.stdin
        child = os.pidfd_open(int(run.stdout.readline()))
        if killed:
            run.kill()
        run.stdin.close()
        run.wait()
        assert select.select([child], [], [], 20)[0], "the process goes on"
        os.close(child)
        assert stranger.poll() is None
        stranger.kill()


def test_a_run_is_known_by_its_whole_folder(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "600"], env={**os.environ, "TMPDIR": str(tmp_path / "a")}) as process:
        assert leftovers.below(tmp_path) == [process.pid]
        assert leftovers.below(tmp_path, frozenset((process.pid,))) == []
        assert leftovers.end(tmp_path) == 1
        assert process.wait(20) == -signal.SIGKILL
