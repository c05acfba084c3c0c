# SPDX-License-Identifier: GPL-2.0-only
"""Drills in a whole supervisor over a made-up keeper: what reaches it, what is kept, what ends a drill."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.config.schema.model import Drill
from appliance.drill import protection, relay
from appliance.drill.record import Pending, Record, Result
from appliance.segment.machine import State
from appliance.supervisor import drill_plan, drills
from appliance.supervisor.metrics import collect
from appliance.supervisor.supervisor import Supervisor
from appliance.telemetry import openmetrics
from tests.support.waiting import until
from tests.unit.supervisor.test_supervisor import CONFIG, Keeper, ask, make, run

MS = 1_000_000


class Board(Keeper):
    """A keeper whose relay follows, and whose watchdog can be starved, until it is told otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.relay, self.stuck, self.deaf = "inline", False, False
        self.asked: list[str] = []
        self.unfed: list[bool] = []

    async def follow(self) -> None:
        """Answer each check-in, until cancelled."""
        while True:
            for packet in self.heard():
                want = packet["relays"].get("relay-inline", {}).get("want", "hold")
                unfed = packet.get("unfed", False)
                if not self.asked or self.asked[-1] != want:
                    self.asked.append(want)
                if not self.unfed or self.unfed[-1] != unfed:
                    self.unfed.append(unfed)
                if want != "hold" and not self.stuck:
                    self.relay = want
                self.report(unfed and not self.deaf)
            await asyncio.sleep(0.005)

    def report(self, unfed: bool) -> None:
        state = {
            "relays": {"relay-inline": {"relay": self.relay, "cause": "x", "usable": True, "error": ""}},
            "bypassd_restarts": 0,
            "last_exit": "",
            "watchdog": {"present": True, "timeout_ms": 2000, "error": "", "unfed": unfed},
            "keeper_started_ns": 1,
        }
        try:
            self.end.send(json.dumps(state).encode())
        except OSError:
            pass


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def made(tmp_path: Path, board: Board, monkeypatch: pytest.MonkeyPatch) -> Supervisor:
    """A supervisor that is inline: its ports and datapath are taken for good."""
    monkeypatch.setattr(relay, "REST", 60 * MS)
    monkeypatch.setattr(relay, "FRAME", 60 * MS)
    monkeypatch.setattr(drills, "UNFED_S", 0.3)
    made = make(tmp_path, board)
    monkeypatch.setattr(type(made.system.segments), "_facts", healthy(type(made.system.segments)._facts))
    monkeypatch.setattr(type(made.system.segments), "_follow_ports", lambda *_: None)
    return made


def healthy(facts: Callable[..., Any]) -> Callable[..., Any]:
    return lambda self, unit, keeper, more: facts(self, unit, keeper, more).__class__(
        (found := facts(self, unit, keeper, more)).asked, found.asked_cause, {}
    )


def inline(made: Supervisor, board: Board, body: Callable[[Callable[..., Awaitable[Any]]], Awaitable[None]]) -> None:
    """Run `body` with a way to call the API, once the segment is inline."""

    async def call(method: str, **params: object) -> Any:
        answer = await ask(made.system.paths.control_socket, method, **params)
        return answer.get("result", answer.get("error", {}).get("message"))

    async def whole() -> None:
        board.report(False)
        follow = asyncio.create_task(board.follow())
        try:
            await until(lambda: made.system.segments.begun)
            made.system.segments.units["main"].machine.forgive()
            await until(lambda: made.system.segments.units["main"].machine.state is State.INLINE)
            await body(call)
        finally:
            follow.cancel()
            board.end.close()

    run(made, whole)


def kept(made: Supervisor) -> list[Result]:
    record = Record(made.system.paths.state / "drills.json")
    record.read()
    return list(record.results)


def test_a_relay_drill_moves_the_relay_keeps_its_result_and_proves_it(made: Supervisor, board: Board) -> None:
    async def body(call: Callable[..., Awaitable[Any]]) -> None:
        before = (await call("status.show"))["protection"]
        assert (before["state"], "`drill run relay`" in before["detail"]) == ("unproven", True)
        board.asked.clear()
        plan = await call("drill.plan", kind="relay")
        assert any("not inspected" in line for line in plan["meaning"])
        assert "begins now" in (await call("drill.run", kind="relay"))["message"]
        await until(lambda: bool(kept(made)))
        await until(lambda: board.relay == "inline")
        assert board.asked[-2:] == ["bypass", "inline"]
        (row,) = (await call("drills.show"))["results"]
        assert (row["kind"], row["segment"], row["passed"]) == ("relay", "main", True)
        assert 0 <= row["to_bypass_ms"] < 1000
        assert row["to_inline_ms"] is not None
        assert (await call("status.show"))["protection"]["state"] == "protected"
        shown = openmetrics.render(collect(made.system))
        assert 'throughwire_drill_passed{kind="relay",segment="main"} 1\n' in shown
        assert (await call("segments.show"))[0]["mode"] == "auto", "nothing of the operator's order was changed"
        moves = [row for row in await call("transitions.show") if row["cause"] == "drill"]
        assert [row["to"] for row in moves] == ["bypass"]

    inline(made, board, body)


def test_a_drill_can_be_aborted_and_a_second_one_does_not_begin(
    made: Supervisor, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "REST", 60_000 * MS)

    async def body(call: Callable[..., Awaitable[Any]]) -> None:
        assert await call("drill.abort") == "no drill is under way"
        await call("drill.run", kind="relay", segment="main")
        await until(lambda: board.relay == "bypass")
        assert "is under way" in await call("drill.run", kind="relay")
        assert "relay drill of segment main" in (await call("drills.show"))["running"]
        assert "aborted" in (await call("drill.abort"))["message"]
        await until(lambda: board.relay == "inline")
        assert kept(made) == []
        assert (await call("drills.show"))["running"] == ""

    inline(made, board, body)


def test_an_operators_order_wins_and_stays(made: Supervisor, board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "REST", 60_000 * MS)

    async def body(call: Callable[..., Awaitable[Any]]) -> None:
        await call("drill.run", kind="relay")
        await until(lambda: board.relay == "bypass")
        await call("segment.set", name="main", mode="bypass")
        await until(lambda: made.drills._what == "")
        assert (board.relay, made.system.segments.units["main"].machine.cause) == ("bypass", "operator")
        assert "is not inline (operator)" in await call("drill.run", kind="relay")

    inline(made, board, body)


def test_a_relay_that_does_not_move_fails_the_drill(
    made: Supervisor, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "MOVE", 100 * MS)

    async def body(call: Callable[..., Awaitable[Any]]) -> None:
        board.stuck = True
        await call("drill.run", kind="relay")
        await until(lambda: bool(kept(made)))
        assert "was not reported in bypass" in kept(made)[0].said
        found = (await call("status.show"))["protection"]
        assert (found["state"], "the last one failed" in found["detail"]) == ("unproven", True)
        assert any(row["severity"] == "error" and "FAILED" in row["text"] for row in await call("events.show"))

    inline(made, board, body)


def test_a_watchdog_drill_is_on_the_disk_before_the_keeper_is_asked_and_ends_with_the_order(
    made: Supervisor, board: Board
) -> None:
    async def body(call: Callable[..., Awaitable[Any]]) -> None:
        await call("drill.run", kind="watchdog")
        await until(lambda: board.unfed == [False, True])
        record = Record(made.system.paths.state / "drills.json")
        record.read()
        assert record.pending is not None
        assert (record.pending.kind, record.pending.state) == ("watchdog", "ordered")
        assert board.relay == "inline", "the link is carried until the reset"
        await call("drill.abort")
        await until(lambda: board.unfed == [False, True, False])
        await until(lambda: made.drills._what == "")
        assert (made.drills.record.pending, kept(made)) == (None, [])

    inline(made, board, body)


def test_a_keeper_that_does_not_take_the_order_fails_the_drill(made: Supervisor, board: Board) -> None:
    async def body(call: Callable[..., Awaitable[Any]]) -> None:
        board.deaf = True
        await call("drill.run", kind="watchdog")
        await until(lambda: bool(kept(made)))
        assert (kept(made)[0].passed, kept(made)[0].said) == (False, "the keeper did not take the order")
        await until(lambda: board.unfed[-1] is False)

    inline(made, board, body)


def test_the_reset_of_a_watchdog_drill_counts_as_no_crash(tmp_path: Path) -> None:
    state = tmp_path / "var/lib/bypass"
    state.mkdir(parents=True)
    (state / "last-run.json").write_text(json.dumps({"boot": "earlier", "orderly": False}))
    Record(state / "drills.json").wait_for(Pending("watchdog", "earlier", "anna", 1.0))
    store = tmp_path / "pstore"
    store.mkdir()
    (store / "dmesg-1").write_text(
        "Panic#1 Part1\n<4>[  10.000] bypass-keeper: drill: the watchdog is not fed from now on\n"
        "<0>[  12.000] Kernel panic - not syncing: NMI: Not continuing\n"
    )
    made = make(tmp_path, Keeper())
    made.system.crash_log._pstore = store
    assert made.system.crash_log.collect().kind == "drill"
    assert made.system.crash_log.history.crashes == ()
    (found,) = kept(made)
    assert (found.passed, found.reset_ms) == (True, 2000.0)
    assert made.system.crash_log.read(1) is not None, "the record is there all the same"


def test_somebody_says_what_the_link_did_without_power(made: Supervisor, board: Board) -> None:
    async def body(call: Callable[..., Awaitable[Any]]) -> None:
        assert "no power drill waits" in await call("drill.answer", passed=True)
        made.drills.record.wait_for(Pending("power", "earlier", "anna", 1.0, "answer"))
        assert "`drill answer passed`" in (await call("drills.show"))["running"]
        assert "passed" in (await call("drill.answer", passed=True))["message"]
        assert [(each.kind, each.passed, each.by) for each in kept(made)] == [("power", True, "anna")]

    inline(made, board, body)


def test_a_power_drill_that_nobody_carries_out_is_over(
    made: Supervisor, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drills, "POWER_S", 0.1)

    async def body(call: Callable[..., Awaitable[Any]]) -> None:
        await call("drill.run", kind="power")
        await until(lambda: any("was not cut" in row.text for row in made.system.events.newest()))
        await until(lambda: made.drills._what == "")
        assert (made.drills.record.pending, kept(made)) == (None, [])

    inline(made, board, body)


def test_what_is_due_in_the_window_is_made_by_itself(
    made: Supervisor, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drills, "LOOK_S", 0.05)
    monkeypatch.setattr(protection, "SET_SINCE", 0)

    async def body(call: Callable[..., Awaitable[Any]]) -> None:
        made.system.config = msgspec.structs.replace(CONFIG, drill=Drill(window="00:00-23:59", every_days=7))
        await until(lambda: bool(kept(made)))
        assert (kept(made)[0].by, kept(made)[0].segment) == (drills.ITSELF, "main")
        await until(lambda: made.drills._what == "")
        assert made.drills._due() is None

    if time.localtime()[3:5] != (23, 59):
        inline(made, board, body)


def test_what_cannot_be_drilled_is_refused_with_a_reason(made: Supervisor, board: Board) -> None:
    async def body(call: Callable[..., Awaitable[Any]]) -> None:
        assert "a watchdog drill has no segment" in await call("drill.run", kind="watchdog", segment="main")
        assert 'no segment "x" has a relay' in await call("drill.plan", kind="relay", segment="x")
        made.system.confirm_s = lambda: 30
        assert "awaits confirmation" in await call("drill.run", kind="watchdog")
        made.system.paths.data_partition.write_text("absent\nno disk\n")
        assert "would not survive the reset" in await call("drill.run", kind="power")
        made.system.ending = "reboot by order of anna"
        assert "is under way" in await call("drill.plan", kind="relay")

    inline(made, board, body)


def test_what_a_drill_means_is_said() -> None:
    assert any("5 s" in line for line in drill_plan.meaning("relay", ["main"], ["ips1"], 2000, ""))
    said = " ".join(drill_plan.meaning("watchdog", [""], ["ips1"], 2000, "sun 03:00-04:00"))
    assert "after 2 s" in said
    assert "ips1" in said
    assert "outside the maintenance window (sun 03:00-04:00)" in said
    assert "`drill answer passed`" in " ".join(drill_plan.meaning("power", [""], [], 0, ""))
