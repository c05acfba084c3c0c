# SPDX-License-Identifier: GPL-2.0-only
"""The benchmark's wires: two alike, one for the device under test and one for the limit that it is compared with.

    gen ══ veth ══ lan [device under test] wan ══ veth ══ sink
    gen0 ═ veth ═ lan0 [  bare redirect  ] wan0 ═ veth ═ sink0

So both are there at once, and a burst through one can follow a burst through the other without setting anything up.
Everything stands in one network namespace that this process made and entered; it vanishes with the process.
"""

from __future__ import annotations

import socket

from simulator.netns import run

PAIRS = (("gen", "lan"), ("wan", "sink"), ("gen0", "lan0"), ("wan0", "sink0"))


def build() -> None:
    """Make the pairs. GRO gives a veth its NAPI, without which it drops frames that XDP sends to it."""
    run("ip", "link", "set", "lo", "up")
    for left, right in PAIRS:
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
