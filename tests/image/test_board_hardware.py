# SPDX-License-Identifier: GPL-2.0-only
"""The appliance on the booted board when its relay is exercised, and when a port is pulled out: drills, what the
neighbours see, what comes back by itself.

What the relay does is seen from outside; each test leaves the appliance inline with its guest in service.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from simulator import Board

from appliance.hardware.held_button import HOLD_S
from tests.support import board_appliance
from tests.support.board_appliance import SEGMENT
from tests.support.board_traffic import carried, frames

PEER_S = 1.0  # a neighbour sees its link go down this soon after the relay was told to move
RENEGOTIATION_MS = 400


@pytest.fixture
def healthy(board: Board) -> Board:
    board_appliance.offer(board)
    board_appliance.wait_healthy(board)
    return board


def drill(board: Board, kind: str) -> dict[str, Any]:
    """The newest result of a kind of drill; empty if there is none."""
    rows = (board_appliance.show(board, "drills") or {"results": []})["results"]
    return next((row for row in rows if row["kind"] == kind), {})


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


def test_a_button_that_is_held_bypasses_and_ends_that(healthy: Board, tmp_path: Path) -> None:
    """A short press does nothing. Held for five seconds, it bypasses the segment; held again, that is over."""
    mark = healthy.press(HOLD_S / 5)["n"]
    healthy.wait_event(event="button", state="released", since=mark)
    with frames(healthy, tmp_path) as streams:
        closed = healthy.wait_event(event="relay", state="bypass", since=healthy.press(3 * HOLD_S)["n"])
        carried(healthy, streams, closed["mono_ns"])
        assert board_appliance.segment(healthy)["cause"] == "operator"
        assert not healthy.events.since(mark, event="button", state="released")[1:], "it is still held"
        healthy.wait_event(event="button", state="released", since=closed["n"])
        time.sleep(healthy.pace.wait(1.0))  # the appliance looks at it now and then, and must see it released
        opened = healthy.wait_event(event="relay", state="inline", since=healthy.press(3 * HOLD_S)["n"])
        carried(healthy, streams, opened["mono_ns"])
    assert [event["state"] for event in healthy.events.since(mark, event="relay")] == ["bypass", "inline"]
    told = [text for text in board_appliance.events(healthy) if "button bypass was held" in text]
    assert [text.rpartition("held: ")[2] for text in told] == [
        "bypass for every segment", "auto for every segment"
    ]  # fmt: skip
    healthy.wait_event(event="button", state="released", since=opened["n"])


@pytest.mark.slow
def test_a_watchdog_drill_resets_the_machine_and_is_kept(healthy: Board, tmp_path: Path) -> None:
    """The keeper stops feeding the watchdog, with the segments in bypass: the machine is reset, the link carries all
    the while, and after the boot the result is there with its time."""
    with healthy.panic_ordered(), frames(healthy, tmp_path) as streams:
        mark = healthy.events.mark()
        healthy.sh("bypass drill run watchdog now")
        closed = healthy.wait_event(event="relay", state="bypass", since=mark)
        carried(healthy, streams, closed["mono_ns"])
        reset = healthy.wait_event(event="reset", since=mark, timeout=60)
        opened = healthy.wait_event(event="relay", state="inline", since=reset["n"], timeout=board_appliance.PATIENCE_S)
        carried(healthy, streams, opened["mono_ns"])
    found = board_appliance.wait_until(healthy, lambda: drill(healthy, "watchdog"), "the result of the drill")
    assert (found["passed"], found["by"]) == (True, "root")
    assert healthy.events.since(mark, event="watchdog", stage=1)
    assert 0 < found["reset_ms"] < 60_000
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
