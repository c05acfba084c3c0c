# SPDX-License-Identifier: GPL-2.0-only
"""A real guest with two virtual processors and two queues a port: real QEMU, its driver, and an application in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.config.schema import model
from appliance.guest.show import details
from appliance.hop.lifecycle import HopState
from appliance.units import Duration, Size
from tests.support import board_harness
from tests.support.guest_world import World
from tests.support.numbered_flows import EVEN, FLOWS, ODD, Arrivals, overtaken, pour_from_both
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not (EVEN and ODD), reason="needs two processors"),
]

FRAMES = 1600  # from each processor
BOOT_S = 120.0
CONFIG = model.Config(
    segment=(model.Segment(name="main", lan="lan0", wan="wan0"),),
    guest=(
        model.Guest(
            name="ips1",
            kernel="/guest-demo/bzImage",
            initrd="/guest-demo/initrd.gz",
            cmdline="console=ttyS0 quiet",
            memory=Size.parse("96M"),
            cpus=2,
            queues=2,
            queue_pin=(EVEN[0], ODD[0]) if EVEN and ODD else (),
            probes=(model.Probe(kind="inband", interval=Duration.parse("100ms"), misses=20),),
            dry_run=True,  # however slowly it is emulated, every frame goes through it
        ),
    ),
    rule=(model.Rule(name="all", path=("ips1",)),),
)


@pytest.fixture(scope="module")
def world(bpf_object: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("queues"), bpf_object, board_harness.artefacts(), CONFIG)
    try:
        made.call(made.reach(HopState.AVAILABLE))
        wait_until(lambda: len(returned(made)) == 4, "heartbeats through each queue, both ways", BOOT_S)
        yield made
    finally:
        made.close()


def returned(world: World) -> list[str]:
    """The lanes through single queues whose heartbeats have come back."""
    rows = shown(world).heartbeats
    return [row.lane for row in rows if row.received and ", queue " in row.lane] if rows else []


def shown(world: World) -> Any:
    return details(world.guest(), 0)


def test_its_driver_uses_both_queues_of_both_ports(world: World) -> None:
    """Found out of the kernel, after the driver has enabled the second one; heartbeats come back through each."""
    wait_until(lambda: [row.used for row in shown(world).queues] == [2, 2], "both queues in use")
    (pair,) = world.guest().pairs
    assert [(row.tap, row.queues) for row in shown(world).queues] == [(pair.lan, 2), (pair.wan, 2)]
    assert returned(world) == [f"in-band {way}, queue {n}" for way in ("lan to wan", "wan to lan") for n in (0, 1)]
    assert "no vhost" in shown(world).warning
    assert "its driver uses" not in shown(world).warning


def test_no_frame_overtakes_another_one_of_its_flow(world: World) -> None:
    """64 flows from two processors at once, through two queues of a machine and its application: 0 are reordered."""
    before = world.datapath.counters().hops["ips1"].to_frames
    arrivals = Arrivals(world.inside, "wan")
    try:
        pour_from_both(world.inside, "lan", FRAMES, arrivals)
        wait_until(lambda: len(arrivals.frames) == 2 * FRAMES, "each frame", explain=lambda: len(arrivals.frames))
    finally:
        arrivals.close()
    assert world.datapath.counters().hops["ips1"].to_frames - before == 2 * FRAMES
    assert Counter(flow for flow, _ in arrivals.frames) == dict.fromkeys(range(2 * FLOWS), FRAMES // FLOWS)
    assert overtaken(arrivals.frames) == 0


def test_another_bypassd_adopts_it_with_its_queues(world: World) -> None:
    """The process goes on; the number of its queues is known again, and its heartbeats come back by each."""
    pid = world.guest().current_run.pid  # type: ignore[union-attr]
    world.call(world.end())
    world.call(world.begin())
    world.call(world.until(lambda: world.guest().state is HopState.AVAILABLE))
    assert world.guest().current_run.pid == pid  # type: ignore[union-attr]
    wait_until(lambda: [row.used for row in shown(world).queues] == [2, 2], "both queues in use")
