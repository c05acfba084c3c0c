# SPDX-License-Identifier: GPL-2.0-only
"""A guest whose disk is full waits for room, longer each time in a row, and goes on by itself unless it is held."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from appliance.guest import disk_space
from appliance.guest.room import CALM_NS, FIRST_ROOM_S, LAST_ROOM_S, RoomWait


class Paused:
    """A guest that QEMU has paused, on a disk that has room from the last of `enough` on; `until` ends the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *enough: bool) -> None:
        self.enough: Iterator[bool] = iter(enough)
        self.now, self.state = 2 * CALM_NS, "io-error"
        self.slept: list[float] = []
        self.noted: list[bool] = []
        self.asked: list[str] = []
        self.over = asyncio.Event()
        monkeypatch.setattr(disk_space, "room", self.room)
        self._sleep = asyncio.sleep
        monkeypatch.setattr(asyncio, "sleep", self.sleep)
        self.wait = RoomWait(
            "ips1", Path(), cast(Any, self), report=self.report, note=self.noted.append, clock=lambda: self.now
        )

    async def sleep(self, seconds: float) -> None:
        await self._sleep(0)
        self.slept.append(seconds)  # all of it: nobody cancelled it

    def room(self, _: Path) -> object:
        enough = next(self.enough, None)
        if enough is None:
            self.over.set()
        return type("Room", (), {"enough": bool(enough)})

    async def status(self) -> str:
        return self.state

    async def ask(self, command: str) -> None:
        self.asked.append(command)
        self.report("RESUME", {})

    def report(self, name: str, data: Mapping[str, object]) -> None:
        assert name == "RESUME"
        self.over.set()
        self.wait.end()

    async def run(self) -> None:
        self.over.clear()
        self.wait.begin()
        async with asyncio.timeout(10):
            await self.over.wait()
        self.wait.cancel()


def test_it_goes_on_when_there_is_room_and_each_wait_is_twice_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        guest = Paused(monkeypatch, *[False] * 6, True)
        await guest.run()
        assert guest.slept == [FIRST_ROOM_S, 4.0, 8.0, 16.0, 32.0, LAST_ROOM_S, LAST_ROOM_S]
        assert (guest.asked, guest.noted, guest.wait.waiting) == (["cont"], [True, False], False)

    asyncio.run(body())


def test_the_next_wait_begins_where_the_last_one_ended_until_it_was_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        guest = Paused(monkeypatch, True, True, True)
        await guest.run()
        guest.now += CALM_NS
        await guest.run()
        guest.now += CALM_NS + 1
        await guest.run()
        assert guest.slept == [FIRST_ROOM_S, 2 * FIRST_ROOM_S, FIRST_ROOM_S]

    asyncio.run(body())


def test_one_that_an_operator_holds_stays_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        guest = Paused(monkeypatch, True, True)
        guest.wait.held = True
        await guest.run()
        assert (guest.asked, guest.wait.waiting) == ([], True)

    asyncio.run(body())


def test_one_that_somebody_let_run_waits_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        guest = Paused(monkeypatch, False)
        guest.state = "running"
        await guest.run()
        assert (guest.asked, guest.noted) == ([], [True, False])

    asyncio.run(body())
