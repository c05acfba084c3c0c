# SPDX-License-Identifier: GPL-2.0-only
"""The guarantees of the steering, one by one, each checked in kernel and model."""

from __future__ import annotations

import ctypes
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from appliance.config.schema.model import Config, Group, Guest, Member, Rule, Segment
from appliance.steering.explain import explain as explaining
from appliance.steering.explain.backends import UNLIMITED, furnish
from appliance.steering.explain.model import Decision, Where
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Outcome, Reason, Role, Side
from appliance.system import libbpf
from appliance.units import Duration
from tests.support.frames import KINDS, ether, tcp, udp
from tests.support.twin import Twin

pytestmark = pytest.mark.root
MAIN = (Segment(name="main", lan="lan0", wan="wan0"),)
ABC = tuple(Guest(name=name) for name in ("a", "b", "c"))
LAN, WAN = Where(Role.PORT, 0, Side.LAN), Where(Role.PORT, 0, Side.WAN)
Make = Callable[[Config], Twin]


@pytest.fixture
def make(bpf_object: Path) -> Iterator[Make]:
    """Twins with everything attached and every hop available."""
    made: list[Twin] = []

    def one(config: Config) -> Twin:
        twin = Twin(bpf_object, config)
        made.append(twin)
        twin.attach()
        twin.supervise()
        for guest in config.guest:
            twin.lease(guest.name)
        return twin

    yield one
    for twin in made:
        twin.close()


def rules(*made: Rule, group: tuple[Group, ...] = (), guest: tuple[Guest, ...] = ABC) -> Config:
    return Config(segment=MAIN, guest=guest, group=group, rule=made)


def went(decision: Decision) -> int:
    """The hop that the frame was sent to; 0 a port."""
    assert decision.slot is not None
    return decision.slot // 32


def way(twin: Twin, where: Where, frame: bytes) -> list[str]:
    """All stations of a frame, each hop sending it on unchanged: names of hops, then the side it leaves by."""
    names = {hop.id: name for name, hop in twin.policy.hops.items()}
    stations: list[str] = []
    while True:
        decision = twin.both(where, frame)
        assert decision.slot is not None
        if not went(decision):
            return [*stations, Side(decision.slot & 1).name]
        stations.append(names[went(decision)])
        where = Where(Role.HOP, where.segment, Side(decision.slot & 1 ^ 1), went(decision))


def from_hop(twin: Twin, name: str, side: Side, tags: bool = False) -> Where:
    return Where(Role.HOP, 0, side, twin.policy.hops[name].id, tags)


def test_sizes_of_all_values(make: Make) -> None:
    """The structs of layout.py are as long as the kernel's map values."""
    twin = make(rules())
    for name, (key, value) in layout.MAPS.items():
        about = libbpf.info(twin.maps[name].fd, libbpf.MapInfo())
        assert (about.key_size, about.value_size) == (ctypes.sizeof(key), ctypes.sizeof(value)), name


def test_chain_runs_forward_and_backward(make: Make) -> None:
    """LAN to WAN in the configured order, WAN to LAN in reverse; unavailable hops are skipped."""
    twin = make(rules(Rule(name="r", path=("a", "b", "c"))))
    assert way(twin, LAN, tcp()) == ["a", "b", "c", "WAN"]
    assert way(twin, WAN, tcp(back=True)) == ["c", "b", "a", "LAN"]
    twin.lease("b", good=False)
    assert way(twin, LAN, tcp()) == ["a", "c", "WAN"]
    assert way(twin, WAN, tcp(back=True)) == ["c", "a", "LAN"]


def test_changed_frames_keep_their_chain(make: Make) -> None:
    """A hop in one rule may rewrite everything (NAT): the frame still continues to the rule's next hop."""
    twin = make(rules(Rule(name="web", match="tcp port 80", path=("a", "b"))))
    assert went(twin.both(from_hop(twin, "a", Side.WAN), udp(sport=4000, dport=4001))) == twin.policy.hops["b"].id


def test_ambiguous_chains_are_classified_again(make: Make) -> None:
    """Rules that differ behind a hop: by what the frame is now; unrecognizable ones by the first rule, counted."""
    config = rules(
        Rule(name="web", match="tcp port 80", path=("a", "b")), Rule(name="dns", match="udp port 53", path=("a", "c"))
    )
    twin = make(config)
    back = from_hop(twin, "a", Side.WAN)
    assert went(twin.both(back, tcp())) == twin.policy.hops["b"].id
    assert went(twin.both(back, udp())) == twin.policy.hops["c"].id
    assert not twin.datapath.counters().hops["a"].returned_unmatched
    strange = twin.both(back, udp(sport=4000, dport=4001))
    assert strange.returned_unmatched
    assert went(strange) == twin.policy.hops["b"].id
    assert twin.datapath.counters().hops["a"].returned_unmatched == 1


def test_hop_that_left_the_policy(make: Make) -> None:
    """Frames still inside a hop when the policy drops it leave by their port."""
    twin = make(rules(Rule(name="r", path=("a", "b"))))
    inside = from_hop(twin, "a", Side.WAN)
    twin.configure(rules(Rule(name="r", path=("b",))))
    assert twin.both(inside, tcp()).slot == layout.slot(0, 0, Side.WAN)
    assert twin.datapath.counters().hops["a"].returned_unmatched == 1


def test_accept_skips_and_never_blocks(make: Make) -> None:
    """A hop that does not accept the frame is skipped; it was available, so `block` does not hold the frame back."""
    guests = (Guest(name="a", accept="tcp"), Guest(name="b"), Guest(name="c"))
    twin = make(rules(Rule(name="r", path=("a", "b")), guest=guests))
    assert way(twin, LAN, tcp()) == ["a", "b", "WAN"]
    assert way(twin, LAN, udp()) == ["b", "WAN"]
    twin.configure(rules(Rule(name="r", path=("a",), on_unavailable="block"), guest=guests))
    assert twin.both(LAN, udp()).outcome is Outcome.BYPASSED
    twin.lease("a", good=False)
    assert twin.both(LAN, udp()).outcome is Outcome.BLOCKED


EVEN = Group(name="g", balance=(Member(hop="a", weight=50), Member(hop="b", weight=50)))


def member(twin: Twin, frame: bytes, where: Where = LAN) -> int:
    return went(twin.both(where, frame))


def test_both_directions_reach_the_same_member(make: Make) -> None:
    """And the members share the flows by weight."""
    uneven = Group(name="g", balance=(Member(hop="a", weight=90), Member(hop="b", weight=10)))
    twin = make(rules(Rule(name="r", path=("g",)), group=(uneven,)))
    shares: Counter[int] = Counter()
    for port in range(1000, 1400):
        chosen = member(twin, tcp(sport=port))
        assert member(twin, tcp(sport=port, back=True), WAN) == chosen
        shares[chosen] += 1
    assert 340 <= shares[twin.policy.hops["a"].id] <= 380


def test_a_members_failure_moves_its_own_flows_only(make: Make) -> None:
    """And they come back to it with it: the number moved is the least there can be."""
    config = rules(Rule(name="r", path=("g",)), group=(Group(name="g", balance=tuple(Member(hop=n) for n in "abc")),))
    twin = make(config)
    frames = [tcp(sport=port) for port in range(1000, 1200)]
    before = [member(twin, frame) for frame in frames]
    failed = twin.policy.hops["b"].id
    twin.lease("b", good=False)
    during = [member(twin, frame) for frame in frames]
    moved = sum(old != new for old, new in zip(before, during, strict=True))
    assert moved == before.count(failed) > 0
    assert len({new for old, new in zip(before, during, strict=True) if old == failed}) == 2
    twin.lease("b")
    assert [member(twin, frame) for frame in frames] == before


@pytest.mark.parametrize("first_comes", [0, 1])
@pytest.mark.parametrize("six", [False, True])
def test_fragments_stay_together(make: Make, six: bool, first_comes: int) -> None:
    """All fragments of a datagram reach one member, in whatever order they come."""
    twin = make(rules(Rule(name="r", path=("g",)), group=(EVEN,)))
    for number in range(40):
        inside = UDP(sport=number, dport=53) / bytes(16)
        if six:
            head = ether() / IPv6(src="fd00::1", dst="fd01::1")
            datagram = [head / IPv6ExtHdrFragment(id=number, m=1) / inside]
            datagram += [head / IPv6ExtHdrFragment(id=number, offset=at, nh=17) / bytes(8) for at in (3, 4)]
        else:
            datagram = [ether() / IP(src="10.0.0.1", dst="10.1.0.1", id=number, flags="MF") / inside]
            datagram += [
                ether() / IP(src="10.0.0.1", dst="10.1.0.1", id=number, frag=at, proto=17) / bytes(8) for at in (3, 4)
            ]
        datagram = datagram[first_comes:] + datagram[:first_comes]
        assert len({member(twin, bytes(fragment)) for fragment in datagram}) == 1
    twin.tables_agree()


def test_hash_by_addresses(make: Make) -> None:
    """hash = "l3": every flow between two addresses reaches one member."""
    twin = make(rules(Rule(name="r", path=("g",)), group=(Group(name="g", balance=EVEN.balance, hash="l3"),)))
    assert len({member(twin, tcp(sport=port)) for port in range(1000, 1040)}) == 1
    assert len({member(twin, tcp(host=host)) for host in range(1, 40)}) == 2


def test_standby_and_hold_down(make: Make) -> None:
    """The first available in order; one that came back waits out its hold-down, unless there is no other."""
    hold = Duration(3_600_000_000_000)
    twin = make(rules(Rule(name="r", path=("g",)), group=(Group(name="g", standby=("a", "b"), hold_down=hold),)))
    a, b = twin.policy.hops["a"].id, twin.policy.hops["b"].id
    assert member(twin, tcp()) == a
    twin.lease("a", good=False)
    assert member(twin, tcp()) == b
    # As user space does it: the lease was over, so this renewal is a recovery.
    twin.datapath.leases.renew("a", time.monotonic_ns() + 10**12)
    recovered = twin.datapath.kernel.leases.read(a, 1)
    assert recovered
    twin.lease("a", recovered=recovered)
    decision = twin.both(LAN, tcp())
    assert went(decision) == b
    assert decision.steps[0].reason is Reason.HELD
    twin.lease("b", good=False)
    assert member(twin, tcp()) == a
    twin.lease("b")
    twin.lease("a", recovered=time.monotonic_ns() - hold - 10**9)
    assert member(twin, tcp()) == a


def test_drain_keeps_established_flows(make: Make) -> None:
    """A draining member keeps the flows it knows until they end, new ones go elsewhere."""
    twin = make(rules(Rule(name="r", path=("g",)), group=(EVEN,)))
    a = twin.policy.hops["a"].id
    ours = [port for port in range(1000, 1060) if member(twin, tcp(sport=port)) == a]
    fresh = [port for port in range(2000, 2060) if twin.decide(LAN, tcp(sport=port)).slot == a * 32]
    # The model was asked alone about the fresh ones, and must not know them.
    twin.state.flows, twin.state.new_flows = (
        {(key.hash, key.hop): (flow.seen, flow.fin) for key, flow in twin.maps[name].items()}
        for name in ("flows", "new_flows")
    )
    assert len(ours) > 5
    assert len(fresh) > 5
    now = time.monotonic_ns()
    assert twin.datapath.flows_of("a", now) == len(ours)
    twin.datapath.leases.set_draining("a", True)
    twin.lease("a", draining=True)
    assert {member(twin, tcp(sport=port)) for port in ours} == {a}
    assert {member(twin, tcp(sport=port, back=True), WAN) for port in ours} == {a}
    assert a not in {member(twin, tcp(sport=port)) for port in fresh}
    # Reset ends a flow at once, FIN from both sides does too; a new connection on its ports is a new flow.
    member(twin, tcp(sport=ours[0], flags="RA"))
    assert member(twin, tcp(sport=ours[0], flags="S")) != a
    member(twin, tcp(sport=ours[1], flags="FA"))
    assert member(twin, tcp(sport=ours[1])) == a
    member(twin, tcp(sport=ours[1], flags="FA", back=True), WAN)
    assert member(twin, tcp(sport=ours[1], flags="A")) == a  # the last acknowledgement
    assert member(twin, tcp(sport=ours[1], flags="S")) != a
    assert twin.datapath.flows_of("a", now) == len(ours) - 2


def tagged(vid: int, frame: bytes) -> bytes:
    return frame[:12] + b"\x88\xa8" + vid.to_bytes(2, "big") + frame[12:]


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_tags(make: Make, kind: str) -> None:
    """A hop with tags chooses the next hop or the way out, and the tag comes off; what it may not choose is counted."""
    guests = (Guest(name="a", tags=True), Guest(name="b"), Guest(name="c", accept="udp"))
    twin = make(rules(Rule(name="r", path=("a", "b")), guest=guests))
    hops = twin.policy.hops
    back = from_hop(twin, "a", Side.WAN, tags=True)
    for vid, goes in (
        (hops["b"].id, layout.slot(hops["b"].id, 0, Side.LAN)),
        (layout.TAG_OUT, layout.slot(0, 0, Side.WAN)),
        (layout.TAG_OUT_LAN, layout.slot(0, 0, Side.LAN)),
        (layout.TAG_OUT_WAN, layout.slot(0, 0, Side.WAN)),
    ):
        decision = twin.both(back, tagged(vid, tcp()), kind)
        assert decision.slot == goes
        assert decision.frame == tcp()
    assert twin.datapath.counters().hops["a"].bad_tag == 0
    # Unknown, itself, one that does not accept the frame: as the rule says, without the tag.
    for bad in (99, 2000, hops["a"].id, hops["c"].id):
        decision = twin.both(back, tagged(bad, tcp()), kind)
        assert decision.bad_tag
        assert went(decision) == hops["b"].id
        assert decision.frame == tcp()
    assert twin.datapath.counters().hops["a"].bad_tag == 4
    assert went(twin.both(back, tagged(hops["c"].id, udp()), kind)) == hops["c"].id
    # As it came: along the path, and nothing is wrong.
    decision = twin.both(back, tagged(layout.TAG_NEXT, tcp()), kind)
    assert (went(decision), decision.frame, decision.bad_tag) == (hops["b"].id, tcp(), False)
    # Without `tags` such a tag is the customer's and stays.
    assert twin.both(from_hop(twin, "b", Side.WAN), tagged(hops["c"].id, udp())).frame == tagged(hops["c"].id, udp())


@pytest.mark.parametrize(("lan", "wan"), [(1518, 9018), (9018, 1518)])
def test_a_tag_asks_for_a_port_that_takes_less(make: Make, lan: int, wan: int) -> None:
    """The length that counts is that of the port the hop asks for, not of the one that the frame travels to."""
    twin = make(rules(Rule(name="r", path=("a",)), guest=(Guest(name="a", tags=True),)))
    for side, longest in ((Side.LAN, lan), (Side.WAN, wan)):
        place = layout.slot(0, 0, side)
        twin.state.longest[place] = longest
        furnish(twin.datapath, [place], longest)
    jumbo = KINDS["full size"] + bytes(3000)
    for out in Side:
        for vid, side in ((layout.TAG_OUT_LAN, Side.LAN), (layout.TAG_OUT_WAN, Side.WAN)):
            decision = twin.both(from_hop(twin, "a", out, tags=True), tagged(vid, jumbo))
            fits = len(jumbo) <= (lan, wan)[side]
            assert (decision.outcome, decision.slot) == (
                Outcome.OUT if fits else Outcome.OVERSIZE,
                layout.slot(0, 0, side),
            )


def handshake(port: int) -> list[tuple[Where, bytes]]:
    """SYN, and the answer to it."""
    return [(LAN, tcp(sport=port, flags="S")), (WAN, tcp(sport=port, flags="SA", back=True))]


def test_a_flood_of_connections_drives_out_no_established_flow(make: Make) -> None:
    """What never comes to more than SYN and its answer, with errors about it, is kept apart from what is at work."""
    twin = make(rules(Rule(name="r", path=("g",)), group=(EVEN,)))
    error = ether(back=True) / IP(src="192.0.2.1", dst="10.0.0.1") / ICMP(type=3)
    for where, frame in handshake(1):
        twin.both(where, frame)
    assert not list(twin.maps["flows"].items())
    twin.both(LAN, tcp(sport=1, flags="A"))
    assert len(list(twin.maps["flows"].items())) == 1
    for port in range(1000, 1200):
        for where, frame in handshake(port):
            twin.both(where, frame)
        twin.both(WAN, bytes(error / Raw(tcp(sport=port, flags="S")[14:54])))
    assert len(list(twin.maps["flows"].items())) == 1
    assert len(list(twin.maps["new_flows"].items())) == 200
    assert libbpf.info(twin.maps["new_flows"].fd, libbpf.MapInfo()).max_entries == layout.MAX_NEW_FLOWS
    twin.tables_agree()
    # A connection that is still being made when the drain begins is kept all the same.
    for port in range(1000, 1020):
        before = member(twin, tcp(sport=port, flags="S"))
        name = next(hop.name for hop in twin.policy.hops.values() if hop.id == before)
        twin.lease(name, draining=True)
        assert member(twin, tcp(sport=port, flags="A")) == before
        twin.lease(name)
    twin.tables_agree()


def test_a_closed_connection_begins_anew(make: Make) -> None:
    """On the ports of one that is closed, in the table of new flows."""
    twin = make(rules(Rule(name="r", path=("a",))))
    for where, frame in (*handshake(1), (LAN, tcp(sport=1, flags="A"))):
        twin.both(where, frame)
    for where, back in ((LAN, False), (WAN, True)):
        twin.both(where, tcp(sport=1, flags="FA", back=back))
    (flow,) = [flow for _, flow in twin.maps["flows"].items()]
    assert flow.fin & layout.FLOW_CLOSED == layout.FLOW_CLOSED
    twin.both(LAN, tcp(sport=1, flags="S"))
    assert not list(twin.maps["flows"].items())
    twin.tables_agree()


def calm_entries(twin: Twin) -> int:
    now = time.monotonic_ns()
    entries = twin.maps["calm_flows"].first(layout.CALM_FLOWS)
    return sum(until > now for entry in entries for until in entry.until)


def test_a_calm_flow_is_not_looked_up_again(make: Make) -> None:
    """Until something changes what is known about it, or its time is to be written."""
    twin = make(rules(Rule(name="r", path=("a",))))
    frame = tcp(sport=1, flags="A")
    twin.both(LAN, frame)
    assert calm_entries(twin) == 0, "one frame, such as of a flood, takes no place"
    twin.both(LAN, frame)
    assert calm_entries(twin) == 1
    (key,) = (key for key, _ in twin.maps["new_flows"].items())
    twin.maps["new_flows"].delete(key)
    twin.kernel(LAN, frame)
    assert not list(twin.maps["new_flows"].items()), "it was not looked for"
    for place, entry in enumerate(twin.maps["calm_flows"].first(layout.CALM_FLOWS)):
        if any(entry.until):
            entry.until[Side.LAN] = time.monotonic_ns() - 10**8
            twin.maps["calm_flows"].set(place, entry)
    twin.kernel(LAN, frame)
    assert len(list(twin.maps["new_flows"].items())) == 1, "the time was over"


@pytest.mark.parametrize("flags", ["SA", "R", "FA", "S", "A"])
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("both_before", [False, True])
def test_what_ends_the_calm(make: Make, flags: str, back: bool, both_before: bool) -> None:
    """Frames after any change are followed exactly, in both directions."""
    twin = make(rules(Rule(name="r", path=("a",))))
    here, there = (LAN, tcp(sport=1)), (WAN, tcp(sport=1, back=True))
    for _ in range(3):
        for where, frame in (here, there) if both_before else (here,):
            twin.both(where, frame)
    assert calm_entries(twin) == 1 + both_before
    twin.both(WAN if back else LAN, tcp(sport=1, flags=flags, back=back))
    twin.tables_agree()
    for where, frame in (here, there, here, there):
        twin.both(where, frame)
        twin.tables_agree()


def test_two_hops_do_not_displace_each_others_calm_flows(make: Make) -> None:
    """Each frame of a path is followed for each of its hops."""
    twin = make(rules(Rule(name="r", path=("a", "b"))))
    for _ in range(3):
        twin.both(LAN, udp())
        twin.both(from_hop(twin, "a", Side.WAN), udp())
    assert calm_entries(twin) == 2


@pytest.mark.parametrize("vid", [0, 2, 300, 4000, 4001])
def test_tags_of_outsiders_decide_nothing(make: Make, vid: int) -> None:
    """A hop with tags gets every frame with a tag of ours outside, and only that is read when the frame comes back.

    Whatever S-tag a frame brought stays on it, through the whole path, in both directions.
    """
    guests = (Guest(name="a", tags=True), Guest(name="b"), Guest(name="c", tags=True))
    twin = make(rules(Rule(name="r", path=("a", "b", "c")), guest=guests))
    for start, ahead, names in ((LAN, Side.WAN, "abc"), (WAN, Side.LAN, "cba")):
        frame = tagged(vid, tcp())
        decision = twin.both(start, frame)
        for name, after in zip(names, (*names[1:], None), strict=True):
            tags = name != "b"
            assert went(decision) == twin.policy.hops[name].id
            assert decision.frame == (tagged(layout.TAG_NEXT, frame) if tags else frame)
            decision = twin.both(from_hop(twin, name, ahead, tags=tags), decision.frame)
            assert not decision.bad_tag
            if after is None:
                assert (decision.slot, decision.frame) == (layout.slot(0, 0, ahead), frame)


def test_a_tag_of_ours_needs_room(make: Make) -> None:
    """A frame that fits the tap only without our tag skips the hop, as one that does not fit at all."""
    config = rules(Rule(name="r", path=("a",)), guest=(Guest(name="a", tags=True), Guest(name="b")))
    twin = make(config)
    for spare, takes in ((4, True), (3, False)):
        frame = tcp().ljust(1518 - spare, b"\0")
        assert (twin.both(LAN, frame).outcome is Outcome.TO_HOP) is takes


@pytest.mark.parametrize("kind", ["xdp", "tc"])
@pytest.mark.parametrize(
    ("says", "outcome"),
    [
        ({}, Outcome.BYPASSED),
        ({"on_unavailable": "block"}, Outcome.EXCESS),
        ({"on_overload": "bypass-excess", "on_unavailable": "block"}, Outcome.BYPASSED),
        ({"on_overload": "block-excess"}, Outcome.EXCESS),
        ({"on_overload": "bypass-all"}, Outcome.BYPASSED),
    ],
    ids=str,
)
def test_what_exceeds_an_overloaded_hop(make: Make, kind: str, says: dict[str, str], outcome: Outcome) -> None:
    """The rule decides about the excess; within the limit the hop gets its frames, independently by direction."""
    config = msgspec.convert({"name": "r", "path": ["a"], **says}, Rule)
    twin = make(rules(config))
    a = twin.policy.hops["a"].id
    twin.gate("a", Side.LAN, 10**9, full=True)
    decision = twin.both(LAN, tcp(), kind)
    assert (decision.outcome, [step.reason for step in decision.steps]) == (outcome, [Reason.OVERLOADED])
    assert went(twin.both(WAN, tcp(back=True), kind)) == a
    counted = twin.datapath.counters()
    assert counted.rules["r"].excess == 1
    assert counted.hops["a"].skipped[Reason.OVERLOADED] == 1
    assert twin.datapath.gates.over(layout.slot(a, 0, Side.LAN)) == 1
    twin.gate("a", Side.LAN, 1)  # as good as no limit
    within = twin.both(LAN, tcp(), kind)
    assert within.outcome is (Outcome.BYPASSED if says.get("on_overload") == "bypass-all" else Outcome.TO_HOP)
    assert twin.datapath.gates.over(layout.slot(a, 0, Side.LAN)) == 1
    twin.datapath.gates.limit(layout.slot(a, 0, Side.LAN), 0)
    twin.state.gates.clear()
    assert went(twin.both(LAN, tcp(), kind)) == a


def test_an_overloaded_hop_is_skipped_and_the_next_one_is_not(make: Make) -> None:
    """The excess goes on along the path; from a group no other member gets it, as none knows its flows."""
    group = Group(name="g", balance=tuple(Member(hop=name) for name in "ab"))
    twin = make(rules(Rule(name="r", path=("g", "c")), group=(group,)))
    c = twin.policy.hops["c"].id
    for name in "ab":
        twin.gate(name, Side.LAN, 10**9, full=True)
    decision = twin.both(LAN, tcp())
    assert (went(decision), len(decision.steps)) == (c, 2)
    twin.lease("a", good=False)
    twin.lease("b", good=False)
    assert [step.reason for step in twin.both(LAN, tcp()).steps[:2]] == [Reason.UNAVAILABLE] * 2


def test_the_limit_lets_so_many_through(make: Make) -> None:
    """A hundred a second: those of the burst, and of a flood of thousands about one each 10 ms."""
    twin = make(rules(Rule(name="r", path=("a",))))
    place = layout.slot(twin.policy.hops["a"].id, 0, Side.LAN)
    twin.datapath.gates.limit(place, 100)
    began = time.monotonic_ns()
    handed = sum(twin.kernel(LAN, tcp()).outcome is Outcome.TO_HOP for _ in range(3000))
    spent = time.monotonic_ns() - began
    assert 2 <= handed <= spent // 10**7 + 3
    assert twin.datapath.gates.over(place) == 3000 - handed


def test_a_limit_that_comes_too_late_is_none(make: Make) -> None:
    """The watch of a guest may end after the datapath was closed: its last word then changes and breaks nothing."""
    twin = make(rules(Rule(name="r", path=("a",))))
    load = twin.datapath.load("a", "main", Side.LAN)
    load.limit(100)
    assert [place for place, _, _ in twin.datapath.gates.limits(1)] == [layout.slot(1, 0, Side.LAN)]
    load.limit(0)
    assert list(twin.datapath.gates.limits(1)) == []
    load.close()
    load.limit(100)
    assert list(twin.datapath.gates.limits(1)) == []
    assert load.sample() is None


def test_segments_have_rules_of_their_own(make: Make) -> None:
    """The same frame is steered by its segment's rules, and leaves by its segment's port."""
    config = Config(
        segment=(*MAIN, Segment(name="other", lan="lan1", wan="wan1")),
        guest=ABC,
        rule=(
            Rule(name="m", match="tcp", path=("a",), segment="main"),
            Rule(name="o", match="tcp", path=("b",), segment="other"),
            Rule(name="both", match="udp", path=("c",)),
        ),
    )
    twin = make(config)
    there = Where(Role.PORT, 1, Side.LAN)
    assert way(twin, LAN, tcp()) == ["a", "WAN"]
    assert way(twin, there, tcp()) == ["b", "WAN"]
    assert way(twin, LAN, udp()) == way(twin, there, udp()) == ["c", "WAN"]
    assert twin.both(there, KINDS["arp"]).slot == layout.slot(0, 1, Side.WAN)


def test_a_dry_run_changes_nothing(make: Make) -> None:
    """`explain` on the running appliance changes no counter, flow or fragment."""
    twin = make(rules(Rule(name="r", path=("g", "c")), group=(EVEN,)))
    before = twin.datapath.counters()
    for frame in KINDS.values():
        for where in (LAN, WAN, from_hop(twin, "a", Side.WAN)):
            twin.kernel(where, frame, flags=layout.DEVICE_DRY)
    assert twin.datapath.counters() == before
    for name in ("flows", "new_flows", "fragments"):
        assert not list(twin.maps[name].items())


def test_explain_agrees_on_both_backends(bpf_object: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernel and model say the same about a capture, in the keys that are promised; --down takes a hop away."""
    monkeypatch.setattr(explaining, "bpf_object", lambda: bpf_object)
    config = rules(
        Rule(name="web", match="tcp port 80", path=("g", "c")), Rule(name="none", match="arp"), group=(EVEN,),
        guest=(Guest(name="a"), Guest(name="b"), Guest(name="c", accept="ip")),
    )  # fmt: skip
    frames = [*KINDS.values(), b"\x01\x02\x03"]
    records = [struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames]
    (tmp_path / "f.pcap").write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + b"".join(records))
    kernel = list(explaining.explain(config, tmp_path / "f.pcap", "lan", backend="kernel"))
    model = list(explaining.explain(config, tmp_path / "f.pcap", "lan", backend="model"))
    assert {(row.by, other.by) for row, other in zip(kernel, model, strict=True)} == {
        ("the datapath's programs", "the model")
    }
    assert [replace(row, by="") for row in kernel] == [replace(row, by="") for row in model]
    bare = explaining.explain(config, tmp_path / "f.pcap", "lan", backend="kernel", words=False)
    assert list(bare) == [replace(row, why=[]) for row in kernel]
    first = kernel[list(KINDS).index("tcp")]
    assert (first.rule, first.hops[1], first.verdict) == ("web", "c", f"guest:{first.hops[0]}")
    arp = kernel[list(KINDS).index("arp")]
    assert (arp.frame, arp.rule, arp.hops, arp.verdict) == (
        list(KINDS).index("arp") + 1,
        "none",
        [],
        "port:wan",
    )
    assert kernel[-1].verdict == "port:wan"
    down = next(explaining.explain(config, tmp_path / "f.pcap", "wan", backend="kernel", down=["a", "c"]))
    assert (down.hops, down.verdict) == (["b"], "guest:b")
    assert UNLIMITED > 9000
