# SPDX-License-Identifier: GPL-2.0-only
"""Two configurations on the same frames: what goes another way, by rule."""

from __future__ import annotations

from appliance.config.schema.model import Config, Guest, Rule, Segment
from appliance.steering.explain.comparison import Change, Comparison, Way, described
from appliance.steering.kernel.layout import Side
from tests.support.frames import KINDS, tcp, udp

SEGMENT = Segment(name="main", lan="lan0", wan="wan0")
WEB = Rule(name="web", match="tcp port 80", path=("ips1",))
DNS = Rule(name="dns", match="udp port 53", path=("ips1", "dpi"))


def config(
    *rules: Rule, guests: tuple[str, ...] = ("ips1", "dpi"), segments: tuple[Segment, ...] = (SEGMENT,)
) -> Config:
    return Config(segment=segments, guest=tuple(Guest(name=name) for name in guests), rule=rules)


def compared(old: Config, new: Config, *frames: bytes, down: frozenset[str] = frozenset()) -> Comparison:
    found = Comparison(old, new, down)
    for frame in frames:
        found.add("main", Side.LAN, frame)
    return found


def test_nothing_goes_another_way_by_the_same_rules() -> None:
    found = compared(config(WEB, DNS), config(WEB, DNS), *KINDS.values())
    assert (found.frames, found.elsewhere, dict(found.changes)) == (len(KINDS), 0, {})


def test_a_rule_less_is_counted_by_rule() -> None:
    found = compared(config(WEB, DNS), config(WEB), udp(), udp(), tcp())
    change = Change("main", "lan", Way("dns", "ips1 > dpi"), Way("", "straight"))
    assert dict(found.changes) == {change: 2}
    assert (found.frames, found.elsewhere, found.examples[change]) == (3, 2, udp())


def test_another_rule_with_the_same_way_is_no_other_way() -> None:
    every = Rule(name="every", path=("ips1",))
    found = compared(config(WEB), config(every), tcp())
    assert dict(found.changes) == {Change("main", "lan", Way("web", "ips1"), Way("every", "ips1")): 1}
    assert found.elsewhere == 0


def test_what_is_down_is_so_in_both_and_new_hops_are_up() -> None:
    """So a rule that blocks shows, and a guest that the candidate adds is not taken for a failure."""
    strict = Rule(name="web", match="tcp port 80", path=("ips1",), on_unavailable="block")
    found = compared(config(WEB), config(strict), tcp(), down=frozenset({"ips1"}))
    (change,) = found.changes
    assert (change.old.way, change.new.way) == ("straight", "dropped")
    more = Rule(name="web", match="tcp port 80", path=("ips1", "new"))
    found = compared(config(WEB), config(more, guests=("ips1", "new")), tcp())
    (change,) = found.changes
    assert (change.new.way, found.assumed) == ("ips1 > new", ["new"])


def test_only_segments_of_both() -> None:
    other = Segment(name="other", lan="lan1", wan="wan1")
    assert Comparison(config(segments=(SEGMENT, other)), config(), frozenset()).segments == ["main"]


def test_examples_are_described() -> None:
    assert described(tcp()) == "tcp 10.0.0.1:1234 > 10.1.0.1:80"
    assert described(KINDS["arp"]) == "ethertype 0x0806"
    assert "[fd00::1]" in described(KINDS["ip6 udp"])
    assert described(b"") == ""
