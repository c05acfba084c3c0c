# SPDX-License-Identifier: GPL-2.0-only
"""Control frames of the link itself: past every hop, or by the rules; the same in the kernel and in the model."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Raw

from appliance.config.schema.model import Config, Guest, Rule, Segment
from appliance.steering.explain.model import Where
from appliance.steering.kernel import layout
from appliance.steering.kernel.layout import Outcome, Role, Side, Verdict
from tests.support.frames import LAN, tcp
from tests.support.twin import Twin

pytestmark = pytest.mark.root

CONFIG = Config(
    segment=(Segment(name="main", lan="lan0", wan="wan0"),),
    guest=(Guest(name="a"), Guest(name="b", tags=True)),
    rule=(
        Rule(name="dot1x", match="ether proto 0x888e", path=()),
        Rule(name="web", match="tcp port 80", path=("b", "a")),
        Rule(name="all", path=("a", "b"), on_unavailable="block"),
    ),
)
ALWAYS = msgspec.structs.replace(CONFIG, rule=CONFIG.rule[2:])  # a constant rule: no filters are asked


def control(last: int, ethertype: int, tag: bool = False, middle: int = 0) -> bytes:
    """A frame to 01:80:c2:00:MIDDLE:LAST."""
    head = Ether(src=LAN, dst=f"01:80:c2:00:{middle:02x}:{last:02x}", type=ethertype)
    return bytes((head / Dot1Q(vlan=0, prio=7, type=ethertype) if tag else head) / Raw(bytes(50)))


KEPT_OUT = {
    "STP": control(0x00, 0x26),
    "LACP": control(0x02, 0x8809),
    "LLDP": control(0x0E, 0x88CC),
    "LLDP, tagged for its priority": control(0x0E, 0x88CC, tag=True),
    "PTP peer delay": control(0x0E, 0x88F7),
    "the last of them": control(0x0F, 0x1234),
}
ORDINARY = {
    "the first behind them": control(0x10, 0x26),
    "another multicast": control(0x02, 0x8809, middle=1),
    "a guest's traffic": tcp(),
}


def made_of(path: Path, config: Config) -> Twin:
    made = Twin(path, config)
    made.attach()
    made.supervise()
    made.lease("a")
    made.lease("b")
    return made


@pytest.mark.parametrize("kind", ["xdp", "tc"])
@pytest.mark.parametrize("config", [CONFIG, ALWAYS])
def test_straight_before_any_rule(bpf_object: Path, config: Config, kind: str) -> None:
    """By default they pass whatever a catch-all rule says, also one that blocks, and have a counter of their own."""
    made = made_of(bpf_object, config)
    try:
        for side in Side:
            where = Where(Role.PORT, 0, side)
            for hops_up in (True, False):
                made.lease("a", good=hops_up)
                made.lease("b", good=hops_up)
                before = made.counted(where)[Outcome.LINK_LOCAL]
                for name, frame in KEPT_OUT.items():
                    decision = made.both(where, frame, kind)
                    assert (decision.outcome, decision.rule) == (Outcome.LINK_LOCAL, None), name
                    assert decision.slot == layout.slot(0, 0, side ^ 1)
                assert made.counted(where)[Outcome.LINK_LOCAL] == before + len(KEPT_OUT)
                for name, frame in ORDINARY.items():
                    verdict = made.both(where, frame, kind).verdict
                    assert verdict is (Verdict.HOP if hops_up else Verdict.DROP) or name == "a guest's traffic", name
    finally:
        made.close()


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_as_the_rules_say(bpf_object: Path, kind: str) -> None:
    """With `link_local = "rules"` they follow the rules."""
    segment = Segment(name="main", lan="lan0", wan="wan0", link_local="rules")
    made = made_of(bpf_object, msgspec.structs.replace(CONFIG, segment=(segment,)))
    try:
        for frame in KEPT_OUT.values():
            decision = made.both(Where(Role.PORT, 0, Side.LAN), frame, kind)
            assert (decision.outcome, decision.rule) == (Outcome.TO_HOP, 2)
    finally:
        made.close()


@pytest.mark.parametrize("kind", ["xdp", "tc"])
def test_what_a_guest_sends_of_its_own(bpf_object: Path, kind: str) -> None:
    """A guest's own control frames leave by the port they travel to, past the next hop, unless it asks for one."""
    made = made_of(bpf_object, CONFIG)
    try:
        a, b = (made.datapath.hop_id(name) for name in ("a", "b"))
        for frame in KEPT_OUT.values():
            for side in Side:
                decision = made.both(Where(Role.HOP, 0, side, a), frame, kind)
                assert (decision.outcome, decision.slot) == (Outcome.OUT, layout.slot(0, 0, side))
        asking = bytes(Ether(src=LAN, dst="01:80:c2:00:00:02") / Dot1AD(vlan=a, type=0x8809) / Raw(bytes(50)))
        assert made.both(Where(Role.HOP, 0, Side.WAN, b, tags=True), asking, kind).verdict is Verdict.HOP
        assert made.both(Where(Role.HOP, 0, Side.WAN, a), tcp(), kind).outcome is Outcome.OUT
    finally:
        made.close()


def test_a_rule_that_leads_straight_is_counted(bpf_object: Path) -> None:
    """Where the rules let them pass anyway nothing changes: they are the rule's."""
    made = made_of(bpf_object, CONFIG)
    try:
        decision = made.both(Where(Role.PORT, 0, Side.LAN), control(0x03, 0x888E))
        assert (decision.outcome, decision.rule) == (Outcome.STRAIGHT, 0)
    finally:
        made.close()
