# SPDX-License-Identifier: GPL-2.0-only
"""Facts about network devices of the present network namespace, by the plain ioctls (no file system, no netlink)."""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from dataclasses import dataclass

from appliance.errors import HardwareError
from appliance.system.xdp_features import XdpFeature, xdp_features

_SIOCGIFMTU = 0x8921
_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 3
ETHERNET_HEADER = 14
VLAN_HEADER = 4


@dataclass(frozen=True)
class Device:
    """A network device. `longest`: the longest frame XDP may send by it, in bytes with headers."""

    name: str
    ifindex: int
    mtu: int
    driver: str

    @property
    def longest(self) -> int:
        return self.mtu + ETHERNET_HEADER + VLAN_HEADER

    @property
    def leaves_checksums(self) -> bool:
        """Does it hand over frames whose checksums the sender left to the hardware? It has none."""
        return self.driver == "veth"

    def sends(self) -> bool:
        """May XDP send frames by it, as it is now? A kernel that cannot tell is believed to."""
        features = xdp_features(self.ifindex)
        return features is None or XdpFeature.SEND in features

    def sends_several(self) -> bool:
        """The same for frames that lie in several buffers; a kernel that cannot tell is believed not to."""
        features = xdp_features(self.ifindex)
        return features is not None and XdpFeature.SEND_SEVERAL in features


def read(name: str) -> Device:
    """Look the device up; HardwareError when there is none of this name."""
    try:
        ifindex = socket.if_nametoindex(name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ioctl:
            answer = fcntl.ioctl(ioctl, _SIOCGIFMTU, struct.pack("16si12x", name.encode(), 0))
            mtu = struct.unpack("16si12x", answer)[1]
            about = array.array("B", struct.pack("I192x", _ETHTOOL_GDRVINFO))
            try:
                fcntl.ioctl(ioctl, _SIOCETHTOOL, struct.pack("16sP8x", name.encode(), about.buffer_info()[0]))
                driver = about.tobytes()[4:36].split(b"\0")[0].decode()
            except OSError:
                driver = "unknown"
    except OSError as error:
        raise HardwareError(f"{name}: no such network device ({error.strerror or error})") from error
    return Device(name, ifindex, mtu, driver)
