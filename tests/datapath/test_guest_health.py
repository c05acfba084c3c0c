# SPDX-License-Identifier: GPL-2.0-only
"""Every kind of check on a real guest behind the real datapath, its agent's requests, and its incidents.

One world serves all tests of this module, in order; each leaves the guest available.
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.causes import Cause
from appliance.config.schema import model
from appliance.frames import capture_reader
from appliance.guest.agent import conversation
from appliance.guest.agent.channel import Accept, Bypass, Drain
from appliance.guest.show import details
from appliance.hop.lifecycle import HopState
from appliance.telemetry.subject import Kind, Subject
from appliance.units import Duration, Size
from tests.support import board_harness
from tests.support.guest_world import World
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

ADDRESSES = bytes.fromhex("020000000001020000000002")
UDP = (
    b"\x08\x00"
    + struct.pack(">BBHHHBBH", 0x45, 0, 46, 1, 0, 64, 17, 0)
    + bytes([10, 0, 0, 1, 10, 0, 0, 2])
    + struct.pack(">HHHH", 4000, 53, 26, 0)
    + bytes(18)
)


def flow(port: int) -> bytes:
    """Another flow than UDP."""
    return UDP.replace(struct.pack(">HH", 4000, 53), struct.pack(">HH", port, 53))


OTHER = flow(4001)
ARP = b"\x08\x06" + bytes(46)
BLOCKED = (ADDRESSES + b"\x88\xb6" + bytes(46)).hex()  # what the demo guest's application blocks
FLOW = "udp 10.0.0.1:4000 <> 10.0.0.2:53"

TENTH = Duration.parse("100ms")
SLOW = model.Slow(limit=Duration.parse("60ms"), percentile=50, time=Duration.parse("1s"))
GUEST = model.Guest(
    name="ips1",
    kernel="/guest-demo/bzImage",
    initrd="/guest-demo/initrd.gz",
    cmdline="console=ttyS0 quiet panic=0",
    memory=Size.parse("64M"),
    heartbeat=model.Heartbeat(interval=TENTH, misses=10),
    probes=(
        model.Probe(kind="inband", interval=TENTH, misses=5, slow=SLOW),
        model.Probe(kind="inband", interval=TENTH, misses=5, frame=(ADDRESSES + UDP).hex()),
        model.Probe(kind="negative", interval=TENTH, misses=3, frame=BLOCKED),
        model.Probe(kind="command", target="forwarding", interval=TENTH, misses=10, timeout=Duration.parse("1s")),
        model.Probe(kind="cpu", interval=Duration.parse("300ms"), misses=3),
    ),
    recorder=model.Recorder(frames=64),
    quarantine=model.Quarantine(),
)
CONFIG = model.Config(
    segment=(model.Segment(name="main", lan="lan0", wan="wan0"),),
    guest=(GUEST,),
    rule=(model.Rule(name="all", path=("ips1",)),),
)


@pytest.fixture(scope="module")
def world(bpf_object: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("appliance"), bpf_object, board_harness.artefacts(), CONFIG)
    before, conversation.STATE_INTERVAL_S = conversation.STATE_INTERVAL_S, 0.0
    try:
        made.call(made.reach(HopState.AVAILABLE))
        yield made
    finally:
        conversation.STATE_INTERVAL_S = before
        made.close()


def checks(world: World) -> dict[str, Any]:
    shown: Any = details(world.guest(), time.monotonic_ns()).checks
    return {row.check: row for row in shown}


async def come(condition: Callable[[], bool]) -> None:
    """Wait for something that no transition reports."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


def through(world: World, kind: bytes) -> bool:
    """A frame goes from LAN to WAN; whether it went through the guest."""
    frame = ADDRESSES + kind

    def handed() -> int:
        return world.datapath.counters().hops["ips1"].to_frames

    before = handed()
    assert world.call(world.pass_frame(frame, "lan", "wan")) == frame
    return handed() > before


def test_every_check_has_evidence(world: World) -> None:
    """Our template frames come back, blocked ones do not, the agent answers, and all of it is shown."""
    found = checks(world)
    assert {name: row.state for name, row in found.items()} == dict.fromkeys(
        [
            "in-band lan to wan",
            "latency lan to wan",
            "in-band wan to lan",
            "latency wan to lan",
            "in-band frame 2 lan to wan",
            "in-band frame 2 wan to lan",
            "negative frame 3 lan to wan",
            "negative frame 3 wan to lan",
            "command forwarding",
            "processors",
            "heartbeat",
        ],
        "passing",
    )
    assert found["in-band frame 2 lan to wan"].latency_ms > 0
    agent: Any = details(world.guest(), time.monotonic_ns()).agent
    assert (agent.name, agent.malformed) == ("forwarder", 0)


@pytest.mark.parametrize(
    ("word", "value", "cause", "check"),
    [
        ("blind", 0, Cause.NOT_BLOCKING, "negative frame 3"),
        ("slow", 100, Cause.TOO_SLOW, "latency"),
        ("hang", 0, None, ""),
    ],
)
def test_an_application_that_fails_is_bypassed_and_comes_back(
    world: World, word: str, value: int, cause: Cause | None, check: str
) -> None:
    """It does not inspect, it is too slow, it hangs: each by its own check, with its own cause."""
    world.call(world.order(lambda g: g.command(word, value)))
    world.call(world.reach(HopState.SUSPECT))
    assert not through(world, OTHER)
    if cause is not None:
        assert world.guest().hop.cause is cause
        assert check in world.guest().hop.detail or "frames take" in world.guest().hop.detail
    world.call(world.order(lambda g: g.command("resume")))
    world.call(world.reach(HopState.AVAILABLE))
    assert through(world, OTHER)


def test_processors_that_do_not_run_are_told(world: World) -> None:
    """QEMU is stopped from outside: the state of its threads is evidence like any other."""
    pid = world.guest().current_run.pid  # type: ignore[union-attr]
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        world.call(world.reach(HopState.SUSPECT))
        world.call(come(lambda: checks(world)["processors"].state == "failing"))
        assert "is stopped" in checks(world)["processors"].why
    finally:
        os.kill(pid, signal.SIGCONT)
    world.call(world.reach(HopState.AVAILABLE))


async def say(world: World, message: Accept | Bypass | Drain) -> None:
    world.guest().on_message(message)


def test_the_guest_registers_and_withdraws_its_filter(world: World) -> None:
    """Frames that it cannot process bypass it from then on, others go through it; nonsense changes nothing."""
    agent = world.guest().agent
    assert through(world, ARP)
    world.call(say(world, Accept("udp")))
    world.call(come(lambda: agent.accept == "udp"))
    assert (through(world, ARP), through(world, OTHER)) == (False, True)
    world.call(say(world, Accept("host an.example")))
    world.call(come(lambda: "names are not resolved" in agent.accept_refused))
    assert (through(world, ARP), through(world, OTHER)) == (False, True)
    world.call(say(world, Accept(None)))
    world.call(come(lambda: agent.accept == ""))
    assert through(world, ARP)


def test_the_guest_asks_to_be_bypassed_and_drained(world: World) -> None:
    falls = len(world.guest().hop.history.falls)
    world.call(say(world, Bypass(True, "new rules")))
    world.call(world.reach(HopState.SUSPECT))
    assert world.guest().hop.cause is Cause.GUEST_ASKED
    assert "new rules" in world.guest().hop.detail
    assert not through(world, OTHER)
    world.call(say(world, Bypass(False)))
    world.call(world.reach(HopState.AVAILABLE))
    assert len(world.guest().hop.history.falls) == falls
    world.call(say(world, Drain(True)))
    assert world.guest().state is HopState.DRAINING
    world.call(say(world, Drain(False)))
    world.call(world.reach(HopState.AVAILABLE))


def test_an_operators_drain_is_not_the_agents(world: World) -> None:
    world.call(world.order(lambda g: g.drain()))
    world.call(say(world, Drain(False)))
    assert world.guest().state is HopState.DRAINING
    world.call(world.order(lambda g: g.start()))
    world.call(world.reach(HopState.AVAILABLE))


def test_the_guests_own_watchdog_resets_it(world: World) -> None:
    """Its kernel hangs, its watchdog expires: QEMU reports it, the guest restarts and has to pass its checks again."""
    world.call(world.order(lambda g: g.command("starve")))
    world.call(world.reach(HopState.PROVING))
    assert world.guest().hop.cause is Cause.GUEST_RESET
    assert any(event.startswith("WATCHDOG") for event in world.guest().qmp_events)
    world.call(world.reach(HopState.AVAILABLE))


def test_a_panic_is_told_by_its_name(world: World) -> None:
    """pvpanic reports it; QEMU then ends, and the guest is restarted."""
    seen = len(world.manager.failures.incidents.rows())
    world.call(world.order(lambda g: g.command("panic")))
    world.call(world.reach(HopState.STARTING))
    world.call(come(lambda: len(world.manager.failures.incidents.rows()) > seen))
    assert any(event.startswith("GUEST_PANICKED") for event in world.guest().qmp_events)
    world.call(world.reach(HopState.AVAILABLE))
    rows = world.manager.failures.incidents.rows()[seen:]
    assert [row.cause for row in rows] == ["guest_panicked"]  # one death, one incident


def test_a_flow_that_kills_twice_is_led_around(world: World) -> None:
    """Two deaths with one flow in common: frames and cause are kept, the flow bypasses the guest, with a reason.

    The appliance itself measures how long it took until the first frame bypassed the guest.
    """
    incidents = world.manager.failures.incidents
    measured = len(world.guest().hop.bypass_latency.kept)
    for other in (flow(5001), flow(5002)):  # flows that no earlier incident has
        seen = len(incidents.rows())
        for frame in (other, UDP):
            wait_until(lambda frame=frame: through(world, frame), "frames go through it")  # type: ignore[misc]
        pid = world.guest().current_run.pid  # type: ignore[union-attr]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        world.call(world.reach(HopState.STARTING))
        assert not through(world, other)  # the first frame around
        world.call(come(lambda seen=seen: len(incidents.rows()) > seen))  # type: ignore[misc]
        world.call(come(lambda seen=seen: incidents.rows()[seen].bypass_at_most_ms is not None))  # type: ignore[misc]
        world.call(world.reach(HopState.AVAILABLE))
    assert len(world.guest().hop.bypass_latency.kept) == measured + 2
    shown: Any = details(world.guest(), time.monotonic_ns()).bypass
    exited = next(row for row in shown if row.cause == "guest_exited")
    assert exited.at_most_p50_ms > 0
    last = incidents.store.all()[-1]
    assert last.kind == "died"
    assert last.flows[0].text == FLOW
    path = world.paths.incidents / f"{last.number:06d}.pcapng"
    assert ADDRESSES + UDP in [frame.data for frame in capture_reader.read(path)]
    world.call(come(lambda: bool(incidents.store.all()[-1].quarantined)))
    assert incidents.store.all()[-1].verdict.startswith("was present at incidents")
    wait_until(lambda: through(world, flow(5003)), "others go through it")
    assert not through(world, UDP)
    told = [entry for entry in world.transitions.entries() if entry.cause == "flow_blamed"]
    assert told[-1].subject == Subject(Kind.FLOW, "quarantine-1")
    assert FLOW in told[-1].detail
    world.call(world.manager.failures.policy.release("quarantine-1"))
    wait_until(lambda: through(world, UDP), "the flow goes through it again")
