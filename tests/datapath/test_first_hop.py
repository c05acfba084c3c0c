# SPDX-License-Identifier: GPL-2.0-only
"""A port's own program sends the frames of calm flows to their first hop, or past it, without any other program.

That this is what the other programs would do with them is shown by test_model.py for all kinds of frames and states;
here, that it is done, and for which frames it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from scapy.layers.inet import TCP

from appliance.config.schema.model import Config, Group, Guest, Member, Rule, Segment, Shunts
from appliance.steering.explain.model import Where
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Outcome, Role, Side, slot
from appliance.units import Duration
from tests.support.frames import KINDS, V6, ether, tcp, udp
from tests.support.twin import LONGEST_PIECE, XDP_REDIRECT, Twin

pytestmark = pytest.mark.root
PORTS = [Where(Role.PORT, 0, side) for side in Side]
EVEN = Group(name="even", balance=(Member(hop="a", weight=1), Member(hop="b", weight=1)))
SPARE = Group(name="spare", standby=("a", "b"), hold_down=Duration(60_000_000_000))
BY_ADDRESS = Group(name="wide", balance=EVEN.balance, hash="2-tuple")
IP6_TCP = bytes(ether() / V6 / TCP(sport=1, dport=80, flags="A"))
PLAIN = {**{name: KINDS[name] for name in ("tcp", "udp", "ip6 udp")}, "ip6 tcp, open": IP6_TCP}
Make = Callable[..., Twin]


@pytest.fixture
def make(bpf_object: Path) -> Iterator[Make]:
    """A twin with this rule, every hop available, and a calm flow for each frame that was sent."""
    made: list[Twin] = []

    def one(rule: Rule, *, accept: str = "", tags: bool = False) -> Twin:
        guests = (Guest(name="a", accept=accept, tags=tags), *(Guest(name=name) for name in ("b", "c")))
        segment = Segment(name="main", lan="lan0", wan="wan0")
        twin = Twin(bpf_object, Config(segment=(segment,), guest=guests, group=(EVEN, SPARE, BY_ADDRESS), rule=(rule,)))
        made.append(twin)
        twin.attach()
        twin.supervise()
        for guest in guests:
            twin.lease(guest.name)
        return twin

    yield one
    for twin in made:
        twin.close()


def by_itself(twin: Twin, where: Where, frame: bytes) -> bool:
    """Whether the port's own program sends this frame when nothing comes after it."""
    for _ in range(3):
        twin.both(where, frame)
    first = twin.datapath.attached_program(slot(0, 0, where.side))
    assert first is not None
    assert first.own
    programs = twin.maps["xdp_programs"]
    programs.delete(layout.PROGRAM_FOUND)
    try:
        return twin.run_plain(first.program, where, frame, "xdp")[0] == XDP_REDIRECT
    finally:
        programs.set(layout.PROGRAM_FOUND, twin.datapath.kernel.programs["found_xdp"])


@pytest.mark.parametrize("match", ["", "ip or ip6"])
@pytest.mark.parametrize("path", [("a",), ("a", "c"), ("even",), ("spare", "c")])
def test_frames_of_calm_flows(make: Make, path: tuple[str, ...], match: str) -> None:
    """From either port, to a hop or a member of a group, with filters and without."""
    twin = make(Rule(name="r", match=match, path=path))
    for where in PORTS:
        for frame in PLAIN.values():
            assert by_itself(twin, where, frame)


def test_past_a_hop_that_is_not_available(make: Make) -> None:
    """The usual state of a guest that failed; counted as by the other programs."""
    twin = make(Rule(name="r", path=("a",)))
    twin.repeats = 2
    twin.lease("a", good=False)
    for where in PORTS:
        assert twin.both(where, tcp()).outcome is Outcome.BYPASSED
        assert by_itself(twin, where, tcp())
    twin.lease("a")
    twin.supervise(1)
    assert twin.both(PORTS[0], tcp()).outcome is Outcome.BYPASSED
    assert by_itself(twin, PORTS[0], tcp())


def test_the_first_frame_past_a_hop_goes_the_long_way(make: Make) -> None:
    """Its time is noted there."""
    twin = make(Rule(name="r", path=("a",)))
    twin.both(PORTS[0], tcp())
    twin.datapath.leases.revoke("a")
    first = twin.datapath.attached_program(slot(0, 0, Side.LAN))
    assert first is not None
    assert twin.run_plain(first.program, PORTS[0], tcp(), "xdp")[0] == XDP_REDIRECT
    assert twin.datapath.leases.first_skip("a") > 0


def test_which_frames(make: Make) -> None:
    """TCP and UDP behind plain IP, and nothing else; each has the same fate the long way (test_model.py)."""
    twin = make(Rule(name="r", path=("a",)))
    frames = {name: frame for name, frame in (KINDS | PLAIN).items() if len(frame) < LONGEST_PIECE}
    own = {name for name, frame in frames.items() if by_itself(twin, PORTS[0], frame)}
    assert own == {*PLAIN, "tcp back", "full size", "lying ip length"}


@pytest.mark.parametrize("flags", ["S", "SA", "FA", "R"])
def test_frames_that_open_or_close_a_flow_go_the_long_way(make: Make, flags: str) -> None:
    twin = make(Rule(name="r", path=("a",)))
    assert by_itself(twin, PORTS[0], tcp())
    assert not by_itself(twin, PORTS[0], tcp(flags=flags))


def test_what_else_goes_the_long_way(make: Make) -> None:
    """Drained and overloaded hops, tags, `accept` filters, rules that demand all hops or block, groups by address."""
    frame = tcp()
    assert not by_itself(make(Rule(name="r", path=("a",)), accept="tcp"), PORTS[0], frame)
    assert not by_itself(make(Rule(name="r", path=("a",)), tags=True), PORTS[0], frame)
    assert not by_itself(make(Rule(name="r", path=("a", "c"), require="all")), PORTS[0], frame)
    assert not by_itself(make(Rule(name="r", path=("wide",))), PORTS[0], frame)
    drained = make(Rule(name="r", path=("a",)))
    assert by_itself(drained, PORTS[0], frame)
    drained.lease("a", draining=True)
    assert not by_itself(drained, PORTS[0], frame)
    limited = make(Rule(name="r", path=("a",)))
    limited.gate("a", Side.LAN, 1)
    assert not by_itself(limited, PORTS[0], frame)
    blocked = make(Rule(name="r", path=("a",), on_unavailable="block"))
    assert by_itself(blocked, PORTS[0], frame)
    blocked.lease("a", good=False)
    assert not by_itself(blocked, PORTS[0], frame)
    held = make(Rule(name="r", path=("spare",)))
    held.lease("a", recovered=held.state.supervisor_until - 10**12)
    assert not by_itself(held, PORTS[0], frame)


def test_a_hop_that_is_too_small_or_gone(make: Make) -> None:
    """Its tap takes no such frame, or is not there."""
    twin = make(Rule(name="r", path=("a",)))
    long = udp() + bytes(1000)
    assert by_itself(twin, PORTS[0], long)
    tap = slot(twin.datapath.hop_id("a"), 0, Side.LAN)
    twin.maps["targets"].set(tap, layout.TargetValue(ifindex=1, flags=1, max=800))
    twin.state.longest[tap] = 800
    assert not by_itself(twin, PORTS[0], long)
    twin.maps["targets"].set(tap, layout.TargetValue())
    del twin.state.longest[tap]
    twin.repeats = 2
    assert twin.both(PORTS[0], long).outcome is Outcome.BYPASSED
    assert by_itself(twin, PORTS[0], long)


def test_recorded_like_any_other(make: Make) -> None:
    """The recorder has every frame that was sent to the hop."""
    twin = make(Rule(name="r", path=("a",)))
    twin.datapath.record("a", 8, 64)
    for _ in range(2):
        assert by_itself(twin, PORTS[1], tcp(back=True) + bytes(40))
    kept = twin.datapath.recorded("a")
    assert [one.number for one in kept] == list(range(1, 9))
    assert {(one.data, one.length, one.side) for one in kept} == {
        ((tcp(back=True) + bytes(40))[:64], len(tcp()) + 40, Side.WAN)
    }


# From a hop to the next one

BACK = [Where(Role.HOP, 0, Side.WAN, 1), Where(Role.HOP, 0, Side.LAN, 3)]
"""Out of the first hop of a path towards the WAN, and out of the last one towards the LAN."""


def goes_on(twin: Twin, where: Where, frame: bytes) -> bool:
    """Whether a hop's frame gets to the next hop without the dispatch. A flow is calm for a second after it was noted,
    in which a busy machine may not come to the second frame: so it is tried again."""
    for _ in range(3):
        twin.both(where, frame)
    return any(_goes_on(twin, where, frame) for _ in range(3))


def _goes_on(twin: Twin, where: Where, frame: bytes) -> bool:
    entry, programs = twin.datapath.kernel.programs["entry_xdp"], twin.maps["xdp_programs"]
    twin.run_plain(entry, where, frame, "xdp")
    before = twin.counted(where)[Outcome.TO_HOP]
    programs.delete(layout.PROGRAM_DISPATCH)
    try:
        twin.run_plain(entry, where, frame, "xdp")
        return twin.counted(where)[Outcome.TO_HOP] == before + 1
    finally:
        programs.set(layout.PROGRAM_DISPATCH, twin.datapath.kernel.programs["dispatch_xdp"])


@pytest.mark.parametrize("path", [("a", "b", "c"), ("even", "c")])
def test_frames_of_calm_flows_go_on_to_the_next_hop(make: Make, path: tuple[str, ...]) -> None:
    """In both directions, counted as by the other programs: at the tap and the hop, and not at the rule once more."""
    twin = make(Rule(name="r", path=path))
    twin.repeats = 2
    for where in BACK:
        for frame in PLAIN.values():
            assert goes_on(twin, where, frame)


def test_a_hop_is_the_second_one_of_no_rule_with_shunts(make: Make, bpf_object: Path) -> None:
    """A rule whose hops may shunt flows is left to the walk, which looks for them."""
    twin = make(Rule(name="r", path=("a", "b", "c")))
    assert goes_on(twin, BACK[0], tcp())
    may = Twin(
        bpf_object,
        Config(
            segment=(Segment(name="main", lan="lan0", wan="wan0"),),
            guest=(Guest(name="a"), Guest(name="b", shunts=Shunts(max=10)), Guest(name="c")),
            rule=(Rule(name="r", path=("a", "b", "c")),),
        ),
    )
    try:
        may.attach()
        may.supervise()
        for name in ("a", "b", "c"):
            may.lease(name)
        assert not goes_on(may, BACK[0], tcp())
    finally:
        may.close()


def test_what_of_a_hop_goes_the_long_way(make: Make) -> None:
    """A next hop that is drained, limited or not available, tags, `accept` filters, rules that demand all hops, and
    frames that open or close a flow, or have none."""
    path = ("a", "b", "c")
    twin = make(Rule(name="r", path=path))
    assert goes_on(twin, BACK[0], tcp())
    for frame in (tcp(flags="S"), tcp(flags="FA"), KINDS["vlan"], KINDS["arp"]):
        assert not goes_on(twin, BACK[0], frame)
    assert not goes_on(make(Rule(name="r", path=path), accept="tcp"), BACK[0], tcp())
    assert not goes_on(make(Rule(name="r", path=path, require="all")), BACK[0], tcp())
    tagged = make(Rule(name="r", path=path), tags=True)
    assert not goes_on(tagged, replace(BACK[0], tags=True), tcp())
    twin.lease("b", draining=True)
    assert not goes_on(twin, BACK[0], tcp())
    twin.lease("b")
    assert goes_on(twin, BACK[0], tcp())
    twin.gate("b", Side.LAN, 1)
    assert not goes_on(twin, BACK[0], tcp())
    twin.gate("b", Side.LAN, 0)
    twin.lease("b", good=False)
    assert not goes_on(twin, BACK[0], tcp())
