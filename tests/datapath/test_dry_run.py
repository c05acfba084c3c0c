# SPDX-License-Identifier: GPL-2.0-only
"""dry_run of a segment: its rules are followed and counted, and every frame goes straight to the other port."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.config.schema.model import Config, Guest, Rule, Segment
from appliance.steering.explain.model import Where
from appliance.steering.kernel.counters import RuleCount
from appliance.steering.kernel.layout import Outcome, Role, Side, Verdict, slot
from tests.support.frames import KINDS, tcp, udp
from tests.support.twin import Twin

pytestmark = pytest.mark.root
Make = Callable[..., Twin]


@pytest.fixture
def make(bpf_object: Path) -> Iterator[Make]:
    made: list[Twin] = []

    def one(*rules: Rule) -> Twin:
        dry = Segment(name="dry", lan="l", wan="w", dry_run=True)
        real = Segment(name="real", lan="m", wan="x")
        twin = Twin(bpf_object, Config(segment=(dry, real), guest=(Guest(name="a"), Guest(name="b")), rule=rules))
        made.append(twin)
        twin.attach()
        twin.supervise()
        for name in "ab":
            twin.lease(name)
        return twin

    yield one
    for twin in made:
        twin.close()


def counted(twin: Twin, name: str = "r") -> RuleCount:
    return twin.datapath.counters().rules[name]


@pytest.mark.parametrize("kind", ["xdp", "tc"])
@pytest.mark.parametrize("match", ["", "ip"])
def test_no_frame_enters_a_hop_and_none_is_blocked(make: Make, kind: str, match: str) -> None:
    """From either port, whatever the rule says; the other segment's frames follow the rule."""
    twin = make(Rule(name="r", match=match, path=("a", "b"), on_unavailable="block"))
    for side in Side:
        decided = twin.both(Where(Role.PORT, 0, side), udp(), kind)
        assert (decided.outcome, decided.verdict) == (Outcome.DRY_RUN, Verdict.PORT)
    assert (counted(twin).to_hop, counted(twin).blocked, counted(twin).bypassed) == (2, 0, 0)
    for name in "ab":
        twin.lease(name, good=False)
    assert twin.both(Where(Role.PORT, 0, Side.LAN), udp(), kind).outcome is Outcome.DRY_RUN
    assert (counted(twin).to_hop, counted(twin).blocked) == (2, 1)
    assert twin.both(Where(Role.PORT, 1, Side.LAN), udp(), kind).outcome is Outcome.BLOCKED


def test_what_would_have_bypassed_is_counted(make: Make) -> None:
    twin = make(Rule(name="r", path=("a",)))
    twin.lease("a", good=False)
    assert twin.both(Where(Role.PORT, 0, Side.LAN), tcp()).outcome is Outcome.DRY_RUN
    assert (counted(twin).to_hop, counted(twin).bypassed) == (0, 1)
    assert [step.hop for step in twin.both(Where(Role.PORT, 0, Side.LAN), tcp()).steps] == [twin.policy.hops["a"].id]


def test_also_where_frames_begin_in_service(make: Make) -> None:
    """A port has no program of its own there, which would send calm flows to their hop."""
    twin = make(Rule(name="r", path=("a",)))
    for _ in range(3):
        twin.both(Where(Role.PORT, 0, Side.LAN), udp())
    first = twin.datapath.attached_program(slot(0, 0, Side.LAN))
    assert first is not None
    assert not first.own
    before = counted(twin)
    twin.run_plain(first.program, Where(Role.PORT, 0, Side.LAN), udp(), "xdp")
    assert counted(twin).to_hop == before.to_hop + 1
    assert twin.datapath.counters().hops["a"].to_frames == 0


def test_every_kind_of_frame_passes_as_without_rules(make: Make) -> None:
    """Those that no rule matches as always; what a guest sends by itself still leaves."""
    twin = make(Rule(name="r", match="ip or arp", path=("a",), on_unavailable="block"))
    for frame in KINDS.values():
        outcome = twin.both(Where(Role.PORT, 0, Side.LAN), frame).outcome
        assert outcome in (Outcome.DRY_RUN, Outcome.STRAIGHT, Outcome.LINK_LOCAL, Outcome.OVERSIZE)
    a = twin.policy.hops["a"].id
    assert twin.both(Where(Role.HOP, 0, Side.WAN, a), udp()).outcome is Outcome.OUT
