# SPDX-License-Identifier: GPL-2.0-only
"""The ledger: order, memory over restarts, damaged files, full disks."""

from __future__ import annotations

import asyncio
from pathlib import Path

from appliance.telemetry.transitions import Transitions


def test_entries_survive_a_restart_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "state" / "transitions.jsonl"
    first = Transitions(path)
    first.record("segment main", "bypass", "inline", "healthy", "why")
    first.flush()
    with path.open("a") as file:
        file.write('{"when": "2026')  # the power was cut here
    second = Transitions(path)
    second.load()
    second.record("guest ips1", "a", "b", "starting")
    assert [entry["what"] for entry in second.entries()] == ["segment main", "guest ips1"]
    assert [entry["what"] for entry in second.entries(1)] == ["guest ips1"]
    assert second.entries(0) == []


def test_the_task_writes_and_writes_the_rest_when_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"

    async def body() -> None:
        ledger = Transitions(path)
        task = asyncio.create_task(ledger.run())
        ledger.record("a", "x", "y", "c")
        while not path.exists() or not path.read_text():
            await asyncio.sleep(0)
        ledger.record("b", "x", "y", "c")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(body())
    assert path.read_text().count("\n") == 2


def test_a_disk_that_refuses_costs_nothing_but_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ledger = Transitions(tmp_path / "file" / "t.jsonl")
    ledger.record("a", "x", "y", "c")
    ledger.flush()
    assert len(ledger.entries()) == 1


def test_the_file_is_rotated_and_the_ring_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    ledger = Transitions(path, ring=10, limit=500)
    for number in range(40):
        ledger.record("a", "x", str(number), "c")
        ledger.flush()
    assert path.stat().st_size < 1000
    assert path.with_name("t.jsonl.1").exists()
    assert len(ledger.entries()) == 10
    again = Transitions(path, ring=10, limit=500)
    again.load()
    assert again.entries()[-1]["to"] == "39"


def test_listeners_hear_each_entry() -> None:
    ledger = Transitions()
    heard: list[object] = []
    ledger.listen(lambda entry: heard.append(entry["to"]))
    ledger.record("a", "x", "y", "c")
    assert heard == ["y"]
