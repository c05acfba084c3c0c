# SPDX-License-Identifier: GPL-2.0-only
"""Mirrors: hops that get copies of a rule's frames and can neither change, delay nor drop one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulator import netns

from appliance.config.schema.model import Config, Guest, Mirror, Rule, Segment
from appliance.config.schema.served import with_mirrors
from appliance.guest.port import tap
from appliance.health.inband import Direction, Lane, make_nonce
from appliance.steering.datapath import Datapath
from appliance.steering.explain.model import Decision, Where
from appliance.steering.handover import SETTLE_S, between
from appliance.steering.kernel.attach_mode import needs_tc
from appliance.steering.kernel.counters import HopCount
from appliance.steering.kernel.layout import Loss, Outcome, Reason, Role, Side, Verdict, slot
from tests.support.frames import KINDS, tcp, udp
from tests.support.twin import Twin
from tests.support.waiting import wait_until
from tests.support.wire import WINDOW, Wire
from tests.support.wired_datapath import CANARY, FAR, MAIN, outcomes, two_guests

pytestmark = pytest.mark.root
Make = Callable[..., Twin]
FROM_LAN, FROM_WAN = Where(Role.PORT, 0, Side.LAN), Where(Role.PORT, 0, Side.WAN)


@pytest.fixture(scope="module")
def loaded(bpf_object: Path) -> Iterator[Twin]:
    """Loaded once, because that takes seconds; kernel and model keep what they have learned from test to test."""
    twin = Twin(bpf_object, Config(segment=(MAIN,), guest=tuple(Guest(name=name) for name in "abmn")))
    yield twin
    twin.close()


def prepared(twin: Twin, config: Config) -> None:
    """Another policy, with every device there, and all hops available."""
    twin.configure(config)
    twin.repeats = 0
    twin.attach()
    twin.supervise()
    for name in "abmn":
        twin.lease(name)
        for side in Side:
            twin.gate(name, side, 0)


@pytest.fixture
def make(loaded: Twin) -> Make:
    """A policy of four hops, all available, with these rules."""

    def one(*rules: Rule, segment: Segment = MAIN, accept: str = "") -> Twin:
        guests = tuple(Guest(name=name, accept=accept if name == "m" else "") for name in "abmn")
        prepared(loaded, Config(segment=(segment,), guest=guests, rule=rules))
        return loaded

    return one


def copied(twin: Twin, decision: Decision) -> list[str]:
    """The mirrors that got a copy."""
    names = {hop.id: hop.name for hop in twin.policy.hops.values()}
    return [names[step.hop] for step in decision.steps if step.reason is Reason.MIRRORED]


def back(twin: Twin, name: str, out: Side) -> Where:
    """The device by which frames come out of a hop at this side."""
    return Where(Role.HOP, 0, out, twin.policy.hops[name].id)


@pytest.mark.parametrize("match", ["", "ip"])
@pytest.mark.parametrize("where", [FROM_LAN, FROM_WAN])
def test_the_hop_gets_the_frame_and_its_mirror_a_copy(make: Make, where: Where, match: str) -> None:
    """From either side; the original goes as without a mirror."""
    twin = make(Rule(name="r", match=match, path=("a",), mirrors=(Mirror("m"),)))
    before = twin.datapath.counters().hops["m"]
    decided = twin.both(where, udp(), "tc")
    assert (decided.outcome, decided.slot) == (Outcome.TO_HOP, slot(twin.policy.hops["a"].id, 0, where.side))
    assert copied(twin, decided) == ["m"]
    counted = twin.datapath.counters().hops["m"]
    assert counted.copies - before.copies == 1
    assert counted.copied_octets - before.copied_octets == len(udp())
    assert counted.to_frames == before.to_frames


CHAIN = Rule(name="r", path=("a", "b"), mirrors=(Mirror("m"), Mirror("n", beside="b")))


@pytest.mark.parametrize(
    ("way", "copies"),
    [
        (lambda twin: FROM_LAN, ["m"]),
        (lambda twin: back(twin, "a", Side.WAN), ["n"]),
        (lambda twin: back(twin, "b", Side.WAN), []),
        (lambda twin: FROM_WAN, ["n"]),
        (lambda twin: back(twin, "b", Side.LAN), ["m"]),
        (lambda twin: back(twin, "a", Side.LAN), []),
    ],
)
def test_a_mirror_sees_what_the_hop_beside_it_gets(make: Make, way: Callable[[Twin], Where], copies: list[str]) -> None:
    """Each frame once in each direction, as it comes to that hop."""
    twin = make(CHAIN)
    assert copied(twin, twin.both(way(twin), tcp(), "tc")) == copies


def test_also_where_that_hop_is_not_available(make: Make) -> None:
    """The frame passes both, and goes on to the next; blocked frames are copied, too."""
    twin = make(CHAIN)
    twin.lease("a", good=False)
    decided = twin.both(FROM_LAN, tcp(), "tc")
    assert (decided.slot, copied(twin, decided)) == (slot(twin.policy.hops["b"].id, 0, Side.LAN), ["m", "n"])
    twin = make(Rule(name="r", path=("a",), mirrors=(Mirror("m"),), on_unavailable="block"))
    twin.lease("a", good=False)
    decided = twin.both(FROM_LAN, tcp(), "tc")
    assert (decided.outcome, copied(twin, decided)) == (Outcome.BLOCKED, ["m"])


@pytest.mark.parametrize("require", ["any", "all"])
def test_whether_a_mirror_is_available_changes_nothing(make: Make, require: Literal["any", "all"]) -> None:
    """No lease, no supervisor: it keeps getting copies, and no rule lacks it."""
    twin = make(Rule(name="r", path=("a",), mirrors=(Mirror("m"),), on_unavailable="block", require=require))
    twin.lease("m", good=False)
    decided = twin.both(FROM_LAN, tcp(), "tc")
    assert (decided.outcome, copied(twin, decided)) == (Outcome.TO_HOP, ["m"])
    twin.supervise(1)
    decided = twin.both(FROM_LAN, tcp(), "tc")
    assert (decided.outcome, copied(twin, decided)) == (Outcome.BLOCKED, ["m"])


def test_without_hops_the_link_itself_is_mirrored(make: Make) -> None:
    """The frame counts as straight, whatever the rule says of hops; control frames of the link are not copied."""
    twin = make(Rule(name="r", mirrors=(Mirror("m"), Mirror("n")), on_unavailable="block", require="all"))
    before = twin.datapath.counters().rules["r"]
    for where in (FROM_LAN, FROM_WAN):
        decided = twin.both(where, udp(), "tc")
        assert (decided.outcome, copied(twin, decided)) == (Outcome.STRAIGHT, ["m", "n"])
    rule = twin.datapath.counters().rules["r"]
    assert (rule.bypassed, rule.blocked) == (before.bypassed, before.blocked)
    for kind in ("tc", "xdp"):
        for frame in KINDS.values():
            twin.both(FROM_LAN, frame, kind)


def test_the_reasons_for_no_copy(make: Make) -> None:
    """Not accepted, too long, overloaded, no tap: counted by reason, and the frame goes on."""
    twin = make(Rule(name="r", path=("a",), mirrors=(Mirror("m"),)), accept="udp")
    taps = slot(twin.policy.hops["m"].id, 0, Side.LAN)
    before = twin.datapath.counters().hops["m"].skipped

    def reason(frame: bytes) -> Reason:
        decided = twin.both(FROM_LAN, frame, "tc")
        assert decided.outcome is Outcome.TO_HOP
        return next(step.reason for step in decided.steps if step.hop == twin.policy.hops["m"].id)

    assert reason(tcp()) is Reason.NOT_ACCEPTED
    twin.gate("m", Side.LAN, 1, full=True)
    assert reason(udp()) is Reason.OVERLOADED
    twin.gate("m", Side.LAN, 0)
    assert reason(udp()) is Reason.MIRRORED
    twin.state.longest[taps] = 40
    value = twin.maps["targets"].get(taps)
    assert value is not None
    value.max = 40
    twin.maps["targets"].set(taps, value)
    assert reason(udp()) is Reason.OVERSIZE
    del twin.state.longest[taps]
    value.ifindex = 0
    twin.maps["targets"].set(taps, value)
    assert reason(udp()) is Reason.UNAVAILABLE
    skipped = twin.datapath.counters().hops["m"].skipped
    assert {why for why, times in skipped.items() if times != before[why]} == {
        Reason.NOT_ACCEPTED, Reason.OVERLOADED, Reason.OVERSIZE, Reason.UNAVAILABLE,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_what_a_mirror_sends_is_dropped(make: Make, kind: str) -> None:
    """Every kind of frame from either side, but heartbeats, by which its checks go on."""
    twin = make(Rule(name="r", match="ip", path=("a",), mirrors=(Mirror("m"),)))
    for side in Side:
        where = back(twin, "m", side)
        for frame in KINDS.values():
            decided = twin.both(where, frame, kind)
            assert (decided.outcome, decided.verdict) == (Outcome.MIRROR, Verdict.DROP)
        nonce = make_nonce(twin.datapath.heartbeat_key("m"))
        heartbeat = Lane(where.hop, Direction(side ^ 1), nonce).send(time.monotonic_ns())
        assert twin.both(where, heartbeat, kind).outcome is Outcome.HEARTBEAT


def test_a_dry_run_copies_nothing(make: Make) -> None:
    twin = make(
        Rule(name="r", match="udp", path=("a",), mirrors=(Mirror("m"),)),
        Rule(name="s", mirrors=(Mirror("n"),)),
        segment=Segment(name="main", lan="lan0", wan="wan0", dry_run=True),
    )
    assert twin.both(FROM_LAN, udp(), "tc").outcome is Outcome.DRY_RUN
    assert twin.both(FROM_LAN, tcp(), "tc").outcome is Outcome.STRAIGHT


@st.composite
def mirrored(draw: st.DrawFn) -> Config:
    """Any policy in which a and b are inline and m and n are mirrors."""
    rules = []
    for number in range(draw(st.integers(1, 4))):
        path = draw(st.sampled_from([(), ("a",), ("b",), ("a", "b"), ("b", "a")]))
        hops = draw(st.sampled_from([(), ("m",), ("n",), ("m", "n"), ("n", "m")]))
        mirrors = tuple(Mirror(hop, beside=draw(st.sampled_from(["", *path]))) for hop in hops)
        rules.append(
            Rule(
                name=f"r{number}",
                match=draw(st.sampled_from(["", "tcp", "udp", "ip", "ip6", "vlan", "udp port 53"])),
                path=path,
                mirrors=mirrors,
                on_unavailable=draw(st.sampled_from(["bypass", "block"])),
                require=draw(st.sampled_from(["any", "all"])),
                on_overload=draw(st.sampled_from(["auto", "block-excess", "bypass-all"])),
            )
        )
    accepts = [draw(st.sampled_from(["", "ip", "tcp"])) for _ in "abmn"]
    guests = tuple(Guest(name=name, accept=accept) for name, accept in zip("abmn", accepts, strict=True))
    return Config(segment=(MAIN,), guest=guests, rule=tuple(rules))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    config=mirrored(),
    good=st.tuples(*(st.booleans() for _ in "abmn")),
    gates=st.lists(st.tuples(st.sampled_from("abmn"), st.sampled_from(list(Side))), max_size=2),
    frames=st.lists(st.sampled_from(sorted(KINDS.values())), min_size=3, max_size=15),
    kind=st.sampled_from(["tc", "tc", "xdp"]),
    data=st.data(),
)
def test_kernel_and_model_agree_on_mirrors(
    loaded: Twin, config: Config, good: tuple[bool, ...], gates: list[tuple[str, Side]], frames: list[bytes], *,
    kind: str, data: st.DataObject,
) -> None:  # fmt: skip
    """Any rules, any hops up or overloaded, any frame from any device: the same copies, and the same decision."""
    prepared(loaded, config)
    loaded.repeats = 1
    for name, up in zip("abmn", good, strict=True):
        loaded.lease(name, good=up)
    for name, side in gates:
        loaded.gate(name, side, 1, full=True)
    devices = [FROM_LAN, FROM_WAN, *(back(loaded, name, side) for name in "abmn" for side in Side)]
    for frame in frames:
        loaded.both(data.draw(st.sampled_from(devices)), frame, kind)
    loaded.tables_agree()


# -- on devices --------------------------------------------------------------------------------------------------------


def hop(made: Datapath, name: str = "canary") -> HopCount:
    return made.counters().hops[name]


def dropped(made: Datapath) -> int:
    """Frames that the mirror has sent."""
    return sum(tap.frames[Outcome.MIRROR] for tap in hop(made).taps.values())


def nothing_twice(wire: Wire) -> bool:
    """Whether every frame has arrived only once."""
    return wire.repeated == 0 and wire.others() == 0 and wire.others(back=True) == 0


def ports_are_whole(made: Datapath, frames: int) -> None:
    """All that came in from both ends went to the guest and out again, and nothing else is counted there."""
    for side in Side:
        assert outcomes(made, side) == {Outcome.TO_HOP: frames}
        assert made.counters().ports["main", side].dropped == 0
    assert sum(tap.frames[Outcome.OUT] for tap in hop(made, "ips").taps.values()) == 2 * frames


def test_both_directions_are_copied_and_no_copy_leaves(wire: Wire, bpf_object: Path) -> None:
    """A mirror that sends everything on: each frame arrives once at the other end.

    The recorder has the copies, so that an incident of a canary has the frames before it. Without the rule the same hop
    sends them on.
    """
    with two_guests(wire, bpf_object) as made:
        why = needs_tc((), with_mirrors(CANARY)["main"])
        ports = wire.inside(lambda: made.attach_segment("main", "lan0", "wan0", needs_tc=why))
        assert [(port.mode, port.reason) for port in ports] == [("tc", "XDP cannot copy frames to mirrors: canary")] * 2
        made.record("canary", 8, 64)
        assert not wire.stream(3 * WINDOW)
        wait_until(lambda: dropped(made) >= 6 * WINDOW, "all that the mirror sent on", explain=lambda: hop(made))
        assert hop(made).copies == 6 * WINDOW
        assert not any(hop(made).unsent.values())
        ports_are_whole(made, 3 * WINDOW)
        assert nothing_twice(wire)
        assert len(made.recorded("canary")) == 8
        made.set_policy(Config(segment=(MAIN,), guest=CANARY.guest, rule=(Rule(name="all", path=("canary",)),)))
        before = dropped(made)  # the mirror's bridge sends frames of its own now and then
        made.leases.renew("canary", time.monotonic_ns() + FAR)
        assert not wire.stream(WINDOW)
        assert dropped(made) == before


def _full(wire: Wire, opened: int) -> None:
    """Nobody reads."""


def _no_reader(wire: Wire, opened: int) -> None:
    os.close(opened)


def _down(wire: Wire, opened: int) -> None:
    netns.run("ip", "-n", wire.box, "link", "set", "real", "down")


def test_a_mirror_that_takes_nothing_costs_no_frame(wire: Wire, bpf_object: Path) -> None:
    """A tap that is full, down, or that nobody has open: lost copies are counted there and nowhere else."""
    with two_guests(wire, bpf_object) as made:
        opened = wire.inside(lambda: tap.open_tap("real"))
        try:
            netns.run("ip", "-n", wire.box, "link", "set", "real", "up", "txqueuelen", "8", "mtu", "9000")
            wire.inside(lambda: made.attach_hop("real", "canary", "main", Side.LAN))
            frames = lost = 0
            for state in (_full, _down, _no_reader):
                state(wire, opened)
                frames += 4 * WINDOW
                assert not wire.stream(4 * WINDOW)
                ports_are_whole(made, frames)
                assert hop(made).copies == 2 * frames
                new = hop(made).unsent[Loss.QUEUE] - lost
                lost += new
                # The queues keep some of them, and lose those when nobody has the tap open any more.
                assert abs(4 * WINDOW - new) <= 24, state
                assert made.counters().ports["main", Side.LAN].lost == dict.fromkeys(Loss, 0)
        finally:
            wire.inside(lambda: tap.remove("real"))


def test_promotion_loses_no_frame_and_repeats_none(wire: Wire, bpf_object: Path) -> None:
    """Canary and guest change places, and back, in the middle of a stream."""
    promoted = Config(
        segment=(MAIN,),
        guest=CANARY.guest,
        rule=(Rule(name="all", path=("canary",), mirrors=(Mirror("ips"),)),),
    )
    with two_guests(wire, bpf_object) as made:
        made.leases.renew("canary", time.monotonic_ns() + FAR)
        now = CANARY

        def change(sent: int) -> None:
            nonlocal now
            if sent % (4 * WINDOW):
                return
            old, now = now, promoted if now is CANARY else CANARY
            for step in between(old, now):
                made.set_policy(step.config, step.silent)
                ends = time.monotonic() + SETTLE_S
                while time.monotonic() < ends:
                    assert not wire.stream(WINDOW)
            made.set_policy(now)

        assert not wire.stream(16 * WINDOW, meanwhile=change)
        assert nothing_twice(wire)
        assert hop(made).to_frames
        assert hop(made, "ips").copies
