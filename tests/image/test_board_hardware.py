# SPDX-License-Identifier: GPL-2.0-only
"""The appliance on the booted board when its hardware is exercised, built in another way, or breaks: drills, a relay
that is stuck, one that only toggling holds, a port that is pulled out.

What the relay does is seen from outside; each test leaves the appliance inline with its guest in service.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from simulator import Board, Event
from simulator.stream import Stream

from tests.support import board_appliance, board_crashes
from tests.support.board_appliance import BOARD_TOML, KEEPER, SEGMENT

ENOUGH_NS = 300_000_000
FRAMES = 100  # a second
PEER_S = 1.0  # a neighbour sees its link go down this soon after the relay was told to move
RENEGOTIATION_MS = 400


@pytest.fixture
def healthy(board: Board) -> Board:
    board_appliance.offer(board)
    board_appliance.wait_healthy(board)
    return board


@contextmanager
def frames(board: Board, folder: Path) -> Iterator[tuple[Stream, Stream]]:
    """Numbered frames in both directions while the block runs."""
    up = Stream(board.lan, board.wan, folder / "up", FRAMES)
    try:
        down = Stream(board.wan, board.lan, folder / "down", FRAMES)
        try:
            yield up, down
        finally:
            down.stop()
    finally:
        up.stop()


def carried(board: Board, streams: tuple[Stream, Stream], since_ns: int) -> None:
    """Frames sent after this moment arrive, both ways, for a while without a loss."""
    patience = board.pace.wait(30.0)
    for stream in streams:
        first = stream.wait_arrival(since_ns, patience)
        stream.wait_arrival(first + ENOUGH_NS, patience)
        assert stream.report(first, first + ENOUGH_NS // 2).whole


@contextmanager
def wired(board: Board, wiring: str) -> Iterator[None]:
    """The board's relay is built in another way, and its board.toml says so."""

    def restart(board: Board) -> None:
        board_appliance.restart_keeper(board)

    text = board.payload.board.described_text(wiring)
    board.wire(wiring)
    try:
        with board_appliance.replaced(board, BOARD_TOML, lambda _: text, restart):
            try:
                yield
            finally:
                board.wire()  # first: the keeper that comes next drives the board's own relay
    finally:
        board.wire()


def drill(board: Board, kind: str) -> dict[str, Any]:
    """The newest result of a kind of drill; empty if there is none."""
    rows = (board_appliance.show(board, "drills") or {"results": []})["results"]
    return next((row for row in rows if row["kind"] == kind), {})


def drill_over(board: Board) -> bool:
    found = board_appliance.show(board, "drills")
    return found is not None and not found["running"]


def test_a_relay_drill_is_measured_and_kept(healthy: Board, tmp_path: Path) -> None:
    """The relay moves to bypass and back, once; the result has its date, and how long each move took."""
    mark = healthy.events.mark()
    with frames(healthy, tmp_path) as streams:
        healthy.sh("bypass drill run relay now")
        closed = healthy.wait_event(event="relay", state="bypass", since=mark)
        carried(healthy, streams, closed["mono_ns"])
        opened = healthy.wait_event(event="relay", state="inline", since=mark)
        found = board_appliance.wait_until(healthy, lambda: drill(healthy, "relay"), "the result of the drill")
        carried(healthy, streams, opened["mono_ns"])
    assert (found["passed"], found["segment"], found["by"]) == (True, SEGMENT, "root")
    assert found["when"].endswith("+00:00")
    assert 0 < found["to_bypass_ms"] < 3000
    assert found["to_inline_ms"] > 0
    assert found["first_frame_ms"] >= 0
    assert [event["state"] for event in healthy.events.since(mark, event="relay")] == ["bypass", "inline"]
    kept = healthy.sh("cat /var/lib/bypass/drills.json").output
    assert '"kind": "relay"' in kept
    board_appliance.wait_healthy(healthy)


def test_a_relay_drill_that_is_aborted_leaves_the_link_up(healthy: Board, tmp_path: Path) -> None:
    """No result counts; the segment goes inline again by itself, and frames cross all the while."""
    before, mark = drill(healthy, "relay"), healthy.events.mark()
    with frames(healthy, tmp_path) as streams:
        healthy.sh("bypass drill run relay now")
        closed = healthy.wait_event(event="relay", state="bypass", since=mark)
        healthy.sh("bypass drill abort")
        carried(healthy, streams, closed["mono_ns"])
        opened = healthy.wait_event(event="relay", state="inline", since=closed["n"])
        carried(healthy, streams, opened["mono_ns"])
    board_appliance.wait_until(healthy, lambda: drill_over(healthy), "the drill is over")
    assert drill(healthy, "relay") == before
    assert any("aborted: by root" in text for text in board_appliance.events(healthy))
    board_appliance.wait_healthy(healthy)


def test_neighbours_see_their_links_renegotiate(healthy: Board) -> None:
    """A relay that moves makes both links go down and come back: measured at the neighbours, by their own carrier."""
    healthy.tune(relay_ms=15, flap_ms=RENEGOTIATION_MS)
    try:
        mark = healthy.events.mark()
        healthy.sh(f"bypass segment {SEGMENT} bypass")
        moved = healthy.wait_event(event="relay", state="bypass", since=mark)
        for side in ("lan", "wan"):
            down = healthy.wait_event(event="link", part="peer", port=side, state="down", since=mark)
            up = healthy.wait_event(event="link", part="peer", port=side, state="up", since=down["n"])
            assert (down["mono_ns"] - moved["line_ns"]) / 1e9 < PEER_S
            assert (up["mono_ns"] - down["mono_ns"]) / 1e6 > RENEGOTIATION_MS / 2
        assert (moved["mono_ns"] - moved["line_ns"]) / 1e6 >= 15
    finally:
        healthy.tune(relay_ms=0, flap_ms=0)
        healthy.sh(f"bypass segment {SEGMENT} auto")
        board_appliance.wait_healthy(healthy)


def test_a_port_that_is_pulled_out_and_comes_back(healthy: Board, tmp_path: Path) -> None:
    """Bypass with its cause while it is gone. Back, it has its MAC, MTU and offloads, and the datapath, by itself."""

    def port() -> str:
        facts = "cat /sys/class/net/wan0/address /sys/class/net/wan0/mtu; ethtool -k wan0; ethtool -l wan0"
        return healthy.sh(facts).output

    def attached() -> dict[str, Any]:
        row = board_appliance.segment(healthy)
        return {key: row.get(key) for key in ("attach", "mtu", "longest_bytes")}

    before, datapath, mark = port(), attached(), healthy.events.mark()
    with frames(healthy, tmp_path) as streams:
        healthy.nic("wan", "remove")
        closed = healthy.wait_event(event="relay", state="bypass", since=mark)
        carried(healthy, streams, closed["mono_ns"])
        assert "wan0" in board_appliance.wait_cause(healthy, "port_missing")["detail"]
        assert healthy.status()["ports"]["wan"] == "removed"
        healthy.nic("wan", "return")
        opened = healthy.wait_event(event="relay", state="inline", since=closed["n"], timeout=120)
        carried(healthy, streams, opened["mono_ns"])
    board_appliance.wait_healthy(healthy)
    assert port() == before
    assert attached() == datapath


def test_a_stuck_relay_is_found_by_its_read_back_line(healthy: Board, tmp_path: Path) -> None:
    """The contacts do not follow: a drill fails, the cause is named, and the relay works again when it is repaired."""
    with wired(healthy, "read-back"):
        board_appliance.wait_healthy(healthy)
        healthy.break_part("relay-stuck")
        try:
            healthy.sh("bypass drill run relay now")

            def failed() -> dict[str, Any]:
                row = drill(healthy, "relay")
                return row if row and not row["passed"] else {}

            assert "relay" in board_appliance.wait_until(healthy, failed, "the drill fails")["detail"]
            board_appliance.wait_until(
                healthy, lambda: board_appliance.segment(healthy).get("cause") == "relay_fault", "the cause is named"
            )
        finally:
            healthy.mend_part("relay-stuck")
        healthy.wait_inline()


def test_a_keeper_that_hangs_opens_a_keep_alive_relay(healthy: Board, tmp_path: Path) -> None:
    """As soon as nothing toggles the line, long before the watchdog expires; it is inline again when it toggles."""
    with wired(healthy, "keep-alive"):
        board_appliance.wait_healthy(healthy)
        assert healthy.status()["drive"] == "keep-alive"
        keeper = healthy.pids(KEEPER)[0]
        with frames(healthy, tmp_path) as streams:
            mark = healthy.events.mark()
            # half a second: the watchdog has two
            healthy.debug.send(f"kill -STOP {keeper}; sleep 0.5; kill -CONT {keeper}\n")
            closed = healthy.wait_event(event="relay", state="bypass", since=mark)
            assert closed["cause"] == "no edge any more"
            carried(healthy, streams, closed["mono_ns"])
        assert not healthy.events.since(mark, event="watchdog")
        healthy.wait_inline()


def separated(board: Board) -> Event:
    """The second relay separates both ports, and both neighbours see it; the event of the way back."""
    mark = board.events.mark()
    board.sh(f"bypass segment {SEGMENT} disconnect")
    apart = board.wait_event(event="relay", state="disconnect", since=mark)
    for side in ("lan", "wan"):
        board.wait_event(event="link", part="peer", port=side, state="down", since=mark)
    board.sh(f"bypass segment {SEGMENT} auto")
    opened = board.wait_event(event="relay", state="inline", since=apart["n"])
    board_appliance.wait_healthy(board)
    return opened


@pytest.mark.slow
@pytest.mark.parametrize("wiring", ["keeps", "disconnect", "latching", "controller"])
def test_other_ways_of_driving_the_relay(healthy: Board, wiring: str) -> None:
    """Inline, to bypass by order, inline again; a keeper that is killed leaves the relay where its kind says."""
    kind = healthy.payload.board.described(wiring)["relay"][0]["kind"]
    with wired(healthy, wiring):
        if wiring == "keeps":
            healthy.break_part("lines-keep")
        try:
            board_appliance.wait_healthy(healthy)
            assert healthy.status()["drive"] == kind
            mark = healthy.events.mark()
            healthy.sh(f"bypass segment {SEGMENT} bypass")
            closed = healthy.wait_event(event="relay", state="bypass", since=mark)
            healthy.sh(f"bypass segment {SEGMENT} auto")
            opened = healthy.wait_event(event="relay", state="inline", since=closed["n"])
            board_appliance.wait_healthy(healthy)
            if wiring == "disconnect":
                opened = separated(healthy)
            old = healthy.pids(KEEPER)
            healthy.sh(f"kill -KILL {old[0]}")
            board_appliance.wait_until(
                healthy, lambda: [pid for pid in healthy.pids(KEEPER) if pid not in old], "a new keeper"
            )
            if wiring == "disconnect":
                assert healthy.wait_event(event="relay", since=opened["n"] + 1)["state"] == "bypass"
            elif wiring == "keeps":
                assert not healthy.events.since(opened["n"] + 1, event="relay")
            board_appliance.wait_healthy(healthy)
        finally:
            healthy.mend_part("lines-keep")


@pytest.mark.slow
def test_a_watchdog_drill_resets_the_board_and_is_kept(healthy: Board, tmp_path: Path) -> None:
    """It is not fed any more: the watchdog resets the board, the wire carries, and the result is there afterwards."""
    with frames(healthy, tmp_path) as streams, healthy.panic_ordered():
        mark = healthy.events.mark()
        healthy.debug.send("bypass drill run watchdog now\n")
        healthy.wait_event(event="watchdog", stage=1, since=mark)
        closed = healthy.wait_event(event="relay", state="bypass", since=mark)
        healthy.wait_event(event="reset", since=mark)
        carried(healthy, streams, closed["mono_ns"])
        status = board_crashes.come_up(healthy)
    assert status["last_reset"]["kind"] == "drill"
    assert status["crashes"]["count"] == 0
    found = board_appliance.wait_until(healthy, lambda: drill(healthy, "watchdog"), "the result of the drill")
    assert (found["passed"], found["by"]) == (True, "root")
    assert found["reset_ms"] is None or 1000 <= found["reset_ms"] <= 4000
    board_appliance.wait_healthy(healthy)
