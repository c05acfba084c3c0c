# SPDX-License-Identifier: GPL-2.0-only
"""What a flow is: the kernel parses every frame like frames/flow.py, and frames of one flow reach one member."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import GRE
from scapy.packet import Packet, Raw

from appliance.config.schema.model import Config, Group, Guest, Member, Rule, Segment
from appliance.frames.flow import flow_of
from appliance.steering.explain.model import Where
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Outcome, Role, Side
from tests.support.frames import KINDS, NESTED, ether, labels, pppoe, typed, vxlan
from tests.support.twin import Twin

pytestmark = pytest.mark.root

GUESTS = ("a", "b", "c", "d")
SEGMENT = Segment(name="main", lan="lan0", wan="wan0")
GROUP = Group(name="ips", balance=tuple(Member(hop=name) for name in GUESTS))
LAN, WAN = Where(Role.PORT, 0, Side.LAN), Where(Role.PORT, 0, Side.WAN)


def twin(path: Path, *rules: Rule) -> Twin:
    guests = tuple(Guest(name=name) for name in GUESTS)
    made = Twin(path, Config(segment=(SEGMENT,), guest=guests, group=(GROUP,), rule=rules))
    made.attach(9100)
    made.supervise()
    for name in GUESTS:
        made.lease(name)
    return made


@pytest.fixture(scope="module")
def balanced(bpf_object: Path) -> Iterator[Twin]:
    made = twin(bpf_object, Rule(name="all", path=("ips",)))
    yield made
    made.close()


CHANGED = st.one_of(
    st.tuples(st.sampled_from(sorted(NESTED.values())), st.integers(14, 200)).map(lambda p: p[0][: p[1]]),
    st.tuples(st.sampled_from(sorted(NESTED.values())), st.integers(12, 160), st.integers(0, 255)).map(
        lambda p: p[0][: p[1]] + bytes([p[2]]) + p[0][p[1] + 1 :]
    ),
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frame=CHANGED, kind=st.sampled_from(["xdp", "tc"]))
def test_the_kernel_reads_as_the_model_does(balanced: Twin, frame: bytes, kind: str) -> None:
    """Nested headers, truncated and changed anywhere: the same flow, by the datapath's hash."""
    if kind == "tc" and not balanced.runs_by_tc(frame):
        return
    balanced.kernel(LAN, frame, kind, layout.DEVICE_DRY)
    trace, flow = balanced.maps["trace"].get(0), flow_of(frame)
    if flow.datagram is None:  # else what came before counts, too
        assert trace is not None
        assert trace.hash == flow.hash


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_each_kind(balanced: Twin, kind: str) -> None:
    for frame in KINDS.values():
        for where in (LAN, WAN):
            balanced.both(where, frame, kind)
    balanced.tables_agree()


def member(made: Twin, frame: bytes, where: Where = LAN) -> int:
    decision = made.both(where, frame)
    assert decision.outcome is Outcome.TO_HOP
    assert decision.slot is not None
    return decision.slot // 32


def flow(number: int, *, back: bool = False, size: int = 60) -> Packet:
    """One of many TCP flows."""
    inside, outside = f"10.{number >> 8}.{number & 255}.5", "10.200.0.1"
    if back:
        return IP(src=outside, dst=inside) / TCP(sport=443, dport=2000 + number) / Raw(bytes(size))
    return IP(src=inside, dst=outside) / TCP(sport=2000 + number, dport=443) / Raw(bytes(size))


WAYS = {
    "icmp error": lambda p, n: bytes(
        ether() / IP(src=f"192.0.2.{n % 200}", dst=p[IP].src) / ICMP(type=3, code=4) / Raw(bytes(p)[:28])
    ),
    "tag": lambda p, n: typed(0x9100, (n % 4000).to_bytes(2, "big") + b"\x08\0" + bytes(p)),
    "pppoe": lambda p, n: typed(0x8864, pppoe(bytes(p), session=n)),
    "mpls": lambda p, n: typed(0x8847, labels(16 + n, 1000 + n) + bytes(p)),
    "gre": lambda p, n: bytes(ether() / IP(src="198.51.100.1", dst="198.51.100.2") / GRE() / p),
    "vxlan": lambda p, n: bytes(
        ether() / IP(src="198.51.100.1", dst="198.51.100.2") / vxlan(bytes(ether() / p), 40_000 + n)
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_flow_stays_together_behind_anything(balanced: Twin, way: str) -> None:
    """100 flows: errors about one, and its frames in a tunnel or behind labels, reach the member of its plain ones."""
    members = set()
    for number in range(100):
        plain = flow(number)
        found = member(balanced, bytes(ether() / plain))
        assert member(balanced, bytes(ether(back=True) / flow(number, back=True)), WAN) == found
        assert member(balanced, WAYS[way](plain, number)) == found
        members.add(found)
    assert len(members) == len(GUESTS)


def fragments(number: int, sport: int = 5060) -> tuple[bytes, bytes]:
    """A datagram in two fragments."""
    ends = {"src": "10.7.0.1", "dst": "10.8.0.1", "id": number}
    first = IP(**ends, flags="MF") / UDP(sport=sport, dport=5353, len=1000) / Raw(b"x" * 40)
    later = IP(**ends, frag=6, proto=17) / Raw(b"y" * 40)
    return bytes(ether() / first), bytes(ether() / later)


SIP = Rule(name="sip", match="udp port 5353", path=("ips",), on_unavailable="block")


@pytest.mark.parametrize("kind", ["xdp", "tc"])
@pytest.mark.parametrize("last", [(), (Rule(name="rest", match="ip", path=()),)])
def test_later_fragments_match_the_rule_of_the_first(bpf_object: Path, kind: str, last: tuple[Rule, ...]) -> None:
    """In order; also where a later rule would take them, and when the guests are gone and the rule blocks."""
    made = twin(bpf_object, SIP, *last)
    try:
        first, later = fragments(1)
        assert made.both(LAN, later, kind).rule in (None, 1)  # of a datagram that nobody knows
        first, later = fragments(2)
        found = made.both(LAN, first, kind)
        behind = made.both(LAN, later, kind)
        assert (found.rule, behind.rule, behind.slot) == (0, 0, found.slot)
        for name in GUESTS:
            made.lease(name, good=False)
        assert made.both(LAN, later, kind).outcome is Outcome.BLOCKED
        made.tables_agree()
    finally:
        made.close()


def test_a_later_fragment_that_comes_first(bpf_object: Path) -> None:
    """It goes by the last datagram in fragments between the same ends, to the member of its flow, as all of it then."""
    made = twin(bpf_object, SIP)
    try:
        found = [made.both(LAN, frame) for frame in fragments(1)]
        found += [made.both(LAN, frame) for frame in reversed(fragments(2))]
        found += [made.both(LAN, frame) for frame in fragments(2)]
        assert {(one.rule, one.slot) for one in found} == {(0, found[0].slot)}
        made.tables_agree()
    finally:
        made.close()


def test_the_first_rule_wins_for_fragments_too(bpf_object: Path) -> None:
    """A datagram whose first fragment an earlier rule leads straight goes straight as a whole; a rule that takes later
    fragments by itself takes those of datagrams that only a rule behind it knows."""
    straight = Rule(name="straight", match="udp port 5353")
    every = Rule(name="every", match="udp", path=("ips",))
    made = twin(bpf_object, straight, every)
    try:
        assert [made.both(LAN, frame).rule for frame in fragments(1)] == [0, 0]
    finally:
        made.close()
    mine = Rule(name="mine", match="ip[6:2] & 0x1fff != 0", path=("a",))
    made = twin(bpf_object, mine, SIP)
    try:
        assert [made.both(LAN, frame).rule for frame in fragments(1)] == [1, 0]
    finally:
        made.close()


def test_another_policy_knows_no_rules_of_the_former(bpf_object: Path) -> None:
    """A rule stored under one policy is not valid under the next, which has other rules."""
    made = twin(bpf_object, Rule(name="never", match="tcp port 1"), SIP)
    try:
        first, later = fragments(1)
        assert made.both(LAN, first).rule == 1
        made.configure(
            Config(
                segment=(SEGMENT,),
                guest=tuple(Guest(name=name) for name in GUESTS),
                group=(GROUP,),
                rule=(Rule(name="never", match="tcp port 1"), Rule(name="other", match="udp port 1", path=("a",))),
            )
        )
        assert made.both(LAN, later).rule is None
    finally:
        made.close()
