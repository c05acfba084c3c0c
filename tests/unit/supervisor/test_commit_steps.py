# SPDX-License-Identifier: GPL-2.0-only
"""Which steps of a commit are due on an appliance: tests/datapath/test_commit.py takes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

from appliance.config.schema.model import Config
from appliance.supervisor.commit_steps import CommitSteps
from appliance.supervisor.system import System


async def _nothing(_: object) -> None: ...


def test_the_first_configuration_is_brought_up_only_where_none_ran() -> None:
    steering = SimpleNamespace(remarks=tuple)
    system = SimpleNamespace(config=None, steering=steering)
    made = CommitSteps(cast(System, system), wake=lambda: None, configured=_nothing, relays_closed=_nothing).steps()
    assert [step.name for step in made if not step.due()] == []
    system.config = Config()
    assert [step.name for step in made if not step.due()] == ["first configuration"]
