# SPDX-License-Identifier: GPL-2.0-only
"""The datapath reads the clock once a tick (appliance/bpf/clock.h): the end of a lease is noticed within that tick."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.config.schema.model import Config, Guest, Rule, Segment
from appliance.steering.explain.model import Where
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Outcome, Role, Side, slot
from tests.support.frames import udp
from tests.support.twin import Twin

pytestmark = pytest.mark.root
LAN = Where(Role.PORT, 0, Side.LAN)
CLOCK_MONOTONIC_COARSE = 6  # linux/time.h: the time of the last tick; its resolution is the tick
TICK = round(time.clock_getres(CLOCK_MONOTONIC_COARSE) * 1e9)  # ns
SOON, LONG = 10 * TICK, 200 * TICK


@pytest.fixture(scope="module")
def loaded(bpf_object: Path) -> Iterator[Twin]:
    segment = Segment(name="main", lan="lan0", wan="wan0")
    config = Config(segment=(segment,), guest=(Guest(name="a"),), rule=(Rule(name="r", path=("a",)),))
    made = Twin(bpf_object, config)
    made.attach()
    yield made
    made.close()


@pytest.fixture
def twin(loaded: Twin) -> Twin:
    """With leases in force."""
    loaded.supervise()
    loaded.lease("a")
    return loaded


def went(twin: Twin, way: str) -> Outcome:
    """What becomes of a frame that begins in the port's own program, or in that for every device."""
    kind = "tc" if way == "tc" else "xdp"
    program = twin.datapath.kernel.programs[f"entry_{kind}"]
    if way == "own":
        attached = twin.datapath.attached_program(slot(0, 0, Side.LAN))
        assert attached is not None
        assert attached.own
        program = attached.program
    before = twin.counted(LAN)
    twin.run_plain(program, LAN, udp(), kind)
    (outcome,) = (outcome for outcome, count in twin.counted(LAN).items() if count != before[outcome])
    return outcome


@pytest.mark.parametrize("way", ["own", "xdp", "tc"])
@pytest.mark.parametrize("whose", ["supervisor", "hop"])
def test_a_lease_counts_no_longer_than_a_tick_beyond_its_end(twin: Twin, way: str, whose: str) -> None:
    """Frames without a pause, so that each but the first of a tick takes the time that another one has read.

    The tick is the kernel's own, by the coarse clock, which a busy machine may move late.
    """
    for _ in range(3):
        assert went(twin, way) is Outcome.TO_HOP
    until = time.monotonic_ns() + SOON
    hop = twin.datapath.hop_id("a") if whose == "hop" else 0
    twin.datapath.kernel.leases.write(hop, until, 0)
    early = 0
    while True:
        begins, tick = time.monotonic_ns(), time.clock_gettime_ns(CLOCK_MONOTONIC_COARSE)
        outcome = went(twin, way)
        ends = time.monotonic_ns()
        if outcome is Outcome.BYPASSED:
            assert ends >= until, "not before its end"
            break
        assert outcome is Outcome.TO_HOP
        assert tick < until, "still to the hop, in a tick that began after the end"
        early += begins < until
    assert early, "the frames before its end"


@pytest.mark.parametrize("way", ["own", "xdp", "tc"])
def test_nothing_is_left_of_the_time_before_a_pause(twin: Twin, way: str) -> None:
    """No frame for a while, in which the lease has ended."""
    assert went(twin, way) is Outcome.TO_HOP
    twin.datapath.kernel.leases.write(twin.datapath.hop_id("a"), time.monotonic_ns() + SOON, 0)
    time.sleep(LONG / 1e9)
    assert went(twin, way) is Outcome.BYPASSED


@pytest.mark.parametrize("way", ["own", "xdp", "tc"])
def test_what_two_cpus_have_written_halves_of_does_not_count(twin: Twin, way: str) -> None:
    """The time of one with the tick of another: whatever the combination, the clock is read again."""
    twin.datapath.kernel.leases.write(twin.datapath.hop_id("a"), time.monotonic_ns(), 0)
    time.sleep(LONG / 1e9)
    ticks = twin.maps["ticks"]
    for _ in range(20):
        assert went(twin, way) is Outcome.BYPASSED
        last = ticks.get(0)
        assert last is not None
        ticks.set(0, layout.TickValue(now=1, check=last.check))
        assert went(twin, way) is Outcome.BYPASSED
        ticks.set(0, layout.TickValue(now=1, check=1))
