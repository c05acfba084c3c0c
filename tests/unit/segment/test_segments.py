# SPDX-License-Identifier: GPL-2.0-only
"""Which segments a commit removes, so that their relays close before their ports change."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from appliance.config.schema import metadata
from appliance.config.schema.metadata import Effect
from appliance.config.schema.model import Segment
from appliance.hardware.links import Links
from appliance.segment.manager import Segments
from appliance.telemetry.transitions import Transitions

MAIN = Segment(name="main", lan="lan0", wan="wan0")
OTHER: dict[str, Any] = {
    "lan": "lan1",
    "wan": "wan1",
    "mode": "bypass",
    "on_link_loss": "ignore",
    "rearm_delay": 1,
    "attach": "tc",
    "mtu": 1600,
}


class Ports:
    """The links of a board: nothing is held down."""

    downed: frozenset[str] = frozenset()


class Ledger:
    """Takes whatever is recorded."""

    def record(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("key", [key for key in msgspec.structs.asdict(MAIN) if key in OTHER])
def test_the_relay_closes_for_keys_that_say_so(key: str) -> None:
    """A key is announced as closing the relay exactly when the segment begins anew with it."""
    made = Segments((MAIN,), None, cast(Links, Ports()), cast(Transitions, Ledger()))
    made.leave((msgspec.structs.replace(MAIN, **{key: OTHER[key]}),))
    assert ("main" not in made.units) == (key in metadata.keys_of("segment", Effect.PORTS))
