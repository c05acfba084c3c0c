# SPDX-License-Identifier: GPL-2.0-only
"""Facts that the datapath needs about a network device: length of frames, driver, XDP features."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace

from appliance.errors import HardwareError
from appliance.system import netdev, netlink
from appliance.system.xdp_features import XdpFeature, xdp_features

ETHERNET_HEADER = 14
VLAN_HEADER = 4


@dataclass(frozen=True)
class Device:
    """A network device of this namespace. `longest`: the longest frame that XDP may send by it, bytes with headers."""

    name: str
    ifindex: int
    mtu: int
    driver: str

    @property
    def longest(self) -> int:
        return self.mtu + ETHERNET_HEADER + VLAN_HEADER

    @property
    def leaves_checksums(self) -> bool:
        """Whether it delivers frames whose checksums the sender left to hardware that does not exist (veth)."""
        return self.driver == "veth"

    def resized(self, mtu: int) -> Device:
        """Set this MTU; returns the device with it. OSError: it refuses."""
        if netdev.mtu(self.name) != mtu:
            netdev.set_mtu(self.name, mtu)
        return replace(self, mtu=mtu)

    def delivers_several(self) -> bool:
        """Whether it may deliver frames in several buffers by XDP; false if the kernel cannot tell."""
        features = xdp_features(self.ifindex)
        return features is not None and XdpFeature.RECEIVE_SEVERAL in features

    def has_xdp(self) -> bool:
        """Whether its driver has native XDP; true if the kernel cannot tell."""
        features = xdp_features(self.ifindex)
        return features is None or XdpFeature.BASIC in features

    def sends(self) -> bool:
        """Whether XDP may send frames through it in its present state; true if the kernel cannot tell."""
        features = xdp_features(self.ifindex)
        return features is None or XdpFeature.SEND in features

    def sends_several(self) -> bool:
        """The same for frames in several buffers; false if the kernel cannot tell."""
        features = xdp_features(self.ifindex)
        return features is not None and XdpFeature.SEND_SEVERAL in features


def refused(name: str) -> dict[str, int]:
    """Frames on the wire that the device did not deliver, by cause, since it exists. OSError: it is gone.

    Drivers differ in what they count; a frame that is too long may be among the errors of any kind.
    """
    counted = netlink.receive_counters(name)
    long = counted["rx_length_errors"]
    return {
        "too_long": long,
        "errors": max(counted["rx_errors"] - long, 0),
        "missed": counted["rx_missed_errors"],
        "dropped": counted["rx_dropped"],
    }


def read(name: str) -> Device:
    """Look up a device by its name; HardwareError if there is none."""
    try:
        ifindex, mtu = socket.if_nametoindex(name), netdev.mtu(name)
    except OSError as error:
        raise HardwareError(f"{name}: no such network device ({error.strerror or error})") from error
    return Device(name, ifindex, mtu, netdev.driver(name))
