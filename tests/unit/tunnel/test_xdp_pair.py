# SPDX-License-Identifier: GPL-2.0-only
"""By which port packets leave that XDP has encapsulated."""

from __future__ import annotations

from appliance.tunnel import xdp_pair
from appliance.tunnel.plan import NAME

HARDWARE = {"ifname": "mgmt0-hw", "ifindex": 3, "master": "mgmt0"}
BRIDGE = {"ifname": "mgmt0", "ifindex": 4, "linkinfo": {"info_kind": "bridge"}}
GUEST = {"ifname": "tm1", "ifindex": 9, "master": "mgmt0"}
OTHER = {"ifname": "other0", "ifindex": 12}


def test_a_bridge_with_one_port_is_that_port() -> None:
    """Routes name the bridge."""
    assert xdp_pair.judge([OTHER, HARDWARE, BRIDGE], "mgmt0") == xdp_pair.Underlay(4, 3, "mgmt0-hw")


def test_a_bridge_with_guests_is_left_to_the_kernel() -> None:
    """Only it knows behind which port a neighbour is."""
    found = xdp_pair.judge([HARDWARE, BRIDGE, GUEST], "mgmt0")
    assert found.port == 0
    assert "guests are on the LAN of mgmt0" in found.trouble


def test_any_other_device_is_the_port_itself() -> None:
    assert xdp_pair.judge([OTHER], "other0") == xdp_pair.Underlay(12, 12, "other0")
    assert xdp_pair.judge([OTHER], "mgmt0").trouble == "mgmt0 is gone"


def test_the_names_follow_the_hop_s_device_and_are_known_as_ours() -> None:
    """The one in this namespace is found again after a crash; the other end goes with it."""
    assert xdp_pair.pair("tr3.1w") == ("tx3.1w", "te3.1w")
    assert NAME.fullmatch("tx3.1w")
