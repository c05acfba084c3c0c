# SPDX-License-Identifier: GPL-2.0-only
"""Which segments a commit removes, so that their relays close before their ports change."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from appliance.config.schema import metadata
from appliance.config.schema.metadata import Effect
from appliance.config.schema.model import Segment
from appliance.hardware.board import Board, Relay
from appliance.hardware.links import Links
from appliance.segment.manager import Segments
from appliance.telemetry.transitions import Transitions
from appliance.units import Duration

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


@pytest.mark.parametrize(
    ("options", "limit_s"),
    [({}, 3.0), ({"settle": Duration.parse("9s")}, 12.0), ({"options": {"keep_alive_timeout": "2s"}}, 5.0)],
)
def test_the_keeper_has_the_time_that_the_contacts_take(options: dict[str, Any], limit_s: float) -> None:
    """A relay that takes 9 s was given up after 3 s, each time, and its segment never became inline."""
    relay = Relay(ports=("lan0", "wan0"), **{"options": {"line": "r"}, **options})
    board = Board(name="slow", relay=(relay,))
    made = Segments((MAIN,), board, cast(Links, Ports()), cast(Transitions, Ledger()))
    assert made.units["main"].machine.times.confirm == limit_s * 1e9
