# SPDX-License-Identifier: GPL-2.0-only
"""Drops link-local protocols (STP, LLDP) between a guest's port and the management LAN, in both directions.

A bridge without spanning tree forwards spanning tree frames (the kernel does that so that loops behind it are found). A
switch that receives one from a guest may shut down the appliance's port, or accept the guest as root bridge. The same
holds for everything sent to the group addresses of IEEE 802 (spanning tree, pause, LACP, 802.1X, LLDP, MVRP) and of
Cisco (PVST+, CDP, VTP, DTP, UDLD), and for MAC control frames to any address. A guest is only on the LAN of the
management port, so frames of other VLANs are dropped as well; a priority tag (VLAN 0) passes. A guest that bridges its
management port to its data ports connects nothing: the frames that it forwards have other sources (bridge.py).

The filter is a classic BPF program that tc runs in both directions of the tap. Pure: returns arguments for tc.
"""

from __future__ import annotations

from typing import NamedTuple

Words = list[str]

GROUPS = {0x0180C2: "IEEE 802", 0x01000C: "Cisco"}
"""First three bytes of the destination: the group addresses of protocols between neighbouring stations."""

_TYPES = (0x8808, 0x8100, 0x88A8)  # MAC control; a second tag, because the kernel has removed the first

_PASS, _DROP = 0, 2  # TC_ACT_OK, TC_ACT_SHOT
_LOAD, _LOAD_HALF, _SHIFT, _AND, _IF_EQUAL, _RETURN = 0x20, 0x28, 0x74, 0x54, 0x15, 0x06
_TAG_PRESENT, _TAG = 0xFFFFF030, 0xFFFFF02C  # beside the frame: SKF_AD_VLAN_TAG_PRESENT, SKF_AD_VLAN_TAG
_HERE, _TO_DROP, _TO_PASS = "", "drop", "pass"


class _Line(NamedTuple):
    """One instruction; `then` is the jump target if its comparison is true."""

    code: int
    value: int
    then: str = _HERE


def _lines() -> list[_Line]:
    return [
        _Line(_LOAD, 0),
        _Line(_SHIFT, 8),
        *(_Line(_IF_EQUAL, group, _TO_DROP) for group in GROUPS),
        _Line(_LOAD_HALF, 12),
        *(_Line(_IF_EQUAL, ethertype, _TO_DROP) for ethertype in _TYPES),
        _Line(_LOAD, _TAG_PRESENT),
        _Line(_IF_EQUAL, 0, _TO_PASS),
        _Line(_LOAD, _TAG),
        _Line(_AND, 0xFFF),
        _Line(_IF_EQUAL, 0, _TO_PASS),
    ]


def bytecode() -> str:
    """The program in tc's format: number of instructions, then code, jump if true, jump if false, value of each."""
    lines = _lines()
    ends = {_TO_DROP: len(lines), _TO_PASS: len(lines) + 1}  # a frame that reaches the end is of another VLAN
    rows = [(line.code, ends[line.then] - at - 1 if line.then else 0, 0, line.value) for at, line in enumerate(lines)]
    rows += [(_RETURN, 0, 0, _DROP), (_RETURN, 0, 0, _PASS)]
    return ",".join([str(len(rows)), *(" ".join(map(str, row)) for row in rows)])


def commands(tap: str, space: str) -> list[Words]:
    """The commands that install the filter on a tap in this namespace. Idempotent."""
    tc = ["tc", "-n", space]
    program = ["protocol", "all", "pref", "1", "handle", "1", "bpf", "direct-action", "bytecode", bytecode()]
    return [
        [*tc, "qdisc", "replace", "dev", tap, "clsact"],
        *([*tc, "filter", "replace", "dev", tap, way, *program] for way in ("ingress", "egress")),
    ]
