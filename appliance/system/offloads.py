# SPDX-License-Identifier: GPL-2.0-only
"""Switches off receive offloads by which a device delivers frames other than those on the wire, and reads them back.

Uses ethtool's feature bits, whose positions differ from kernel to kernel and are found by name. No state. Source:
include/uapi/linux/ethtool.h, and netdev_features_strings in the kernel's net/ethtool/common.c.
"""

from __future__ import annotations

import struct

from appliance.system import netdev

_GSTRINGS, _GSSET_INFO, _GFEATURES, _SFEATURES = 0x1B, 0x37, 0x3A, 0x3B
_FEATURES_SET = 4  # ETH_SS_FEATURES
_NAME = 32  # ETH_GSTRING_LEN

ALTERING = {
    "rx-lro": "merged packets (LRO)",
    "rx-gro-hw": "packets merged by hardware (GRO)",
    "rx-vlan-hw-parse": "stripped VLAN tags",
    "rx-vlan-stag-hw-parse": "stripped 802.1ad tags",
}
"""The effect of each on frames, by the kernel's name of the feature."""


def _names(ifname: str) -> list[str]:
    """The names of all features, by bit."""
    asked = netdev.ethtool(ifname, struct.pack("=IIQI", _GSSET_INFO, 0, 1 << _FEATURES_SET, 0))
    count: int = struct.unpack_from("=I", asked, 16)[0]
    found = netdev.ethtool(ifname, struct.pack("=III", _GSTRINGS, _FEATURES_SET, count) + bytes(count * _NAME))
    return [found[12 + at * _NAME :][:_NAME].split(b"\0")[0].decode("ascii", "replace") for at in range(count)]


def _active(ifname: str, names: list[str]) -> list[str]:
    words = (len(names) + 31) // 32
    found = netdev.ethtool(ifname, struct.pack("=II", _GFEATURES, words) + bytes(16 * words))
    on = [struct.unpack_from("=I", found, 8 + 16 * word + 8)[0] for word in range(words)]
    return [name for bit, name in enumerate(names) if name in ALTERING and on[bit // 32] >> bit % 32 & 1]


def _switch_off(ifname: str, names: list[str], wanted: list[str]) -> None:
    words = (len(names) + 31) // 32
    valid = [0] * words
    for name in wanted:
        bit = names.index(name)
        valid[bit // 32] |= 1 << bit % 32
    blocks = b"".join(struct.pack("=II", mask, 0) for mask in valid)
    netdev.ethtool(ifname, struct.pack("=II", _SFEATURES, words) + blocks)


def altering(ifname: str) -> tuple[str, ...]:
    """How the device changes frames before it delivers them, as text; empty: not at all, or unknown."""
    try:
        return tuple(ALTERING[name] for name in _active(ifname, _names(ifname)))
    except OSError:
        return ()


def switch_off(ifname: str) -> tuple[str, ...]:
    """Have the device deliver frames as they are on the wire; returns, as text, how it still changes them.

    The answer does not show whether a device complies, so its features are read back.
    """
    try:
        names = _names(ifname)
        active = _active(ifname, names)
        if active:
            _switch_off(ifname, names, active)
    except OSError:
        pass  # the features in effect are read back
    return altering(ifname)
