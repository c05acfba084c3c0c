# SPDX-License-Identifier: GPL-2.0-only
"""Connectors in the host kernel: joined without loss, separated, switched under traffic, and cleaned up."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from simulator import Board, BoardError, Payload, netns
from simulator.download import Download
from simulator.stream import Stream
from simulator.wires import Position

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root for network namespaces")]
OFF = Payload(Path("/nonexistent"))  # never powered on here
SPACES = ("board", "lan", "wan", "mgmt")


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    with Board(tmp_path / "board", OFF) as made:
        yield made


def move(board: Board, position: Position) -> int:
    """Put the contacts somewhere without a machine."""
    stamp: int = board._loop_do(lambda: board._simulator.wires.change(relay=position))
    return stamp


def test_joined_wires_lose_nothing(board: Board, tmp_path: Path) -> None:
    """1,000 numbered frames a second each way across the closed relay: all there, once, in order."""
    streams = [Stream(board.lan, board.wan, tmp_path / "up"), Stream(board.wan, board.lan, tmp_path / "down")]
    for stream in streams:
        stream.wait_arrival(stream.wait_arrival(0) + 1_000_000_000)
    for stream in streams:
        report = stream.stop()
        assert report.received >= 900
        assert (report.lost, report.duplicates, report.reordered) == (0, 0, 0), report


def test_split_wires_carry_nothing_between_the_hosts(board: Board, tmp_path: Path) -> None:
    """Inline without a machine behind the ports: no frame takes a short cut; back in bypass all arrive again."""
    stream = Stream(board.lan, board.wan, tmp_path / "up")
    first = stream.wait_arrival(0)
    split = move(board, "inline")
    with pytest.raises(TimeoutError):
        stream.wait_arrival(split + 5_000_000, timeout=0.4)
    joined = move(board, "bypass")
    end = stream.wait_arrival(joined + 200_000_000)
    stream.stop()
    assert stream.report(first, split - 5_000_000).whole
    assert stream.report(split + 5_000_000, joined - 5_000_000).received == 0
    assert stream.report(joined + 5_000_000, end - 5_000_000).whole


def test_rewriting_the_same_position_loses_nothing(board: Board, tmp_path: Path) -> None:
    """Each write replaces a filter in one step, so doing it over and over under traffic costs no frame."""
    stream = Stream(board.wan, board.lan, tmp_path / "down", rate=2000)
    stream.wait_arrival(0)

    def again() -> None:
        wires = board._simulator.wires
        wires._applied = {}
        wires.apply(wires.panel)

    for _ in range(300):
        board._loop_do(again)
    stream.wait_arrival(stream.wait_arrival(0) + 300_000_000)
    assert stream.stop().whole


def test_download_across_the_wire_is_whole(board: Board) -> None:
    download = Download(board.lan, board.wan, 3_000_000, rate=6_000_000)
    result = download.wait()
    assert result.whole, result
    assert result.bytes == 3_000_000


def test_interrupted_download_is_not_whole(board: Board) -> None:
    """The check can fail: a server that ends half-way leaves a broken download behind."""
    download = Download(board.lan, board.wan, 50_000_000, rate=1_000_000)
    board.wan.end(download._server_process)
    assert not download.wait().whole


def test_ipv6_and_management_hosts(board: Board) -> None:
    assert board.lan.ping("fd77::2")
    assert not board.mgmt.ping("10.77.0.1", timeout=1)


def test_pulled_cable_takes_the_carrier_of_both(board: Board) -> None:
    """In bypass the hosts are each other's link partner."""
    for host in (board.lan, board.wan):
        assert host.run(["cat", "/sys/class/net/eth0/carrier"]).stdout == "1\n"
    board.unplug("wan")
    for host in (board.lan, board.wan):
        assert host.run(["cat", "/sys/class/net/eth0/carrier"]).stdout == "0\n"
    board.plug("wan")
    assert board.lan.ping(board.wan.ipv4)


def test_two_boards_live_side_by_side(board: Board, tmp_path: Path) -> None:
    with Board(tmp_path / "other", OFF) as other:
        assert other.prefix != board.prefix
        assert other.lan.ping(other.wan.ipv4)
        assert board.lan.ping(board.wan.ipv4)
        other.unplug("lan")
        assert board.lan.ping(board.wan.ipv4)
    with pytest.raises(BoardError, match="another board simulator"):
        Board(tmp_path / "board", OFF).open()
    assert board.lan.ping(board.wan.ipv4)


def test_close_leaves_nothing(tmp_path: Path) -> None:
    """Namespaces and processes go with the board, also when a test in between fails."""
    with contextlib.suppress(ZeroDivisionError), Board(tmp_path / "b", OFF) as made:
        process = made.lan.popen(["sleep", "1000"])
        assert all(netns.exists(f"{made.prefix}-{name}") for name in SPACES)
        raise ZeroDivisionError
    assert process.poll() is not None
    assert not any(netns.exists(f"{made.prefix}-{name}") for name in SPACES)


SCRIPT = """
import sys
from pathlib import Path
from simulator import Board, Payload
board = Board(Path(sys.argv[1]), Payload(Path("/nonexistent")), prefix=sys.argv[2])
board.open()
board.lan.popen(["sleep", "1000"])
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_leftovers_of_a_killed_simulator_are_cleared(tmp_path: Path, number: signal.Signals) -> None:
    """A killed simulator cannot clean up; the next one with its name does, and its processes died with it."""
    prefix = f"tk{os.getpid() % 10000}"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "board")}
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "b"), prefix],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(BoardError, match="used by another"):
            Board(tmp_path / "c", OFF, prefix=prefix).open()
        process.send_signal(number)
    assert netns.exists(f"{prefix}-lan")
    with Board(tmp_path / "b", OFF, prefix=prefix) as made:
        assert made.lan.ping(made.wan.ipv4)
        assert subprocess.run(["ip", "netns", "pids", f"{prefix}-lan"], capture_output=True, check=True).stdout == b""
    assert not netns.exists(f"{prefix}-lan")
