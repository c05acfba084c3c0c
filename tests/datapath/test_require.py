# SPDX-License-Identifier: GPL-2.0-only
"""`require`: whether one available hop is enough, or none may be skipped; the same in the kernel and in the model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from appliance.config.schema.model import Config, Group, Guest, Member, Rule, Segment
from appliance.steering.explain.model import Decision, Where
from appliance.steering.kernel.layout import Outcome, Role, Side
from tests.support.frames import tcp, udp
from tests.support.twin import Twin

pytestmark = pytest.mark.root

HOPS = ("a", "b", "c", "d")
BOTH = Group(name="both", balance=(Member(hop="c"), Member(hop="d")))
LAN = Where(Role.PORT, 0, Side.LAN)
WAN = Where(Role.PORT, 0, Side.WAN)


def twin(path: Path, *rules: Rule, accept: str = "") -> Twin:
    guests = tuple(Guest(name=name, accept=accept if name == "b" else "") for name in HOPS)
    segment = Segment(name="main", lan="lan0", wan="wan0")
    made = Twin(path, Config(segment=(segment,), guest=guests, group=(BOTH,), rule=rules))
    made.attach()
    made.supervise()
    return made


def available(made: Twin, names: str) -> None:
    for name in HOPS:
        made.lease(name, good=name in names)


def from_hop(made: Twin, name: str, side: Side) -> Where:
    return Where(Role.HOP, 0, side, made.datapath.hop_id(name))


def to(made: Twin, decision: Decision) -> str:
    """The hop that the frame goes to, or its outcome."""
    if decision.outcome is not Outcome.TO_HOP or decision.slot is None:
        return decision.outcome.name
    return next(hop.name for hop in made.policy.hops.values() if hop.id == decision.slot // 32)


@pytest.mark.parametrize("kind", ["xdp", "tc"])
@pytest.mark.parametrize(
    ("on_unavailable", "without", "later"), [("block", "BLOCKED", "BLOCKED"), ("bypass", "BYPASSED", "OUT")]
)
def test_all(bpf_object: Path, kind: str, on_unavailable: Literal["block", "bypass"], without: str, later: str) -> None:
    """No hop is skipped: not at the port, nor behind a hop when one further on fails meanwhile."""
    made = twin(bpf_object, Rule(name="all", path=("a", "b", "both"), on_unavailable=on_unavailable, require="all"))
    try:
        for up, lan, wan in (
            ("abcd", "a", "cd"),
            ("abc", "a", "c"),  # one member of the group is enough
            ("acd", without, without),
            ("bcd", without, without),
            ("ab", without, without),
            ("", without, without),
        ):
            available(made, up)
            assert to(made, made.both(LAN, tcp(), kind)) in (lan, *lan), up
            assert to(made, made.both(WAN, tcp(back=True), kind)) in (wan, *wan), up
        available(made, "abc")
        assert to(made, made.both(from_hop(made, "a", Side.WAN), tcp(), kind)) == "b"
        assert to(made, made.both(from_hop(made, "b", Side.WAN), tcp(), kind)) == "c"
        assert to(made, made.both(from_hop(made, "c", Side.WAN), tcp(), kind)) == "OUT"
        available(made, "ab")
        assert to(made, made.both(from_hop(made, "a", Side.WAN), tcp(), kind)) == later
        assert to(made, made.both(from_hop(made, "b", Side.WAN), tcp(), kind)) == later
        assert to(made, made.both(from_hop(made, "b", Side.LAN), tcp(back=True), kind)) == "a"
        made.supervise(1)
        assert to(made, made.both(LAN, tcp(), kind)) == without
    finally:
        made.close()


def test_any_skips(bpf_object: Path) -> None:
    """By default a hop that is not available is skipped, and block means that none is."""
    made = twin(bpf_object, Rule(name="any", path=("a", "b"), on_unavailable="block"))
    try:
        for up, lan in (("ab", "a"), ("b", "b"), ("a", "a"), ("", "BLOCKED")):
            available(made, up)
            assert to(made, made.both(LAN, tcp())) == lan
    finally:
        made.close()


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_a_hop_that_takes_no_such_frame_is_not_required(bpf_object: Path, kind: str) -> None:
    """What `accept` leaves out passes the others, whether that hop is available or not."""
    rule = Rule(name="all", path=("a", "b"), on_unavailable="block", require="all")
    made = twin(bpf_object, rule, accept="tcp")
    try:
        for up, of_tcp, of_udp in (("ab", "a", "a"), ("a", "BLOCKED", "a"), ("b", "BLOCKED", "BLOCKED")):
            available(made, up)
            assert to(made, made.both(LAN, tcp(), kind)) == of_tcp, up
            assert to(made, made.both(LAN, udp(), kind)) == of_udp, up
        assert to(made, made.both(from_hop(made, "a", Side.WAN), udp(), kind)) == "OUT"
    finally:
        made.close()


def test_rules_that_differ_in_this_alone(bpf_object: Path) -> None:
    """A frame behind a hop goes on by its own rule, though the paths are the same."""
    made = twin(
        bpf_object,
        Rule(name="web", match="tcp port 80", path=("a", "b"), on_unavailable="block", require="all"),
        Rule(name="rest", path=("a", "b"), on_unavailable="block"),
    )
    try:
        available(made, "a")
        behind = from_hop(made, "a", Side.WAN)
        assert to(made, made.both(behind, tcp(dport=80))) == "BLOCKED"
        assert to(made, made.both(behind, tcp(dport=81))) == "OUT"
    finally:
        made.close()


def test_what_is_counted(bpf_object: Path) -> None:
    """A frame is blocked once, under its rule and its port; the hop that was missing has been skipped."""
    made = twin(bpf_object, Rule(name="all", path=("a", "b"), on_unavailable="block", require="all"))
    try:
        available(made, "a")
        made.both(LAN, tcp())
        counts = made.datapath.counters()
        assert (counts.rules["all"].frames, counts.rules["all"].blocked, counts.rules["all"].to_hop) == (1, 1, 0)
        assert sum(counts.hops["b"].skipped.values()) == 1
    finally:
        made.close()
