# SPDX-License-Identifier: GPL-2.0-only
"""The MAC addresses of a guest's ports if none are configured. Pure."""

from __future__ import annotations

from appliance.config.schema import model


def port_address(hop: int, segment: int, side: int) -> str:
    """The MAC address of a guest's port: locally administered, the same at every start. Side 0 = LAN, 1 = WAN."""
    return f"02:54:58:{hop & 0xFF:02x}:{segment & 0xFF:02x}:{side + 1:02x}"


def port_addresses(guest: model.Guest, hop: int, segment: int) -> tuple[str, str]:
    """The MAC addresses of a guest's two ports at the segment with this index; the first may be configured."""
    given = (guest.lan_mac, guest.wan_mac) if segment == 0 else ("", "")
    return (given[0] or port_address(hop, segment, 0), given[1] or port_address(hop, segment, 1))
