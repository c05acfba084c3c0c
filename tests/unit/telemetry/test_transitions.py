# SPDX-License-Identifier: GPL-2.0-only
"""The ledger: order, memory over restarts, damaged files, full disks, subjects that change too fast."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from appliance.telemetry.subject import Change, Kind, Severity, Subject
from appliance.telemetry.transitions import BURST, RING, Transitions


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
    second.flush()
    third = Transitions(path)
    third.load()
    assert [entry.answer().what for entry in third.entries()] == ["segment main", "guest ips1"]  # not glued to the torn


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


class Disk:
    """Takes `room` bytes in all, and then only parts of lines, as a full disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        real = Path.open

        def opened(path: Path, mode: str = "r", **more: Any) -> Any:
            file = real(path, mode, **more)
            return Limited(file.fileno(), self) if mode.startswith("a") else file

        monkeypatch.setattr(Path, "open", opened)


class Limited(io.FileIO):
    """A file on that disk."""

    def __init__(self, fd: int, disk: Disk) -> None:
        super().__init__(os.dup(fd), "a+b")
        self._disk = disk

    def write(self, data: Any, /) -> int:
        part = bytes(data)[: max(0, self._disk.room)]
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._disk.room -= len(part)
        return super().write(part)


def test_what_a_full_disk_refused_is_written_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.jsonl"
    disk = Disk(monkeypatch, 250)
    ledger = Transitions(path)
    for number in range(5):
        ledger.record(Change.GUEST_OTHER, "a", "x", str(number), "c")
        ledger.flush()
    assert ledger.trouble == "No space left on device"
    assert ledger.unwritten == 4
    assert ledger.alarm.startswith("the ledger of transitions cannot be written (No space left on device): 4 entries")
    assert [json.loads(line)["to"] for line in path.read_text().splitlines()] == ["0"], "no torn line"
    disk.room = 10_000
    ledger.flush()
    assert (ledger.trouble, ledger.unwritten, ledger.alarm) == ("", 0, "")
    assert [json.loads(line)["to"] for line in path.read_text().splitlines()] == list("01234")


def test_the_task_tries_a_full_disk_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.jsonl"
    disk = Disk(monkeypatch, 0)
    monkeypatch.setattr("appliance.telemetry.transitions.RETRY_S", 0.01)
    monkeypatch.setattr("appliance.telemetry.transitions.HELD_S", 0.01)

    async def body() -> None:
        ledger = Transitions(path)
        task = asyncio.create_task(ledger.run())
        ledger.record(Change.GUEST_OTHER, "a", "x", "y", "c")
        async with asyncio.timeout(10):
            while not ledger.trouble:
                await asyncio.sleep(0)
            disk.room = 10_000
            while ledger.unwritten or ledger.trouble:
                await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(body())
    assert path.read_text().count("\n") == 1


class Clock:
    """Nanoseconds that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        return self.now


def _drain_for(ledger: Transitions, clock: Clock, seconds: int) -> None:
    """A guest drains and resumes itself 50 times a second."""
    for _ in range(seconds):
        for _ in range(50):
            clock.now += 20_000_000
            ledger.record(Change.GUEST_OTHER, "evil", "available", "draining", "guest_asked")
            ledger.record(Change.GUEST_AVAILABLE, "evil", "draining", "available", "guest_asked")
        ledger.settle()
        ledger.flush()


def test_a_guest_that_floods_the_ledger_pushes_nobody_out(tmp_path: Path) -> None:
    """In memory, in the file, and after a restart: others keep their entries, the guest gets one a second."""
    path, clock = tmp_path / "t.jsonl", Clock()
    ledger = Transitions(path, ring=100, limit=20_000, clock=clock)
    for number in range(10):
        clock.now += 1
        ledger.record(Change.SYSTEM_LOST_POWER, "", "reset", "running", "power", detail=str(number))
        ledger.record(Change.GUEST_OTHER, "good", "a", "b", "c")
    seconds = 300
    _drain_for(ledger, clock, seconds)
    clock.now += 1_000_000_000
    ledger.settle()
    ledger.flush()
    again = Transitions(path, ring=100, limit=20_000)
    again.load()
    for kept in (ledger, again):
        subjects = Counter(str(entry.subject) for entry in kept.entries())
        assert (subjects["system"], subjects["guest good"]) == (10, 10)
        assert subjects["guest evil"] == 80, "it has what is left"
    newest = ledger.entries()[-1]
    assert newest.new == "available", "the state that holds is always told"
    assert "left out (too frequent)" in newest.detail
    recorded = 2 * 50 * seconds - ledger.left_out
    assert recorded <= seconds + BURST + 1
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2 * 20_000 + 2000


def test_what_was_left_out_is_told_when_the_flood_is_over() -> None:
    clock = Clock()
    ledger = Transitions(clock=clock)
    for number in range(BURST + 5):
        ledger.record(Change.GUEST_OTHER, "evil", "x", str(number), "c")
    ledger.settle()
    assert ledger.entries()[-1].new == str(BURST - 1)
    clock.now += 1_000_000_000
    ledger.settle()
    last = ledger.entries()[-1]
    assert (last.new, last.detail) == (str(BURST + 4), "4 earlier changes left out (too frequent)")
    assert ledger.left_out == 4


def test_a_power_cut_while_the_file_is_halved_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    ledger = Transitions(path)
    for number in range(3):
        ledger.record(Change.GUEST_OTHER, "a", "x", str(number), "c")
    ledger.flush()
    path.with_name("t.jsonl.1").write_bytes(path.read_bytes())  # it is in place, and the other was not yet removed
    again = Transitions(path)
    again.load()
    assert [entry.new for entry in again.entries()] == ["0", "1", "2"]


def test_what_waits_for_the_disk_is_bounded() -> None:
    clock = Clock()
    ledger = Transitions(clock=clock)
    for number in range(RING + 100):
        clock.now += 2_000_000_000
        ledger.record(Change.GUEST_OTHER, "a", "x", str(number), "c")
    assert ledger.unwritten == RING


def test_the_file_is_rotated_and_the_ring_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    clock = Clock()
    ledger = Transitions(path, ring=10, limit=500, clock=clock)
    for number in range(40):
        clock.now += 1_000_000_000
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
