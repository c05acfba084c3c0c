# SPDX-License-Identifier: GPL-2.0-only
"""The appliance on boards whose relay is built in another way: what each order moves, and what the relay does when the
keeper is killed or hangs.

Each wiring is a boot of its own, without guest and rules. What the relay does is seen from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from simulator import Board, payload

from tests.support import board_appliance, board_harness, board_traffic
from tests.support.board_admin import READY_S
from tests.support.board_appliance import KEEPER, PATIENCE_S, SEGMENT

OPENS = "no edge any more"
HANGS_MS = {"keep-alive-slow": 920, "disconnect": 2020}
"""How long the link is dead if the computer hangs, by the wiring's own facts and a watchdog of 2 s."""


@pytest.fixture(scope="module")
def wired(artefacts: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Board]:
    """A board of this wiring, inline, with no guest."""
    folder = tmp_path_factory.mktemp(f"wired-{request.param}")
    load = payload.image(artefacts, folder, debug=True, wiring=request.param)
    board_harness.without_guest(load)
    with Board(folder, load, accelerator=board_harness.accelerator(artefacts)) as made:
        made.power_on()
        made.sh("true", timeout=READY_S)
        made.wait_inline(PATIENCE_S)
        yield made


@pytest.fixture
def board(wired: Board, request: pytest.FixtureRequest) -> Iterator[Board]:
    """Inline before each test."""
    wired.wait_inline(PATIENCE_S)
    yield from board_harness.watched(wired, request)


def on(*names: str) -> pytest.MarkDecorator:
    """A test of these wirings."""
    return pytest.mark.parametrize("wired", names, indirect=True)


def order(board: Board, word: str) -> int:
    """An operator's order for the segment; returns a mark from before it."""
    mark = board.events.mark()
    board.sh(f"bypass segment {SEGMENT} {word}")
    return mark


def relay(board: Board) -> dict[str, Any]:
    """The relay on the status page."""
    return dict((board_appliance.show(board, "status") or {"relays": [{}]})["relays"][0])


@contextmanager
def broken(board: Board, part: str) -> Iterator[None]:
    """A part of the board is broken while the block runs."""
    board.break_part(part)
    try:
        yield
    finally:
        board.mend_part(part)


@on("keep-alive-slow", "disconnect")
def test_orders_move_the_relay(board: Board, tmp_path: Path) -> None:
    """Bypass and inline on every board, frames cross in both; disconnect where there is a second relay, which both
    neighbours see, and a refusal where there is none. The status page has the facts of the wiring."""
    wiring = board.payload.wiring
    (table,) = board.payload.board.described(wiring)["relay"]
    assert board.status()["drive"] == table["kind"]
    shown = relay(board)
    assert (shown["kind"], shown["relay"], shown["hang_ms"]) == (table["kind"], "inline", HANGS_MS[wiring])
    with board_traffic.frames(board, tmp_path) as streams:
        closed = board.wait_event(event="relay", state="bypass", since=order(board, "bypass"))
        board_traffic.carried(board, streams, closed["mono_ns"])
        if "disconnect" in table:
            mark = order(board, "disconnect")
            board.wait_event(event="relay", state="disconnect", since=mark)
            for side in ("lan", "wan"):
                board.wait_event(event="link", part="peer", port=side, state="down", since=mark)
            board_appliance.wait_until(board, lambda: relay(board).get("relay") == "disconnect", "disconnect is shown")
        else:
            refused = board.sh(f"bypass segment {SEGMENT} disconnect", check=False)
            assert refused.status != 0
            assert "has no disconnect: use bypass" in refused.output
        opened = board.wait_event(event="relay", state="inline", since=order(board, "auto"))
        board_traffic.carried(board, streams, opened["mono_ns"])


@on("keep-alive-slow")
def test_a_keeper_that_is_killed(board: Board) -> None:
    """The relay opens as soon as nothing toggles its line; the next keeper brings it inline again."""
    mark, old = board.events.mark(), board.pids(KEEPER)[0]
    with broken(board, "watchdog-dead"):  # on a busy host the next keeper may come too late for it
        board.sh(f"kill -KILL {old}")
        opened = board.wait_event(event="relay", state="bypass", since=mark)
        assert opened["cause"] == OPENS
        board_appliance.wait_until(board, lambda: set(board.pids(KEEPER)) - {old}, "another keeper")
    board.wait_event(event="relay", state="inline", since=opened["n"], timeout=PATIENCE_S)


@on("keep-alive-slow")
def test_a_keeper_that_hangs_and_goes_on(board: Board) -> None:
    """The relay opens by itself, whatever the board's watchdog does; it is inline again when the keeper goes on."""
    keeper = board.pids(KEEPER)[0]
    with broken(board, "watchdog-dead"):
        mark = board.events.mark()
        board.debug.send(f"kill -STOP {keeper}\n")
        opened = board.wait_event(event="relay", state="bypass", since=mark)
        board.debug.send(f"kill -CONT {keeper}\n")
        assert opened["cause"] == OPENS
        board.wait_event(event="relay", state="inline", since=opened["n"])
    assert board.pids(KEEPER)[0] == keeper
