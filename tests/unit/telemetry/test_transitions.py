# SPDX-License-Identifier: GPL-2.0-only
"""The ledger: order, memory over restarts, damaged files, full disks."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from appliance.telemetry.subject import Change, Kind, Severity, Subject
from appliance.telemetry.transitions import Transitions


def test_entries_survive_a_restart_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "state" / "transitions.jsonl"
    first = Transitions(path)
    first.record(Change.SEGMENT_INLINE, "main", "bypass", "inline", "healthy", detail="why")
    first.flush()
    with path.open("a") as file:
        file.write('{"when": "2026')  # the power was cut here
    second = Transitions(path)
    second.load()
    second.record(Change.GUEST_OTHER, "ips1", "a", "b", "starting")
    assert [entry.answer().what for entry in second.entries()] == ["segment main", "guest ips1"]
    assert [entry.subject for entry in second.entries(1)] == [Subject(Kind.GUEST, "ips1")]
    assert second.entries(0) == []


def test_the_task_writes_and_writes_the_rest_when_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"

    async def body() -> None:
        ledger = Transitions(path)
        task = asyncio.create_task(ledger.run())
        ledger.record(Change.GUEST_OTHER, "a", "x", "y", "c")
        while not path.exists() or not path.read_text():
            await asyncio.sleep(0)
        ledger.record(Change.GUEST_OTHER, "b", "x", "y", "c")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(body())
    assert path.read_text().count("\n") == 2


def test_a_disk_that_refuses_costs_nothing_but_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ledger = Transitions(tmp_path / "file" / "t.jsonl")
    ledger.record(Change.GUEST_OTHER, "a", "x", "y", "c")
    ledger.flush()
    assert len(ledger.entries()) == 1


def test_the_file_is_rotated_and_the_ring_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    ledger = Transitions(path, ring=10, limit=500)
    for number in range(40):
        ledger.record(Change.GUEST_OTHER, "a", "x", str(number), "c")
        ledger.flush()
    assert path.stat().st_size < 1000
    assert path.with_name("t.jsonl.1").exists()
    assert len(ledger.entries()) == 10
    again = Transitions(path, ring=10, limit=500)
    again.load()
    assert again.entries()[-1].new == "39"


def test_listeners_hear_each_entry() -> None:
    ledger = Transitions()
    heard: list[object] = []
    ledger.listen(lambda entry, severity: heard.append((entry.new, severity)))
    ledger.record(Change.GUEST_OTHER, "a", "x", "y", "c")
    assert heard == [("y", Severity.INFO)]


OLD = (
    '{"when":"2026-01-02T03:04:05.678+00:00","mono_ns":7,"what":"segment main",'
    '"from":"bypass","to":"inline","cause":"healthy","detail":"why"}\n'
    '{"when":"2026-01-02T03:04:06.000+00:00","mono_ns":8,"what":"configuration",'
    '"from":"","to":"committed","cause":"configured","detail":""}\n'
    '{"when":"2026-01-02T03:04:07.000+00:00","mono_ns":9,"what":"remote dpi","kind":"remote","name":"dpi","more":1,'
    '"from":"a","to":"b","cause":"unheard_of","detail":""}\n'
)


def test_what_another_version_wrote_is_read(tmp_path: Path) -> None:
    """An older version wrote the subject as text; a newer one may know more kinds, causes and keys."""
    path = tmp_path / "t.jsonl"
    path.write_text(OLD)
    ledger = Transitions(path)
    ledger.load()
    segment, configuration, other = ledger.entries()
    assert segment.subject == Subject(Kind.SEGMENT, "main")
    assert configuration.subject == Subject(Kind.CONFIGURATION)
    assert [entry.answer().what for entry in (segment, configuration, other)] == [
        "segment main",
        "configuration",
        "remote dpi",
    ]


def test_an_older_version_reads_what_is_written(tmp_path: Path) -> None:
    """It needs these keys in each line (an update that is undone)."""
    path = tmp_path / "t.jsonl"
    ledger = Transitions(path)
    ledger.record(Change.GUEST_FAILED, "ips1", "starting", "failed", "crash_loop", detail="why")
    ledger.flush()
    line = json.loads(path.read_text())
    assert {key: line[key] for key in ("what", "from", "to", "cause", "detail")} == {
        "what": "guest ips1",
        "from": "starting",
        "to": "failed",
        "cause": "crash_loop",
        "detail": "why",
    }
    assert {"when", "mono_ns"} < line.keys()
