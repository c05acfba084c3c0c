# SPDX-License-Identifier: GPL-2.0-only
"""When the way to a far end is looked at, and what a look explains.

The way explains a failure and never causes one: only heartbeats decide about traffic.
"""

from __future__ import annotations

from appliance.causes import Cause
from appliance.hop.hop import Hop
from appliance.hop.lifecycle import SERVING
from appliance.tunnel.underlay import Way

LOOK_S = 5.0
"""How often it is looked at while the remote has traffic and nothing is known against it: each look starts three
programs. In all other cases at each turn."""


class WayWatch:
    """The way of one remote's packets. `way`: as it was found last."""

    def __init__(self, hop: Hop) -> None:
        self._hop = hop
        self.way = Way()
        self._last = 0

    def begin(self, now: int, way: Way) -> None:
        """The tunnels are up, over this way."""
        self.way, self._last = way, now

    def due(self, now: int) -> bool:
        """Whether it is time for a look (ns of CLOCK_MONOTONIC)."""
        return self._hop.state not in SERVING or bool(self.way.trouble) or now - self._last >= LOOK_S * 1e9

    def judge(self, now: int, way: Way) -> None:
        """It was looked at: tell the hop what that explains."""
        self.way, self._last = way, now
        if way.trouble:
            self._hop.explain(Cause.TUNNEL_DOWN, way.trouble)
        elif self._hop.cause is Cause.TUNNEL_DOWN:
            self._hop.explain(Cause.HEARTBEAT_LOST, "the way is there, but no heartbeat comes back from the remote")
