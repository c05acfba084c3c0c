# SPDX-License-Identifier: GPL-2.0-only
"""What is ordered and configured while a guest's process is being started, which takes as long as its disks take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast
from unittest.mock import MagicMock

import pytest

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.guest import guest as guest_module
from appliance.guest.guest import Guest
from appliance.guest.process_policy import ProcessEnd
from appliance.guest.run_context import RunContext
from appliance.guest.start_order import StartOrder
from appliance.health.verdict import WouldFall
from appliance.hop.lifecycle import HopState
from appliance.paths import Paths
from appliance.telemetry.transitions import Transitions

CONFIG = model.Guest(name="ips1", kernel="/k")


class FakeRun:
    """A run whose beginning takes until the test says so, and whose process runs until it is killed."""

    made: ClassVar[list[FakeRun]] = []

    def __init__(self, config: model.Guest, *_: object) -> None:
        self.config, self.adopted, self.warnings = config, False, ()
        self.go, self.ended = asyncio.Event(), asyncio.Event()
        self.pid = 1
        self.full = False
        self.made.append(self)

    async def begin(self) -> None:
        await self.go.wait()

    def kill(self) -> None:
        self.ended.set()

    def reconfigure(self, config: model.Guest) -> None:
        self.config = config

    async def live(self) -> ProcessEnd:
        await self.ended.wait()
        return ProcessEnd("killed by SIGKILL", "", answered=False)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Guest:
    monkeypatch.setattr(guest_module, "Run", FakeRun)
    monkeypatch.setattr(FakeRun, "made", [])
    huge = MagicMock()
    huge.give_back = lambda _: asyncio.sleep(0)
    context = RunContext(Paths(tmp_path), 1, (), 0, MagicMock(), cast(Any, huge))
    order = StartOrder((CONFIG,), context.clock)
    return Guest(CONFIG, context, MagicMock(), Transitions(), order=order, events=MagicMock())


def during_begin(made: Guest, then: Callable[[], object]) -> FakeRun:
    """Start the guest, do something while its process is being started, and let that go on."""

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0)

    async def body() -> FakeRun:
        life = asyncio.create_task(made.run())
        made.start()
        await until(lambda: bool(FakeRun.made))
        run = FakeRun.made[0]
        assert not made.idle, "who removes the guest must wait"
        then()
        run.go.set()
        await until(lambda: made.current_run is not None or run.ended.is_set())
        await until(lambda: made.idle or not run.ended.is_set())
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        return run

    return asyncio.run(body())


def test_a_guest_that_is_stopped_while_it_begins_does_not_run_on(made: Guest) -> None:
    run = during_begin(made, made.stop)
    assert run.ended.is_set()
    assert (made.state, made.idle) == (HopState.STOPPED, True)


def test_a_guest_that_is_reconfigured_while_it_begins_has_the_new_checks(made: Guest) -> None:
    new = model.Guest(name="ips1", kernel="/k", tags=True)
    run = during_begin(made, lambda: made.reconfigure(new))
    assert not run.ended.is_set()
    assert run.config is new


def test_what_the_checks_of_a_dry_run_say_is_told_and_changes_nothing(tmp_path: Path) -> None:
    ledger = MagicMock()
    context = RunContext(Paths(tmp_path), 1, (), 0, MagicMock(), cast(Any, MagicMock()))
    guest = Guest(CONFIG, context, MagicMock(), ledger, order=StartOrder((CONFIG,), context.clock), events=MagicMock())
    ledger.reset_mock()
    state = guest.state
    guest.on_decision(WouldFall("no heartbeat for 300 ms", Cause.HEARTBEAT_LOST))
    guest.on_decision(WouldFall(""))
    told = [(*call.args[2:], call.kwargs["detail"]) for call in ledger.record.call_args_list]
    assert told == [
        ("checks pass", "checks would bypass it", Cause.HEARTBEAT_LOST, "no heartbeat for 300 ms"),
        ("checks would bypass it", "checks pass", Cause.HEALTHY, ""),
    ]
    assert guest.state is state
