# SPDX-License-Identifier: GPL-2.0-only
"""The benchmark's wires: two equal ones, for the device under test and for the limit that it is compared with.

    gen ══ veth ══ lan [device under test] wan ══ veth ══ sink
    gen0 ═ veth ═ lan0 [  bare redirect  ] wan0 ═ veth ═ sink0

So both exist at the same time, and a burst through one can follow a burst through the other without any set-up.
Everything is in one network namespace that this process created and entered; it ends with the process.
"""

from __future__ import annotations

import socket

from simulator.netns import run

PAIRS = (("gen", "lan"), ("wan", "sink"), ("gen0", "lan0"), ("wan0", "sink0"))


def build() -> None:
    """Create the pairs. GRO enables a veth's NAPI, without which it drops frames that XDP sends to it."""
    run("ip", "link", "set", "lo", "up")
    for left, right in PAIRS:
        wire(left, right)


def wire(left: str, right: str) -> None:
    """A pair of devices to which XDP can send."""
    run("ip", "link", "add", left, "type", "veth", "peer", "name", right)
    for name in (left, right):
        run("sysctl", "-qw", f"net.ipv6.conf.{name}.disable_ipv6=1")
        run("ethtool", "-K", name, "gro", "on")
        run("ip", "link", "set", name, "up", "promisc", "on")


def reach(name: str) -> None:
    """Have the generator reach this veth: what was put on top may have taken its NAPI, and turning GRO on brings it."""
    for word in ("off", "on"):
        run("ethtool", "-K", name, "gro", word)


def index(name: str) -> int:
    """The interface's number."""
    return socket.if_nametoindex(name)
