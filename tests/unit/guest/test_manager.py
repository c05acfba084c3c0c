# SPDX-License-Identifier: GPL-2.0-only
"""A commit meets a guests' part that has not begun, or has failed and is about to begin again: only its words count."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

from appliance.config.schema.model import Config, Guest, Rule, Segment
from appliance.guest.manager import GuestManager
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
        await manager.add_new(NEW)
        await manager.apply(NEW)
        await manager.remove_old(NEW)

    asyncio.run(commit())
    assert (manager.summary(), manager._config) == ([], NEW)
