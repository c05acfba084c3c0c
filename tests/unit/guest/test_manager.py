# SPDX-License-Identifier: GPL-2.0-only
"""A commit meets a guests' part that has not begun, or has failed and is about to begin again: only its words count."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from appliance.config.schema.model import Config, Guest, Rule, Segment
from appliance.errors import GuestError
from appliance.guest import guest as guests
from appliance.guest.lifecycle import State
from appliance.guest.manager import GuestManager
from appliance.guest.run import Setting
from appliance.paths import Paths
from appliance.telemetry.transitions import Transitions

NEW = Config(
    segment=(Segment(name="main", lan="lan0", wan="wan0"),),
    guest=(Guest(name="ips1", image="a"),),
    rule=(Rule(name="all", path=("ips1",)),),
)


def test_a_commit_before_it_has_begun_is_only_noted(tmp_path: Path) -> None:
    """No tap and no guest is made for it: `start` makes those of the configuration that holds then."""
    nobody = cast(Any, None)  # whoever is asked for something here fails the test
    manager = GuestManager(Config(), Paths(tmp_path), nobody, Transitions(), steered=nobody)

    async def commit() -> None:
        await manager.arrive(NEW)
        await manager.apply(NEW)
        await manager.finish(NEW)

    asyncio.run(commit())
    assert (manager.summary(), manager._config) == ([], NEW)


def test_a_commit_that_changes_a_failed_guest_starts_it_again(tmp_path: Path) -> None:
    """It was to be mended, and somebody has; one that is as it was, or is not started by itself, waits for an order."""

    class Nobody:
        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: None

    nobody = cast(Any, Nobody())
    old = Guest(name="ips1", image="a")
    for new, state in (
        (old, State.FAILED),
        (Guest(name="ips1", image="b"), State.STARTING),
        (Guest(name="ips1", image="b", autostart=False), State.FAILED),
    ):
        setting = Setting(Paths(tmp_path), 1, (), 0, nobody, nobody)
        guest = guests.Guest(old, setting, nobody, nobody, order=nobody, aftermath=nobody)
        guest.autostart()
        guest._cannot_start(GuestError("a: no such image"))
        assert guest.state.value == "failed"
        guest.reconfigure(new)
        assert (guest.state, guest._wanted.is_set()) == (state, state is State.STARTING)
