# SPDX-License-Identifier: GPL-2.0-only
"""Flows that a hop has shunted skip it, and it alone, until their time, their end, or its failure.

That the kernel decides as the model for all kinds of frames and states is shown by test_model.py; here, what the model
and the kernel decide, and what bounds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.l2 import Dot1Q

from appliance.config.schema.model import Config, Group, Guest, Member, Rule, Segment, Shunts
from appliance.errors import RefusedError
from appliance.steering.explain.model import Where
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Outcome, Reason, Role, Side, slot
from appliance.steering.kernel.shunted_flow import ShuntedFlow, flow_of
from tests.support.frames import KINDS, ether, tcp, udp
from tests.support.twin import FAR, XDP_REDIRECT, Twin

pytestmark = pytest.mark.root
LAN, WAN = (Where(Role.PORT, 0, side) for side in Side)
MAY = Shunts(max=100)
EVEN = Group(name="even", balance=(Member(hop="a", weight=1), Member(hop="b", weight=1)))
Make = Callable[..., Twin]


@pytest.fixture
def make(bpf_object: Path) -> Iterator[Make]:
    """A twin with this rule; every hop is available, and may shunt flows."""
    made: list[Twin] = []

    def one(*, shunts: Shunts = MAY, tags: bool = False, **rule: object) -> Twin:
        guests = tuple(Guest(name=name, shunts=shunts, tags=tags) for name in ("a", "b", "c"))
        segments = tuple(Segment(name=name, lan=f"{name}-lan", wan=f"{name}-wan") for name in ("main", "other"))
        rules = (Rule(name="r", **rule),)  # type: ignore[arg-type]
        twin = Twin(bpf_object, Config(segment=segments, guest=guests, group=(EVEN,), rule=rules))
        made.append(twin)
        twin.attach()
        twin.supervise()
        for guest in guests:
            twin.lease(guest.name)
        return twin

    yield one
    for twin in made:
        if twin.datapath.kernel.maps:  # it is not closed yet
            twin.close()


def flow(frame: bytes, direction: Side = Side.LAN) -> ShuntedFlow:
    found = flow_of(frame, 0, direction)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["xdp", "tc"])
@pytest.mark.parametrize("match", ["", "ip"])
def test_a_shunted_flow_goes_straight_in_both_directions(make: Make, kind: str, match: str) -> None:
    """And no other: another port, protocol, tag or segment is another flow."""
    twin = make(match=match, path=("a",))
    twin.repeats = 2
    twin.shunt("a", flow(udp()))
    assert twin.both(LAN, udp(), kind).outcome is Outcome.SHUNTED
    assert twin.both(WAN, udp(back=True), kind).outcome is Outcome.SHUNTED
    others = [udp(back=True), tcp(), udp()[:34] + b"\x12\x34" + udp()[36:]]
    others.append(udp()[:12] + b"\x81\x00\x00\x05" + udp()[12:])
    for other in others:
        assert twin.both(LAN, other, kind).outcome is not Outcome.SHUNTED
    assert twin.both(Where(Role.PORT, 1, Side.LAN), udp(), kind).outcome is Outcome.TO_HOP
    counted = twin.datapath.counters()
    assert counted.rules["r"].shunted == counted.hops["a"].shunted > 0


def test_one_direction_only(make: Make) -> None:
    twin = make(path=("a",))
    twin.shunt("a", flow(udp()), directions=1 << Side.LAN)
    assert twin.both(LAN, udp()).outcome is Outcome.SHUNTED
    assert twin.both(WAN, udp(back=True)).outcome is Outcome.TO_HOP


def test_the_port_s_own_program_sends_it(make: Make) -> None:
    """Without the programs that walk a path; a frame that may end the shunt goes through them."""
    twin = make(path=("a",))
    twin.shunt("a", flow(tcp()))
    twin.both(LAN, tcp())
    first = twin.datapath.attached_program(slot(0, 0, Side.LAN))
    assert first is not None
    assert first.own
    programs = twin.maps["xdp_programs"]
    programs.delete(layout.PROGRAM_FOUND)
    try:
        assert twin.run_plain(first.program, LAN, tcp(), "xdp")[0] == XDP_REDIRECT
        assert twin.run_plain(first.program, LAN, tcp(flags="FA"), "xdp")[0] != XDP_REDIRECT
    finally:
        programs.set(layout.PROGRAM_FOUND, twin.datapath.kernel.programs["found_xdp"])


def test_only_that_hop_is_skipped(make: Make) -> None:
    """The others of the path still see the flow; one that comes back from a hop before skips it, too."""
    twin = make(path=("a", "b", "c"))
    a, b, c = (twin.policy.hops[name].id for name in "abc")
    twin.shunt("a", flow(udp()))
    assert twin.both(LAN, udp()).slot == slot(b, 0, Side.LAN)
    assert twin.both(Where(Role.HOP, 0, Side.WAN, b), udp()).slot == slot(c, 0, Side.LAN)
    twin.shunt("c", flow(udp()))
    assert twin.both(Where(Role.HOP, 0, Side.WAN, b), udp()).outcome is Outcome.OUT
    twin.shunt("b", flow(udp()))
    assert twin.both(LAN, udp()).outcome is Outcome.SHUNTED
    assert twin.both(Where(Role.HOP, 0, Side.WAN, a), udp()).outcome is Outcome.OUT


def test_a_member_of_a_group_shunts_for_the_group(make: Make) -> None:
    """The other member does not get a flow that it has never seen; when the one fails, the other inspects the flow."""
    twin = make(path=("even",))
    one = next(step.hop for step in twin.both(LAN, udp()).steps)
    name = next(hop.name for hop in twin.policy.hops.values() if hop.id == one)
    twin.shunt(name, flow(udp()))
    assert twin.both(LAN, udp()).outcome is Outcome.SHUNTED
    twin.lease(name, good=False)
    assert twin.both(LAN, udp()).outcome is Outcome.TO_HOP


@pytest.mark.parametrize("flags", ["R", "RA"])
def test_it_ends_with_a_reset(make: Make, flags: str) -> None:
    twin = make(path=("a",))
    twin.shunt("a", flow(tcp()))
    assert twin.both(LAN, tcp(flags=flags)).outcome is Outcome.SHUNTED
    assert twin.both(LAN, tcp()).outcome is Outcome.TO_HOP


def test_it_ends_shortly_after_both_sides_have_finished(make: Make) -> None:
    twin = make(path=("a",))
    twin.shunt("a", flow(tcp()))
    for where, frame in ((LAN, tcp(flags="FA")), (WAN, tcp(flags="FA", back=True))):
        assert twin.both(where, frame).outcome is Outcome.SHUNTED
    (left,) = twin.datapath.shunts.reader(twin.policy.hops["a"].id, time.monotonic_ns())()
    assert left.until <= time.monotonic_ns() + layout.FLOW_CLOSED_NS
    later = time.monotonic_ns() + layout.FLOW_CLOSED_NS
    assert twin.decide(LAN, tcp(), later).outcome is Outcome.TO_HOP


def test_a_new_connection_on_the_same_endpoints_is_inspected(make: Make) -> None:
    """From its first segment on. The answer to one does not end a shunt: it was made by the first segment."""
    twin = make(path=("a",))
    twin.shunt("a", flow(tcp()))
    assert twin.both(WAN, tcp(flags="SA", back=True)).outcome is Outcome.SHUNTED
    assert twin.both(LAN, tcp(flags="S")).outcome is Outcome.TO_HOP
    assert twin.both(LAN, tcp()).outcome is Outcome.TO_HOP


@pytest.mark.parametrize("limit", ["lasts", "idle"])
def test_it_ends_by_its_time_and_without_frames(make: Make, limit: str) -> None:
    twin = make(path=("a",))
    twin.shunt("a", flow(udp()), **{limit: -(10**9)})  # a second ago
    assert twin.both(LAN, udp()).outcome is Outcome.TO_HOP


@pytest.mark.parametrize("require", ["any", "all"])
@pytest.mark.parametrize("keep", [False, True])
def test_a_rule_that_blocks_while_the_hop_is_down(make: Make, require: str, keep: bool) -> None:
    """Blocks what the hop has shunted, too, unless the rule keeps it. After the hop's return it has to shunt again."""
    twin = make(path=("a",), on_unavailable="block", require=require, keep_shunts=keep)
    twin.shunt("a", flow(udp()))
    assert twin.both(LAN, udp()).outcome is Outcome.SHUNTED
    twin.lease("a", good=False)
    assert twin.both(LAN, udp()).outcome is (Outcome.SHUNTED if keep else Outcome.BLOCKED)
    twin.lease("a", recovered=time.monotonic_ns())
    assert twin.both(LAN, udp()).outcome is Outcome.TO_HOP
    twin.lease("a")
    twin.supervise(1)
    assert twin.both(LAN, udp()).outcome is (Outcome.SHUNTED if keep else Outcome.BLOCKED)


def test_a_rule_that_requires_every_hop_does_not_miss_one_that_has_shunted(make: Make) -> None:
    twin = make(path=("a", "b"), on_unavailable="block", require="all")
    twin.shunt("a", flow(udp()))
    assert twin.both(LAN, udp()).outcome is Outcome.TO_HOP
    twin.lease("b", good=False)
    assert twin.both(LAN, udp()).outcome is Outcome.BLOCKED


def test_which_frames_can_be_shunted(make: Make) -> None:
    """TCP and UDP, directly or behind one tag; fragments, options, extension headers and tunnels go to the hop."""
    twin = make(path=("a",))
    found = {name for name, frame in KINDS.items() if flow_of(frame, 0, Side.LAN) is not None}
    for name in found:
        twin.shunt("a", flow(KINDS[name]))
    assert {"tcp", "udp", "ip6 udp"} <= found
    tagged = bytes(ether() / Dot1Q(vlan=5)) + udp()[14:]
    tagged = tagged[:16] + udp()[12:14] + tagged[18:]
    twin.shunt("a", flow(tagged))
    for kind in ("xdp", "tc"):
        shunted = {name for name, frame in KINDS.items() if twin.both(LAN, frame, kind).outcome is Outcome.SHUNTED}
        assert shunted <= found
        assert twin.both(LAN, tagged, kind).outcome is Outcome.SHUNTED
    for name in ("fragment", "fragment later"):
        assert KINDS.get(name) is None or flow_of(KINDS[name], 0, Side.LAN) is None


def test_a_guest_that_may_not(make: Make) -> None:
    """Neither by its agent nor by a tag, which then counts as a bad one."""
    twin = make(shunts=Shunts(), tags=True, path=("a",))
    a = twin.policy.hops["a"].id
    with pytest.raises(RefusedError):
        twin.datapath.shunts.enter(a, flow(udp()), time.monotonic_ns(), time_ns=FAR, idle_ns=FAR)
    tagged = udp()[:12] + b"\x88\xa8" + layout.TAG_SHUNT.to_bytes(2, "big") + udp()[12:]
    assert twin.both(Where(Role.HOP, 0, Side.WAN, a, True), tagged).bad_tag
    assert twin.datapath.counters().hops["a"].bad_tag == 1
    assert twin.both(LAN, udp()).outcome is Outcome.TO_HOP


@pytest.mark.parametrize("kind", ["xdp", "tc"])
@pytest.mark.parametrize(
    ("tag", "other_way"), [(layout.TAG_SHUNT, Outcome.SHUNTED), (layout.TAG_SHUNT_ONE, Outcome.TO_HOP)]
)
def test_by_a_tag(make: Make, kind: str, tag: int, other_way: Outcome) -> None:
    """On a frame that the guest sends on; the frame itself continues along the path, without the tag."""
    twin = make(tags=True, path=("a", "b"))
    a, b = (twin.policy.hops[name].id for name in "ab")
    tagged = udp()[:12] + b"\x88\xa8" + tag.to_bytes(2, "big") + udp()[12:]
    assert twin.both(Where(Role.HOP, 0, Side.WAN, a, True), tagged, kind).slot == slot(b, 0, Side.LAN)
    assert twin.both(LAN, udp(), kind).slot == slot(b, 0, Side.LAN)
    decided = twin.both(WAN, udp(back=True), kind)
    assert decided.slot == slot(b, 0, Side.WAN)
    decided = twin.both(Where(Role.HOP, 0, Side.LAN, b, True), udp(back=True), kind)
    assert decided.outcome is (Outcome.OUT if other_way is Outcome.SHUNTED else Outcome.TO_HOP)
    assert twin.datapath.shunts.counts(a).entered == 1
    twin.tables_agree()


def test_what_bounds_a_guest_that_shunts_by_tags(make: Make) -> None:
    """Its table, and its rate; the frames go on in any case, and other guests' shunts stay."""
    twin = make(shunts=Shunts(max=2, rate=3), tags=True, path=("a",))
    a = twin.policy.hops["a"].id
    twin.shunt("b", flow(udp()))
    frames = [udp()[:34] + port.to_bytes(2, "big") + udp()[36:] for port in range(1000, 1008)]
    for frame in frames:
        tagged = frame[:12] + b"\x88\xa8" + layout.TAG_SHUNT.to_bytes(2, "big") + frame[12:]
        assert twin.both(Where(Role.HOP, 0, Side.WAN, a, True), tagged).outcome is Outcome.OUT
    counts = twin.datapath.shunts.counts(a)
    assert counts.entered == 2
    assert counts.full >= 1
    assert counts.too_frequent >= 1
    assert len(twin.datapath.shunts.reader(twin.policy.hops["b"].id, time.monotonic_ns())()) == 1


def test_removal_sweep_and_another_policy(make: Make) -> None:
    """A removed shunt is over; those that are over make room; a new policy keeps them, one without them ends them."""
    twin = make(shunts=Shunts(max=2), path=("a",))
    a, shunts = twin.policy.hops["a"].id, twin.datapath.shunts
    twin.shunt("a", flow(udp()))
    twin.shunt("a", flow(tcp()), lasts=-1)
    with pytest.raises(RefusedError, match="2 flows are shunted"):
        twin.shunt("a", flow(tcp(back=True)))
    shunts.sweeper([a], time.monotonic_ns())()
    assert [one.flow for one in shunts.reader(a, time.monotonic_ns())()] == [flow(udp())]
    twin.shunt("a", flow(tcp(back=True)))
    shunts.remove(a, flow(tcp(back=True)))
    del twin.state.shunts[a, flow(tcp(back=True))]
    config = Config(
        segment=(Segment(name="main", lan="l", wan="w"), Segment(name="other", lan="m", wan="x")),
        guest=tuple(Guest(name=name, shunts=Shunts(max=2)) for name in "abc"),
        rule=(Rule(name="r", path=("a",)),),
    )
    twin.configure(config)
    assert twin.both(LAN, udp()).outcome is Outcome.SHUNTED
    shunts.clear(a)
    twin.state.shunts.clear()
    assert twin.both(LAN, udp()).outcome is Outcome.TO_HOP
    twin.shunt("a", flow(udp()))
    twin.configure(msgspec.structs.replace(config, guest=tuple(Guest(name=name) for name in "abc")))
    assert twin.both(LAN, udp()).outcome is Outcome.TO_HOP
    assert twin.datapath.shunting() == {}
    assert shunts.reader(a, time.monotonic_ns())() == []


def test_a_test_run_of_explain_ends_no_shunt(make: Make) -> None:
    """`explain --live` says that the flow skips the hop, and changes nothing."""
    twin = make(path=("a",))
    twin.shunt("a", flow(tcp()))
    for flags in ("S", "R"):
        twin.kernel(LAN, tcp(flags=flags), flags=layout.DEVICE_DRY)
    decision = twin.kernel(LAN, tcp(), flags=layout.DEVICE_DRY)
    assert decision.outcome is Outcome.SHUNTED
    assert [step.reason for step in decision.steps] == [Reason.SHUNTED]


FLAGS = st.sampled_from(["A", "A", "A", "A", "PA", "S", "SA", "FA", "R"])
FRAMES = st.one_of(
    st.builds(
        lambda port, flags, back: (tcp(port, flags=flags, back=back), back), st.integers(1, 2), FLAGS, st.booleans()
    ),
    st.builds(lambda port, back: (udp(port, back=back), back), st.integers(1, 2), st.booleans()),
)
STEPS = st.one_of(
    st.tuples(st.just("frame"), FRAMES),
    st.tuples(st.just("frame"), FRAMES),
    st.tuples(st.just("shunt"), st.sampled_from("ab"), FRAMES, st.sampled_from([1, 2, 3])),
    st.tuples(st.just("remove"), st.sampled_from("ab"), FRAMES),
    st.tuples(st.just("lease"), st.sampled_from("ab"), st.booleans(), st.booleans()),
)
RULES = st.fixed_dictionaries(
    {
        "match": st.sampled_from(["", "ip"]),
        "path": st.sampled_from([("a",), ("a",), ("a", "b"), ("even",), ("b", "c")]),
        "on_unavailable": st.sampled_from(["bypass", "block"]),
        "require": st.sampled_from(["any", "all"]),
        "keep_shunts": st.booleans(),
    }
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rule=RULES, steps=st.lists(STEPS, min_size=10, max_size=60), kind=st.sampled_from(["xdp", "xdp", "tc"]))
def test_random_shunts_and_frames(
    make: Make, rule: dict[str, object], steps: list[tuple[object, ...]], kind: str
) -> None:
    """Flows that are shunted, end, begin again, and hops that fail and return: kernel and model agree, each way."""
    twin = make(**rule)
    twin.repeats = 2
    for what, *about in steps:
        match what, about:
            case "frame", [(bytes(frame), bool(back))]:
                twin.both(WAN if back else LAN, frame, kind)
            case "shunt", [str(hop), (bytes(frame), bool(back)), int(directions)]:
                twin.shunt(hop, flow(frame, Side.WAN if back else Side.LAN), directions=directions)
            case "remove", [str(hop), (bytes(frame), bool(back))]:
                number, key = twin.policy.hops[hop].id, flow(frame, Side.WAN if back else Side.LAN)
                twin.datapath.shunts.remove(number, key)
                twin.state.shunts.pop((number, key), None)
            case "lease", [str(hop), bool(good), bool(returned)]:
                twin.lease(hop, good=good, recovered=time.monotonic_ns() if returned else 0)
    twin.tables_agree()
    twin.close()
