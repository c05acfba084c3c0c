# SPDX-License-Identifier: GPL-2.0-only
"""The datapath on the devices of a Wire: one segment, one guest, and the configurations that most tests use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from simulator import netns

from appliance.config.schema.model import Config, Guest, Mirror, Rule, Segment
from appliance.steering.datapath import Datapath
from appliance.steering.kernel.layout import Outcome, Side
from tests.support.wire import Wire

MAIN = Segment(name="main", lan="lan0", wan="wan0")
EMPTY = Config(segment=(MAIN,), guest=(Guest(name="ips"),))
ALL = Config(segment=(MAIN,), guest=(Guest(name="ips"),), rule=(Rule(name="all", path=("ips",)),))
CANARY = Config(
    segment=(MAIN,),
    guest=(Guest(name="ips"), Guest(name="canary")),
    rule=(Rule(name="all", path=("ips",), mirrors=(Mirror("canary"),)),),
)
FAR = 3600 * 10**9
MODES = pytest.mark.parametrize("mode", ["xdp", "tc"])


@contextmanager
def appliance(wire: Wire, path: Path, mode: str = "auto", config: Config = ALL) -> Iterator[Datapath]:
    """A pinned datapath, attached to all four devices, with its policy."""
    made = Datapath.open(path, wire.pins)
    try:
        attach(wire, made, mode)
        made.set_policy(config)
        yield made
    finally:
        made.unload()


def attach(wire: Wire, made: Datapath, mode: str = "auto") -> None:
    """With XDP as from a wire, so that ports may begin in the policy's own programs; otherwise as the devices are."""

    def body() -> None:
        made.attach_segment("main", "lan0", "wan0", mode, whole=mode == "xdp")
        made.attach_hop("tapl", "ips", "main", Side.LAN)
        made.attach_hop("tapw", "ips", "main", Side.WAN)

    wire.inside(body)


def available(made: Datapath) -> None:
    now = time.monotonic_ns()
    made.leases.renew_supervisor(now + FAR)
    made.leases.renew("ips", now + FAR)


def outcomes(made: Datapath, side: Side) -> dict[Outcome, int]:
    frames = made.counters().ports["main", side].frames
    return {outcome: count for outcome, count in frames.items() if count}


@contextmanager
def two_guests(wire: Wire, path: Path, config: Config = CANARY) -> Iterator[Datapath]:
    """The wire's guest, and another one like it, a bridge that sends on whatever it gets."""
    space = f"{wire.guest}m"
    netns.run("ip", "netns", "add", space)
    try:
        wire.pair("mirl", space, "ml")
        wire.pair("mirw", space, "mw")
        netns.run("ip", "-n", space, "link", "add", "bridge0", "type", "bridge", "forward_delay", "0",
                  "mcast_snooping", "0")  # fmt: skip
        netns.run("ip", "-n", space, "link", "set", "bridge0", "up")
        for name in ("ml", "mw"):
            netns.run("ip", "-n", space, "link", "set", name, "master", "bridge0")
        made = Datapath.open(path, wire.pins)
        try:
            attach(wire, made, "tc")
            wire.inside(lambda: made.attach_hop("mirl", "canary", "main", Side.LAN))
            wire.inside(lambda: made.attach_hop("mirw", "canary", "main", Side.WAN))
            made.set_policy(config)
            available(made)
            yield made
        finally:
            made.unload()
    finally:
        netns.run("ip", "netns", "del", space)
