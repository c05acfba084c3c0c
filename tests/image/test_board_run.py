# SPDX-License-Identifier: GPL-2.0-only
"""`make run`'s front end: banner, serial line in this terminal, a second terminal, a clean end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from simulator import netns

PREFIX = f"tr{os.getpid() % 10000}"
TOP = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(TOP / "board")}


def command(directory: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "simulator", "--dir", str(directory), *words]


def second_terminal(directory: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(directory, *words), env=ENVIRONMENT, capture_output=True, text=True, check=False)


@pytest.fixture
def session(artefacts: Path, tmp_path: Path) -> Iterator[pexpect.spawn]:
    """`simulator run` on a terminal, up to the first word of the kernel."""
    words = command(tmp_path, "run", "--artefacts", str(artefacts), "--prefix", PREFIX, "--append", "loglevel=7")
    child = pexpect.spawn(words[0], words[1:], env=ENVIRONMENT, timeout=90, encoding="utf-8", codec_errors="replace")
    child.directory = tmp_path
    child.expect("ip netns exec")
    child.expect("Linux version")
    yield child
    child.close(force=True)


def test_session_from_banner_to_escape(session: pexpect.spawn) -> None:
    """Raw while it runs; another terminal cuts the power and gives it again; Ctrl-A x ends and leaves nothing."""
    assert not termios.tcgetattr(session.child_fd)[3] & termios.ICANON
    status = second_terminal(session.directory, "status")
    assert "bypass" in status.stdout, status.stderr
    assert second_terminal(session.directory, "relay").stdout == "bypass\n"
    cut = second_terminal(session.directory, "power", "cut")
    assert "power      off" in cut.stdout, cut.stderr
    session.expect("power off: power cut")
    refused = second_terminal(session.directory, "reset")
    assert refused.returncode == 1
    assert "the machine is off" in refused.stderr
    assert second_terminal(session.directory, "power", "on").returncode == 0
    session.expect("Linux version")
    assert "lan out" in second_terminal(session.directory, "unplug", "lan").stdout
    assert "cause=start" in second_terminal(session.directory, "relay", "log").stdout
    session.send("\x01h")
    session.expect("Ctrl-A x  end")
    session.send("\x01x")
    session.expect("board off")
    session.expect(pexpect.EOF)
    session.wait()
    assert session.exitstatus == 0
    assert not netns.exists(f"{PREFIX}-board")
    log = [json.loads(text) for text in (session.directory / "events.jsonl").read_text().splitlines()]
    assert [event["state"] for event in log if event["event"] == "power"] == ["on", "off", "on", "off"]
    assert "no board runs" in second_terminal(session.directory, "status").stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_cleanly(session: pexpect.spawn, number: signal.Signals) -> None:
    session.kill(number)
    session.expect(pexpect.EOF)
    session.wait()
    assert session.exitstatus == 0
    assert not netns.exists(f"{PREFIX}-board")


def test_without_a_terminal(artefacts: Path, tmp_path: Path) -> None:
    """Piped: the serial line goes to standard output, the pipe's bytes to the board; a signal ends it."""
    words = command(tmp_path, "run", "--artefacts", str(artefacts), "--prefix", PREFIX, "--append", "loglevel=7")
    with subprocess.Popen(
        words, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        assert any(b"Linux version" in text for text in process.stdout)
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
    assert process.returncode == 0
    assert not netns.exists(f"{PREFIX}-board")


def test_missing_image_is_said_in_one_line(tmp_path: Path) -> None:
    done = second_terminal(tmp_path / "run", "run", "--artefacts", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "make" in done.stderr
