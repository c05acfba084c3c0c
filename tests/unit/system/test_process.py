# SPDX-License-Identifier: GPL-2.0-only
"""Programs that outlive who started them: they are found again, and their end is known at once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.errors import GuestError
from appliance.guest.qemu import process as qemu
from appliance.system.process import LOG_BYTES, Process, last_words, rotate, start_time


def test_end_is_told_and_described(tmp_path: Path) -> None:
    process = Process.start(["sleep", "60"], {}, tmp_path / "log")
    assert process.alive
    process.kill()
    process.wait()
    assert not process.alive
    assert process.reap() == "killed by SIGKILL"


def test_runs_in_a_session_of_its_own(tmp_path: Path) -> None:
    """So that what ends bypassd and its group leaves the guest alone."""
    process = Process.start(["sleep", "60"], {}, tmp_path / "log")
    assert os.getsid(process.pid) == process.pid != os.getsid(0)
    process.kill()
    process.wait()
    process.reap()


def test_outlives_its_starter_and_is_adopted(tmp_path: Path) -> None:
    """Another process starts it and is gone; pid and start time find it again."""
    code = (
        "import sys; from pathlib import Path; from appliance.system.process import Process\n"
        f"p = Process.start(['sleep', '60'], {{}}, Path({str(tmp_path / 'log')!r})); print(p.pid, p.started)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    process = Process.find(int(out[0]), int(out[1]))
    assert process is not None
    assert process.alive
    process.kill()
    process.wait()
    assert not process.alive
    assert process.reap() == "ended"


def test_another_process_with_its_number_is_not_adopted() -> None:
    mine = start_time(os.getpid())
    assert mine is not None
    assert Process.find(os.getpid(), mine - 1) is None


def test_an_ended_process_is_not_adopted(tmp_path: Path) -> None:
    process = Process.start(["true"], {}, tmp_path / "log")
    process.wait()
    assert Process.find(process.pid, process.started) is None
    process.reap()


def test_descriptors_arrive_under_their_numbers(tmp_path: Path) -> None:
    """Also when our numbers and theirs overlap, crosswise."""
    pipes = [os.pipe() for _ in range(3)]
    for number, (_, write) in enumerate(pipes):
        os.write(write, f"pipe {number}\n".encode())
        os.close(write)
    ours = [read for read, _ in pipes]
    theirs = list(reversed(ours))
    log = tmp_path / "log"
    code = "; ".join(f"head -n1 <&{fd}" for fd in theirs)
    process = Process.start(["bash", "-c", code], dict(zip(theirs, ours, strict=True)), log)
    process.wait(10)
    assert process.reap() == "exited with status 0"
    assert log.read_text().split("\n") == ["pipe 0", "pipe 1", "pipe 2", ""]
    for fd in ours:
        os.close(fd)


def test_no_such_program_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Process.start(["no-such-qemu"], {}, tmp_path / "log")
    with pytest.raises(GuestError, match="no-such-qemu cannot be started: No such file"):
        qemu.Process.start(["no-such-qemu"], {}, tmp_path / "log")


def test_a_program_that_cannot_be_watched_is_not_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[int] = []

    def refuse(pid: int) -> int:
        watched.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many"):
        Process.start(["sh", "-c", "trap '' TERM; sleep 1000"], {}, tmp_path / "log")
    with pytest.raises(ChildProcessError):
        os.waitpid(watched[0], os.WNOHANG)


def test_its_words_are_kept_and_shown(tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = Process.start(["sh", "-c", "echo first; echo >&2 'qemu: bad option'; exit 3"], {}, log)
    process.wait()
    assert process.reap() == "exited with status 3"
    assert last_words(log) == "first; qemu: bad option"


def test_logs_stay_bounded(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * (LOG_BYTES + 1))
    rotate(log)
    assert log.stat().st_size == 0
    assert (tmp_path / "log.1").stat().st_size == LOG_BYTES
    rotate(tmp_path / "none")
