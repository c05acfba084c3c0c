# SPDX-License-Identifier: GPL-2.0-only
"""One session is ended by its id: the server's process for it, and no process that is none."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.access import ssh
from appliance.access.sessions import Sessions
from appliance.access.sshlog import SshEvent
from console.terminal.login import banner
from tests.support.waiting import wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the name that the SSH server's have."""
    sleep = shutil.which("sleep")
    assert sleep
    shutil.copy(sleep, tmp_path / "dropbear")
    process = subprocess.Popen([tmp_path / "dropbear", "60"])
    comm = Path(f"/proc/{process.pid}/comm")
    wait_until(lambda: comm.read_text() == "dropbear\n", "the process has its name", 10)
    yield process
    process.kill()
    process.wait()


def test_one_session_ends(server: subprocess.Popen[bytes]) -> None:
    sessions = Sessions()
    sessions.note(SshEvent("login", "anna", "192.0.2.7", "key", server.pid))
    sessions.note(SshEvent("login", "mia", "192.0.2.8", "key", 1))
    assert sessions.end_one(1) is None, "init is no session, whatever a log says"
    assert sessions.end_one(server.pid + 1) is None
    ended = sessions.end_one(server.pid)
    assert ended is not None
    assert (ended.user, ended.address) == ("anna", "192.0.2.7")
    assert server.wait(10) == -signal.SIGKILL
    assert sessions.show() == []
    assert sessions.end_one(server.pid) is None


def test_the_banner_is_a_file_of_its_own_for_each_text(tmp_path: Path) -> None:
    """So the SSH server is started anew when the text changes, and only then; control characters reach no terminal."""
    first = ssh.keep_banner("Authorized\nusers only\x1b[2J", tmp_path)
    assert first is not None
    assert first.read_text() == "Authorized\nusers only?[2J\n"
    assert first.stat().st_mode & 0o777 == 0o644
    assert banner(tmp_path) == "Authorized\nusers only?[2J"
    assert ssh.keep_banner("Authorized\nusers only\x1b[2J", tmp_path) == first
    other = ssh.keep_banner("Go away", tmp_path)
    assert other != first
    assert sorted(tmp_path.iterdir()) == [other]
    assert ssh.keep_banner("", tmp_path) is None
    assert banner(tmp_path) == ""
