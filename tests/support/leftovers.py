# SPDX-License-Identifier: GPL-2.0-only
"""Ends what a test run leaves behind, even if the run itself is killed: guests outlive the process that started them.

A child process of the run waits for end of file on its standard input, which comes when the run ends, however it ends.
Then it kills every process that works below the run's temporary folder and unmounts what is mounted there.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_TRIES = 5  # a process may have started another in the meantime


def below(base: Path, skip: frozenset[int] = frozenset()) -> list[int]:
    """The processes that have a path below `base` as an argument or as their folder for temporary files."""
    wanted, found = os.fsencode(f"{base}/"), []
    for folder in Path("/proc").glob("[0-9]*"):
        if (pid := int(folder.name)) in skip:
            continue
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            words += [word[7:] for word in (folder / "environ").read_bytes().split(b"\0") if word[:7] == b"TMPDIR="]
            if any(word.startswith(wanted) for word in words):
                found.append(pid)
    return found


def end(base: Path, skip: frozenset[int] = frozenset()) -> int:
    """Kill these processes and unmount what is mounted below `base`; returns how many were killed."""
    ended: set[int] = set()
    for _ in range(_TRIES):
        if not (pids := below(base, skip)):
            break
        ended.update(pids)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{base}/"):
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
    return len(ended)


@contextlib.contextmanager
def ended(base: Path) -> Iterator[None]:
    """Kill and unmount what is left below `base` when the block ends, or this process does."""
    command = [sys.executable, "-I", __file__, str(base), str(os.getpid())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as warden:
        yield
        assert warden.stdin
        warden.stdin.close()


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end(Path(sys.argv[1]), frozenset((os.getpid(), int(sys.argv[2]))))
