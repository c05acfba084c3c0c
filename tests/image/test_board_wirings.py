# SPDX-License-Identifier: GPL-2.0-only
"""The appliance on boards whose relay is built in another way: what each order moves, and what the relay does when the
keeper is killed, hangs, or loses its bus.

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

OPENS = {"keep-alive-slow": "no edge any more", "controller": "controller's watchdog"}  # by itself, and why
HANGS_MS = {"keep-alive-slow": 920, "controller": 2020, "disconnect": 2020, "expander": 2020}
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


SLOWLY = pytest.param("expander", marks=pytest.mark.slow)


def on(*names: Any) -> pytest.MarkDecorator:
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


def keeper_relay(board: Board) -> dict[str, Any]:
    """The relay as the keeper sees it, on the status page."""
    status = board_appliance.show(board, "status") or {}
    return next(iter(status.get("keeper", {}).get("relays", ())), {})


@contextmanager
def broken(board: Board, part: str) -> Iterator[None]:
    """A part of the board is broken while the block runs."""
    board.break_part(part)
    try:
        yield
    finally:
        board.mend_part(part)


@on("keep-alive-slow", "controller", "disconnect", SLOWLY)
def test_orders_move_the_relay(board: Board, tmp_path: Path) -> None:
    """Bypass and inline on every board, frames cross in both; disconnect where there is a second relay, which both
    neighbours see, and a refusal where there is none. The status page has the facts of the wiring."""
    wiring = board.payload.wiring
    (table,) = board.payload.board.described(wiring)["relay"]
    assert board.status()["drive"] == table["kind"]
    board_appliance.wait_until(board, lambda: relay(board).get("relay") == "inline", "the keeper has found it inline")
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


@on("keep-alive-slow", "controller", "disconnect", SLOWLY)
def test_a_keeper_that_is_killed(board: Board) -> None:
    """A line that toggles or falls back opens the relay at once. A controller stays inline until the next keeper
    drives it, or its watchdog expires; an expander keeps its pins. In any case the link is inline again by itself."""
    wiring, mark = board.payload.wiring, board.events.mark()
    old = board.pids(KEEPER)[0]
    with broken(board, "watchdog-dead"):  # on a busy host the next keeper may come too late for it
        board.sh(f"kill -KILL {old}")
        if wiring in ("keep-alive-slow", "disconnect"):
            moved = board.wait_event(event="relay", state="bypass", since=mark)
            assert moved["cause"] == OPENS.get(wiring, "line released")
        board_appliance.wait_until(board, lambda: set(board.pids(KEEPER)) - {old}, "another keeper")
        board_appliance.wait_until(board, lambda: keeper_relay(board).get("usable"), "which has the relay")
    board.wait_inline(PATIENCE_S)
    moves = [event["cause"] for event in board.events.since(mark, event="relay", state="bypass")]
    assert wiring != "controller" or set(moves) <= {OPENS[wiring]}


@on("disconnect")
def test_contacts_that_stay_are_a_fault_with_its_cause(board: Board) -> None:
    """The contacts do not follow an order to bypass: the status page says so and calls the relay inline, until they
    move."""
    with broken(board, "relay-stuck"):
        board.wait_event(event="stuck", wanted="bypass", since=order(board, "bypass"))
        fault = board_appliance.wait_until(
            board, lambda: (row := keeper_relay(board)) and not row["usable"] and row, "the fault is found"
        )
        assert (fault["cause"], fault["relay"]) == ("relay_fault", "inline")
        assert "set to bypass, reads inline" in fault["detail"]
        segment = board_appliance.segment(board)
        assert segment["relay"] == "inline"
        assert any("set to bypass, reads inline" in text for text in segment["also"])
        page = board.sh("bypass show status").output
        assert "set to bypass, reads inline" in " ".join(page.split())
    board.wait_bypass()
    board_appliance.wait_until(board, lambda: keeper_relay(board).get("usable"), "the relay works again")
    board.wait_event(event="relay", state="inline", since=order(board, "auto"))


def results(board: Board) -> list[dict[str, Any]]:
    """The results of drills."""
    return list((board_appliance.show(board, "drills") or {"results": []})["results"])


def drill_ends(board: Board) -> None:
    """Wait until no drill is under way."""

    def over() -> bool:
        found = board_appliance.show(board, "drills")
        return found is not None and not found["running"]

    board_appliance.wait_until(board, over, "the drill is over")


@on("disconnect")
def test_a_drill_that_is_aborted_leaves_the_link_as_it_was(board: Board, tmp_path: Path) -> None:
    """No result is kept; the segment goes inline again by itself, and frames cross all the while."""
    before, mark = results(board), board.events.mark()
    with board_traffic.frames(board, tmp_path) as streams:
        board.sh("bypass drill run relay now")
        closed = board.wait_event(event="relay", state="bypass", since=mark)
        board.sh("bypass drill abort")
        board_traffic.carried(board, streams, closed["mono_ns"])
        opened = board.wait_event(event="relay", state="inline", since=closed["n"])
        board_traffic.carried(board, streams, opened["mono_ns"])
    drill_ends(board)
    assert results(board) == before
    assert any("aborted: by root" in text for text in board_appliance.events(board))


@on("disconnect")
def test_an_order_during_a_drill_stands_when_the_drill_is_over(board: Board) -> None:
    """The operator's order ends the drill and is not replaced by it: the link stays where the operator has put it."""
    before, mark = results(board), board.events.mark()
    board.sh("bypass drill run relay now")
    board.wait_event(event="relay", state="bypass", since=mark)
    apart = board.wait_event(event="relay", state="disconnect", since=order(board, "disconnect"))
    drill_ends(board)
    assert results(board) == before
    row = board_appliance.segment(board)
    assert (row["state"], row["cause"]) == ("disconnect", "operator")
    assert not board.events.since(apart["n"] + 1, event="relay")
    board.wait_event(event="relay", state="inline", since=order(board, "auto"))


@on("controller")
def test_a_bus_that_answers_with_errors(board: Board) -> None:
    """The relay is unusable with its cause. The controller opens it by its own watchdog. Repaired, it goes through
    bypass to inline."""
    mark = board.events.mark()
    with broken(board, "lines-refused"):
        assert board.wait_event(event="relay", state="bypass", since=mark)["cause"] == OPENS["controller"]
        fault = board_appliance.wait_until(
            board, lambda: (row := keeper_relay(board)) and not row["usable"] and row, "the fault is found"
        )
        assert fault["cause"] == "relay_bus_error"
    board.wait_event(event="relay", state="inline", since=board.wait_bypass()["n"])


@on("keep-alive-slow", "controller")
def test_a_keeper_that_hangs_and_goes_on(board: Board) -> None:
    """The relay opens by itself, whatever the board's watchdog does; it is inline again when the keeper goes on."""
    wiring, keeper = board.payload.wiring, board.pids(KEEPER)[0]
    with broken(board, "watchdog-dead"):
        mark = board.events.mark()
        board.debug.send(f"kill -STOP {keeper}\n")
        opened = board.wait_event(event="relay", state="bypass", since=mark)
        board.debug.send(f"kill -CONT {keeper}\n")
        assert opened["cause"] == OPENS[wiring]
        board.wait_event(event="relay", state="inline", since=opened["n"])
    assert board.pids(KEEPER)[0] == keeper
