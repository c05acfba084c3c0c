# SPDX-License-Identifier: GPL-2.0-only
"""A machine that crashes again and again: it starts as usual, then waits in bypass for a while, then is in safe mode.

The kernel panics by order, as soon as bypassd has counted the crash before. `crash_limit` is 3, so few boots suffice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulator import Board, payload
from simulator.stream import Stream

from tests.support import board_appliance, board_crashes, board_harness
from tests.support.board_admin import commit
from tests.support.board_appliance import GUEST

pytestmark = pytest.mark.slow  # a dozen boots

LIMIT = 3
WINDOW_S = 60  # the least that can be configured
FRAMES = 100  # a second


@pytest.fixture(scope="module")
def crashing(artefacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board of its own, for its history suffers."""
    folder = tmp_path_factory.mktemp("crash-board")
    load = payload.image(artefacts, folder, debug=True)
    with Board(folder, load, accelerator=board_harness.accelerator(artefacts)) as made:
        yield made


def panic(board: Board) -> dict[str, Any]:
    """Have the kernel panic; what bypassd says of crashes after the reset."""
    with board.panic_ordered():
        fault = board.fault("sysrq c")
        board.debug.send("echo c >/proc/sysrq-trigger\n")
        board.wait_event(event="reset", since=fault["n"])
    return dict(board_crashes.come_up(board)["crashes"])


def configure(board: Board, limit: int, window_s: int) -> None:
    """Inline, no crash counted, and these limits hold."""
    board_crashes.come_up(board)
    board.sh("bypass crash-count clear")
    board.wait_inline()
    commit(board, ("set", "system", "crash_limit", str(limit)), ("set", "system", "crash_window", f"{window_s}s"))
    board_appliance.restart_bypassd(board)
    wait_serving(board)


def wait_serving(board: Board) -> None:
    """Wait for the relay and the guest's process; how soon the guest proves itself is not the question here."""
    board.wait_inline()
    board_appliance.wait_until(board, lambda: board.pids(f"guest={GUEST}"), "the guest's process")


def words(text: str) -> str:
    """Without line breaks: lines are folded to the terminal's width."""
    return " ".join(text.split())


def test_the_third_crash_leads_to_safe_mode_until_an_order_ends_it(crashing: Board, tmp_path: Path) -> None:
    """The second one holds the relay; safe mode outlives a restart, has console and access and no datapath and guest,
    says why, and is over for good after `crash-count clear`."""
    board = crashing
    configure(board, LIMIT, 3600)
    first = panic(board)
    assert (first["mode"], first["count"], first["limit"]) == ("normal", 1, LIMIT)
    board.wait_inline()
    mark = board.events.mark()
    second = panic(board)
    assert (second["mode"], second["count"]) == ("hold", 2)
    assert 0 < second["held_s"] <= 30
    assert board_appliance.wait_cause(board, "crash_hold")["relay"] == "bypass"
    third = panic(board)
    assert (third["mode"], third["count"]) == ("safe", LIMIT)
    assert all(text.startswith("kernel panic: sysrq") for text in third["reasons"]), third
    check_safe(board, tmp_path)
    before = board.events.mark()
    board.sh("reboot")
    again = board_crashes.come_up_again(board, before)
    assert again["last_reset"]["kind"] == "orderly"
    assert (again["crashes"]["mode"], again["crashes"]["count"]) == ("safe", LIMIT)
    check_safe(board, tmp_path)
    assert not board.events.since(mark, event="relay", state="inline")
    assert "forgotten: 3 crashes" in board.sh("bypass crash-count clear").output
    wait_serving(board)
    after = panic(board)
    assert (after["mode"], after["count"]) == ("normal", 1), "cleared for good"
    board.wait_inline()


def check_safe(board: Board, folder: Path) -> None:
    """What safe mode is: seen by a person, on the wire, and in the kernel."""
    row = board_appliance.wait_cause(board, "safe_mode")
    assert row["attach"] == "none"
    assert board_appliance.guest(board) == {} or board_appliance.guest(board)["cause"] == "safe_mode"
    assert board.pids(f"guest={GUEST}") == []
    assert "xdp" not in board.sh("ip link show lan0; ip link show wan0").output
    board_appliance.wait_until(board, lambda: board_appliance.part_runs(board, "access"), "the access part")
    shown = words(board.sh("bypass show status").output)
    for said in ("SAFE MODE", "3 crashes within 1 h of operation", "kernel panic: sysrq", "`crash-count clear`"):
        assert said in shown, shown
    mark = board.console.mark()
    board.console.sendline()
    board.console.expect(r"\[BYPASS\]>", since=mark)
    stream = Stream(board.lan, board.wan, folder / "safe", FRAMES)
    stream.wait_arrival(stream.wait_arrival(0) + 500_000_000)
    report = stream.stop()
    assert report.whole, report


def test_safe_mode_ends_after_the_window_and_one_more_crash_leads_back(crashing: Board) -> None:
    """By itself, after `crash_window` of operation: inline again, on trial."""
    board = crashing
    configure(board, 1, WINDOW_S)
    mark = board.events.mark()
    assert panic(board)["mode"] == "safe"
    ended = board.wait_event(event="relay", state="inline", since=mark, timeout=WINDOW_S + 60)
    started = board.events.last(event="reset")
    assert started is not None
    assert board_crashes.seconds(started, ended) >= WINDOW_S
    assert board_appliance.show(board, "status")["crashes"]["mode"] == "normal"
    assert panic(board)["mode"] == "safe"
