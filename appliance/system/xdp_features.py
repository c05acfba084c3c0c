# SPDX-License-Identifier: GPL-2.0-only
"""A network device's XDP features, from the kernel's generic netlink family "netdev" (Linux 6.3 and newer).

Source: Documentation/netlink/specs/netdev.yaml, include/uapi/linux/netdev.h. No state; one socket a call.
"""

from __future__ import annotations

import struct
from enum import IntFlag

from appliance.system import netlink

_DEV_GET, _DEV_IFINDEX, _DEV_XDP_FEATURES = 1, 1, 3


class XdpFeature(IntFlag):
    """enum netdev_xdp_act, as far as it is needed."""

    BASIC = 1
    REDIRECT = 2
    SEND = 4  # others may redirect frames to it
    RECEIVE_SEVERAL = 32  # programs see frames in several buffers
    SEND_SEVERAL = 64  # also frames in several buffers


def xdp_features(ifindex: int) -> XdpFeature | None:
    """Its features now (some drivers have SEND only with a program attached); None if the kernel cannot tell."""
    try:
        with netlink.open_socket(netlink.GENERIC) as opened:
            opened.settimeout(1.0)
            family = netlink.generic_family(opened, "netdev")
            wanted = netlink.attribute(_DEV_IFINDEX, struct.pack("=I", ifindex))
            found = netlink.generic_request(opened, family, _DEV_GET, wanted)
            return XdpFeature(struct.unpack("=Q", found[_DEV_XDP_FEATURES])[0] & 0x67)
    except (OSError, KeyError, struct.error):
        return None
