# SPDX-License-Identifier: GPL-2.0-only
"""Sums of the datapath's counters, as they are shown."""

from __future__ import annotations

from appliance.steering.kernel.counters import DeviceCount, HopCount
from appliance.steering.kernel.layout import Outcome, Side


def test_what_came_out_of_a_hop_can_be_compared_with_what_was_sent_to_it() -> None:
    """Heartbeats are in neither: a guest that drops every frame is seen to return none."""
    taps = {
        ("main", Side.LAN): DeviceCount({Outcome.OUT: 70, Outcome.HEARTBEAT: 1000}, {}),
        ("main", Side.WAN): DeviceCount({Outcome.OUT: 30, Outcome.HEARTBEAT: 1000}, {}),
    }
    assert HopCount(100, 6400, {}, 0, 0, taps).from_frames == 100
    idle = {("main", Side.LAN): DeviceCount({Outcome.HEARTBEAT: 1000}, {})}
    assert HopCount(100, 6400, {}, 0, 0, idle).from_frames == 0
