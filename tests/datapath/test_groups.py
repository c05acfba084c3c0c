# SPDX-License-Identifier: GPL-2.0-only
"""Groups: enough members, spare ones, what tells flows apart, and established flows of a member that fails.

Each frame is given to the kernel and to the model, and the answers are compared (tests/support/twin.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from appliance.config.schema.model import Config, Group, Guest, Member, Rule, Segment
from appliance.steering.explain.model import Decision, Where
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Outcome, Reason, Role, Side, Verdict, slot
from tests.support.frames import KINDS
from tests.support.twin import Twin

pytestmark = pytest.mark.root

HOPS = ("a", "b", "c", "s", "x")
ALL = tuple(Member(hop=name) for name in "abc")
LAN, WAN = Where(Role.PORT, 0, Side.LAN), Where(Role.PORT, 0, Side.WAN)
CLIENT, SERVER = "02:00:00:00:00:01", "02:00:00:00:00:02"
Make = Callable[..., Twin]


def build(bpf_object: Path, group: Group, path: tuple[str, ...] = ("g",), accept: str = "", **rule: Any) -> Twin:
    """A twin with one group "g" in the path of one rule; every hop is available."""
    guests = tuple(Guest(name=name, accept=accept) for name in HOPS)
    segment = Segment(name="main", lan="lan0", wan="wan0")
    rules = (Rule(name="r", path=path, **rule),)
    twin = Twin(bpf_object, Config(segment=(segment,), guest=guests, group=(group,), rule=rules))
    twin.attach()
    twin.supervise()
    available(twin, "".join(HOPS))
    return twin


@pytest.fixture
def make(bpf_object: Path) -> Iterator[Make]:
    """See `build`."""
    made: list[Twin] = []

    def one(group: Group, **keys: Any) -> Twin:
        made.append(build(bpf_object, group, **keys))
        return made[-1]

    yield one
    for twin in made:
        twin.close()


def group(**keys: Any) -> Group:
    return Group(name="g", **({"balance": ALL} | keys))


def available(made: Twin, names: str) -> None:
    for name in HOPS:
        made.lease(name, good=name in names)


def frame(
    back: bool = False, *, port: int = 1, flags: str = "A", six: bool = False, tag: bool = False, **tcp: Any
) -> bytes:
    """A segment of one connection, from the client at the LAN or back."""
    ports = (80, port) if back else (port, 80)
    ends = ("10.0.0.2", "10.0.0.1") if back else ("10.0.0.1", "10.0.0.2")
    ip: Packet = IPv6(src=f"fd00::{ends[0][-1]}", dst=f"fd00::{ends[1][-1]}") if six else IP(src=ends[0], dst=ends[1])
    outer = Ether(src=SERVER if back else CLIENT, dst=CLIENT if back else SERVER)
    outer = outer / Dot1Q(vlan=7) if tag else outer
    return bytes(outer / ip / TCP(sport=ports[0], dport=ports[1], flags=flags, **tcp) / Raw(b"text" * 9))


def to(made: Twin, decision: Decision) -> str:
    """The hop that the frame goes to, or its outcome."""
    if decision.outcome is not Outcome.TO_HOP or decision.slot is None:
        return decision.outcome.name
    return next(hop.name for hop in made.policy.hops.values() if hop.id == decision.slot // 32)


def establish(made: Twin, kind: str = "xdp", **keys: Any) -> str:
    """A connection through the group; returns the member that it has."""
    names = {
        to(made, made.both(LAN, frame(flags="S", **keys), kind)),
        to(made, made.both(WAN, frame(True, flags="SA", **keys), kind)),
        to(made, made.both(LAN, frame(**keys), kind)),
    }
    (name,) = names
    return name


# -- enough members


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_too_few_members_are_none(make: Make, kind: str) -> None:
    """With fewer than `minimum` the group is passed over as if no member were available."""
    twin = make(group(minimum=2), path=("g", "x"))
    for up, takes in (("abcx", "abc"), ("abx", "ab"), ("ax", "x"), ("x", "x")):
        available(twin, up)
        for port in range(6):
            assert to(twin, twin.both(LAN, frame(port=port), kind)) in takes, up
    available(twin, "a")
    assert to(twin, twin.both(LAN, frame(), kind)) == "BYPASSED"
    assert twin.datapath.counters().hops["a"].skipped[Reason.TOO_FEW] == 13


def test_too_few_members_block(make: Make) -> None:
    """`on_unavailable` applies, with `require` "any" and "all"."""
    for keys in ({}, {"require": "all"}):
        twin = make(group(minimum=2), on_unavailable="block", **keys)
        available(twin, "bc")
        assert to(twin, twin.both(LAN, frame())) in "bc"
        available(twin, "b")
        assert to(twin, twin.both(LAN, frame())) == "BLOCKED"


def test_too_few_members_are_not_required_for_what_they_do_not_accept(make: Make) -> None:
    twin = make(group(minimum=3), accept="tcp", on_unavailable="block", require="all")
    available(twin, "ab")
    assert to(twin, twin.both(LAN, frame())) == "BLOCKED"
    assert to(twin, twin.both(LAN, KINDS["udp"])) == "BYPASSED"


def test_a_draining_member_counts(make: Make) -> None:
    """It works until its flows have ended; the group fails when it is stopped."""
    twin = make(group(minimum=3))
    twin.lease("a", draining=True)
    assert to(twin, twin.both(LAN, frame())) in "bc"
    twin.lease("a", good=False)
    assert to(twin, twin.both(LAN, frame())) == "BYPASSED"


def test_the_time_of_the_first_frame_past_a_member_is_noted(make: Make) -> None:
    """As where it is asked itself: the measured latency of its bypass depends on it."""
    twin = make(group(minimum=3))
    twin.datapath.leases.revoke("a")
    twin.state.leases[twin.datapath.hop_id("a")].until = 1
    twin.both(LAN, frame())
    assert twin.datapath.leases.first_skip("a") > 0


# -- spare members


def test_spares_take_over(make: Make) -> None:
    """They have no flows while all others work, and those of any that fails."""
    twin = make(group(balance=ALL[:2], spare=("s",)))
    flows = range(24)
    before = {port: to(twin, twin.both(LAN, frame(port=port))) for port in flows}
    assert set(before.values()) == {"a", "b"}
    available(twin, "bs")
    after = {port: to(twin, twin.both(LAN, frame(port=port))) for port in flows}
    assert after == {port: "s" if name == "a" else "b" for port, name in before.items()}
    available(twin, "s")
    assert {to(twin, twin.both(LAN, frame(port=port))) for port in flows} == {"s"}
    available(twin, "a")
    assert {to(twin, twin.both(LAN, frame(port=port))) for port in flows} == {"a"}


def test_a_member_that_is_back_waits_while_spares_stand_in(make: Make) -> None:
    """`hold_down`, as in a standby group."""
    twin = make(group(balance=ALL[:1], spare=("s",)))
    twin.lease("a", recovered=time.monotonic_ns())
    assert to(twin, twin.both(LAN, frame())) == "s"
    twin.lease("a", recovered=1)
    assert to(twin, twin.both(LAN, frame())) == "a"


# -- what tells flows apart

ENDS = [("10.0.0.1", "10.0.0.9"), ("10.0.0.1", "10.0.0.8"), ("10.0.0.2", "10.0.0.9"), ("10.0.0.2", "10.0.0.8")]
Told = Callable[[str, str, int, int], tuple[object, ...]]
TOLD: dict[str, Told] = {
    "5-tuple": lambda lan, wan, protocol, port: (lan, wan, protocol, port),
    "3-tuple": lambda lan, wan, protocol, port: (lan, wan, protocol),
    "2-tuple": lambda lan, wan, protocol, port: (lan, wan),
    "source": lambda lan, wan, protocol, port: (lan,),
    "destination": lambda lan, wan, protocol, port: (wan,),
}


@pytest.mark.parametrize("kind", ["xdp", "tc"])
@pytest.mark.parametrize("by", TOLD)
def test_what_tells_flows_apart(make: Make, by: str, kind: str) -> None:
    """Flows that are alike in it have one bucket, in both directions; others are spread."""
    twin = make(group(hash=by))
    buckets: dict[tuple[object, ...], set[int | None]] = {}
    for lan, wan in ENDS:
        for protocol, layer in ((6, TCP), (17, UDP)):
            for port in (1000, 1001):
                out = Ether(src=CLIENT, dst=SERVER) / IP(src=lan, dst=wan) / layer(sport=port, dport=80)
                home = Ether(src=SERVER, dst=CLIENT) / IP(src=wan, dst=lan) / layer(sport=80, dport=port)
                for where, made in ((LAN, out), (WAN, home)):
                    step = twin.both(where, bytes(made), kind).steps[0]
                    buckets.setdefault(TOLD[by](lan, wan, protocol, port), set()).add(step.bucket)
    assert all(len(found) == 1 for found in buckets.values())
    assert len({next(iter(found)) for found in buckets.values()}) == len(buckets)


@pytest.mark.parametrize("by", TOLD)
def test_errors_and_fragments_stay_with_their_flow(make: Make, by: str) -> None:
    """An ICMP error about a packet comes from the other side than it; a later fragment has no ports."""
    twin = make(group(hash=by))
    packet = IP(src="10.0.0.1", dst="10.0.0.9", id=5, flags="MF") / UDP(sport=1, dport=80) / Raw(bytes(32))
    (bucket,) = {twin.both(LAN, bytes(Ether() / packet)).steps[0].bucket}
    later = Ether() / IP(src="10.0.0.1", dst="10.0.0.9", id=5, frag=5, proto=17) / Raw(bytes(32))
    assert twin.both(LAN, bytes(later)).steps[0].bucket == bucket
    whole = IP(src="10.0.0.1", dst="10.0.0.9", id=5) / UDP(sport=1, dport=80) / Raw(bytes(32))
    error = Ether() / IP(src="10.0.0.77", dst="10.0.0.1") / ICMP(type=3, code=4) / Raw(bytes(whole))
    assert twin.both(WAN, bytes(error)).steps[0].bucket == bucket


@pytest.mark.parametrize(("former", "name"), [("l4", "5-tuple"), ("l3", "2-tuple")])
def test_former_names(make: Make, former: str, name: str) -> None:
    """Stored configurations keep their meaning."""
    steps = [make(group(hash=by)).both(LAN, frame()).steps for by in (former, name)]
    assert steps[0] == steps[1]


# -- flows of a member that fails


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_kept_flows_go_around(make: Make, kind: str) -> None:
    """An established flow bypasses the group until its member is back; new ones go to another member."""
    twin = make(group(on_member_failure="keep"))
    member = establish(twin, kind)
    available(twin, "abc".replace(member, ""))
    for where, back in ((LAN, False), (WAN, True)):
        decision = twin.both(where, frame(back), kind)
        assert to(twin, decision) == "BYPASSED"
        assert Reason.KEPT in [step.reason for step in decision.steps]
    assert establish(twin, kind, port=2) != member
    available(twin, "abc")
    assert to(twin, twin.both(LAN, frame(), kind)) == member


@pytest.mark.parametrize("ends", [("S",), ("R", "A"), ("S", "A")])
def test_a_kept_flow_ends(make: Make, ends: tuple[str, ...]) -> None:
    """With a reset, or with a new connection between the same ends: from then on, another member has it."""
    twin = make(group(on_member_failure="keep"))
    member = establish(twin)
    available(twin, "abc".replace(member, ""))
    assert to(twin, twin.both(LAN, frame())) == "BYPASSED"
    for flags in ends:
        last = to(twin, twin.both(LAN, frame(flags=flags)))
    assert last in "abc"
    assert to(twin, twin.both(WAN, frame(True, flags="SA"))) == last


def test_a_kept_flow_is_blocked_where_the_rule_blocks(make: Make) -> None:
    twin = make(group(on_member_failure="keep"), on_unavailable="block")
    available(twin, "abc".replace(establish(twin), ""))
    assert to(twin, twin.both(LAN, frame())) == "BLOCKED"


@pytest.mark.parametrize("failure", ["keep", "reset"])
def test_a_member_that_is_held_down(make: Make, failure: Literal["keep", "reset"]) -> None:
    """Flows from before its failure are treated as before; those that it has got since are its own."""
    twin = make(Group(name="g", standby=("a", "b"), on_member_failure=failure))
    assert establish(twin) == "a"
    fate = {"keep": "BYPASSED", "reset": "RESET"}[failure]
    twin.lease("a", good=False)
    assert to(twin, twin.both(LAN, frame())) == fate
    twin.lease("a", recovered=time.monotonic_ns())
    assert to(twin, twin.both(LAN, frame())) == fate
    twin.lease("b", good=False)
    assert establish(twin, port=2) == "a"
    assert to(twin, twin.both(LAN, frame(port=2))) == "a"


@pytest.mark.parametrize("kind", ["xdp", "tc"])
@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("tag", [False, True])
def test_both_ends_are_reset(make: Make, kind: str, *, six: bool, tag: bool) -> None:
    """The first segment becomes a reset to its receiver, the next a reset to its sender; so for both directions."""
    twin = make(group(on_member_failure="reset"))
    member = establish(twin, kind, six=six, tag=tag)
    available(twin, "abc".replace(member, ""))
    about: dict[str, Any] = {"seq": 1000, "ack": 2000, "six": six, "tag": tag}
    on, again = (twin.both(LAN, frame(**about), kind) for _ in range(2))
    assert (on.outcome, on.verdict, on.slot) == (Outcome.RESET, Verdict.PORT, slot(0, 0, Side.WAN))
    assert (again.outcome, again.verdict, again.slot) == (Outcome.RESET, Verdict.PORT, slot(0, 0, Side.LAN))
    for decision, number, flags, source in ((on, 1000, "RA", CLIENT), (again, 2000, "R", SERVER)):
        if kind == "tc" and tag:
            continue  # the test run moves the tag
        made = Ether(decision.frame)
        layer = made[TCP]
        assert (layer.seq, str(layer.flags), made.src, layer.dataofs) == (number, flags, source, 5)
        assert (made[IPv6].plen if six else made[IP].len) == (20 if six else 40)
        right = made.copy()
        del right[TCP].chksum
        if not six:
            del right[IP].chksum
            assert made[IP].chksum == Ether(bytes(right))[IP].chksum
        assert layer.chksum == Ether(bytes(right))[TCP].chksum
        assert len(decision.frame) <= 60 or (six and len(decision.frame) <= 78)
    assert to(twin, twin.both(WAN, frame(True, six=six, tag=tag), kind)) == "RESET"
    assert to(twin, twin.both(LAN, frame(flags="S", six=six, tag=tag), kind)) in "abc".replace(member, "")
    assert to(twin, twin.both(LAN, frame(six=six, tag=tag), kind)) in "abc".replace(member, "")


@pytest.mark.parametrize("data", range(9))
def test_resets_are_as_short_as_ethernet_allows(make: Make, data: int) -> None:
    """And nothing of the data is left in them."""
    twin = make(group(on_member_failure="reset"))
    available(twin, "abc".replace(establish(twin), ""))
    short = frame()[:54] + b"x" * data
    decision = twin.both(LAN, short)
    assert decision.outcome is Outcome.RESET
    assert decision.frame[54:] == bytes(min(data, 6))


def test_the_reset_of_an_end_passes(make: Make) -> None:
    """It is sent on as a reset, and then nothing is known of the flow."""
    twin = make(group(on_member_failure="reset"))
    available(twin, "abc".replace(establish(twin), ""))
    decision = twin.both(WAN, frame(True, flags="R", seq=7))
    assert (decision.outcome, decision.slot) == (Outcome.RESET, slot(0, 0, Side.LAN))
    assert Ether(decision.frame)[TCP].seq == 7
    assert to(twin, twin.both(LAN, frame())) in "abc"


def test_what_cannot_be_reset_is_rehashed(make: Make) -> None:
    """UDP, and TCP in a tunnel."""
    twin = make(group(on_member_failure="reset"))
    for out, home in ((KINDS["udp"], KINDS["udp"]),):
        member = to(twin, twin.both(LAN, out))
        twin.both(WAN, home)
        twin.both(LAN, out)
        available(twin, "abc".replace(member, ""))
        assert to(twin, twin.both(LAN, out)) in "abc".replace(member, "")


def test_resets_are_limited(make: Make) -> None:
    """Beyond the rate frames of such flows are dropped, and reset later."""
    twin = make(group(on_member_failure="reset"))
    available(twin, "abc".replace(establish(twin), ""))
    full = twin.state.supervisor_until
    twin.state.resets[0] = full
    twin.maps["resets"].set(0, full)
    decision = twin.both(LAN, frame())
    assert (decision.outcome, decision.verdict) == (Outcome.RESET, Verdict.DROP)
    twin.state.resets[0] = 0
    twin.maps["resets"].set(0, 0)
    assert twin.both(LAN, frame()).verdict is Verdict.PORT
    assert 10**9 // layout.RESET_NS == 10_000


def test_rehash_is_the_default(make: Make) -> None:
    twin = make(group())
    member = establish(twin)
    available(twin, "abc".replace(member, ""))
    assert to(twin, twin.both(LAN, frame())) in "abc".replace(member, "")


# -- everything together

FRAMES = [
    (LAN if not back else WAN, frame(back, port=port, flags=flags, six=six))
    for back in (False, True)
    for port in (1, 2)
    for flags in ("S", "SA", "A", "A", "A", "FA", "R", "")
    for six in (False, True)
] + [(where, KINDS[name]) for where in (LAN, WAN) for name in ("udp", "arp", "ip6 udp", "icmp error")]


STEP = st.tuples(
    st.sets(st.sampled_from("abs"), min_size=1),
    st.sets(st.sampled_from("abs")),
    st.lists(st.sampled_from(FRAMES), min_size=2, max_size=12),
)


@st.composite
def groups_and_rules(draw: st.DrawFn) -> tuple[Group, dict[str, Any]]:
    """Any group of three members, and the keys of a rule that uses it."""
    one: dict[str, Any] = draw(st.sampled_from([{"balance": ALL[:2], "spare": ("s",)}, {"standby": ("a", "b", "s")}]))
    made = Group(
        name="g",
        hash=draw(st.sampled_from(sorted(TOLD))),
        minimum=draw(st.sampled_from([1, 1, 2, 3])),
        on_member_failure=draw(st.sampled_from(["rehash", "keep", "reset"])),
        **one,
    )
    keys = {
        "path": draw(st.sampled_from([("g",), ("g", "x"), ("x", "g")])),
        "on_unavailable": draw(st.sampled_from(["bypass", "block"])),
        "require": draw(st.sampled_from(["any", "all"])),
        "accept": draw(st.sampled_from(["", "tcp"])),
    }
    return made, keys


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["xdp", "tc"]), about=groups_and_rules(), steps=st.lists(STEP, min_size=2, max_size=5)
)  # fmt: skip
def test_any_group(
    bpf_object: Path,
    kind: str,
    about: tuple[Group, dict[str, Any]],
    steps: list[tuple[set[str], set[str], list[tuple[Where, bytes]]]],
) -> None:
    """Members fail and come back between the frames of a few flows, from the ports and from the hop before."""
    twin = build(bpf_object, about[0], **about[1])
    try:
        for up, back, frames in steps:
            available(twin, "".join(up) + "x")
            for name in back & up:
                twin.lease(name, recovered=time.monotonic_ns())
            for where, data in frames:
                twin.both(where, data, kind)
                behind = Where(Role.HOP, 0, Side(where.side ^ 1), twin.datapath.hop_id("x"))
                twin.both(behind, data, kind)
        twin.tables_agree()
    finally:
        twin.close()
