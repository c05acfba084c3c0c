# SPDX-License-Identifier: GPL-2.0-only
"""Frames that go around a rule because of what precedes their packets: what `check` says of whole configurations."""

from __future__ import annotations

from appliance.config.check.evaded_rules import evaded
from appliance.config.check.load import loads
from appliance.config.check.unreachable_rules import Finding
from appliance.config.schema.model import Config

BASE = """
[[segment]]
name = "main"
lan = "lan0"
wan = "wan0"
[[guest]]
name = "ips1"
image = "a.qcow2"
"""
WEB = ("tcp port 80", '["ips1"]', "bypass")
BLOCK = ("tcp port 80", '["ips1"]', "block")
ALL = ("", '["ips1"]', "bypass")


def config(*rules: tuple[str, str, str], through: str = "[]") -> Config:
    """Rules (filter, path, on_unavailable) r0, r1, ..."""
    tables = [
        f'[[rule]]\nname = "r{n}"\nmatch = \'{match}\'\npath = {path}\non_unavailable = "{then}"\nthrough = {through}\n'
        for n, (match, path, then) in enumerate(rules)
    ]
    return loads(BASE + "".join(tables))


def remedy(finding: Finding) -> str:
    """The `through` that a finding proposes."""
    return finding.what.partition("through = ")[2].partition(" includes")[0]


def test_a_port_rule_is_evaded_by_what_precedes_the_packet() -> None:
    """By the same packet tagged, in PPPoE, MPLS or SNAP, and by later fragments; a warning where the rule blocks."""
    (finding,) = evaded(config(BLOCK))
    assert (finding.severity, finding.where) == ("warning", "rule r0: match")
    for way in ("vlan", "qinq", "pppoe", "mpls", "snap", "ip6ext", "fragments"):
        assert f'"{way}"' in remedy(finding)
    assert [each.severity for each in evaded(config(WEB))] == ["note"]


def test_what_a_later_rule_leads_through_a_hop_does_not_evade() -> None:
    assert list(evaded(config(WEB, ALL))) == []
    assert list(evaded(config(ALL))) == []
    (finding,) = evaded(config(WEB, ("", "[]", "bypass")))
    assert '"vlan"' in remedy(finding), "straight to the other port is around, with a rule too"
    (finding,) = evaded(config(WEB, ("vlan", '["ips1"]', "bypass")))
    assert '"vlan"' not in remedy(finding)
    assert '"pppoe"' in remedy(finding)


def test_addresses_match_later_fragments() -> None:
    (finding,) = evaded(config(("ip host 10.0.0.1", '["ips1"]', "bypass")))
    assert '"fragments"' not in remedy(finding)


def test_the_proposed_remedy_helps() -> None:
    (finding,) = evaded(config(BLOCK))
    assert list(evaded(config(BLOCK, through=remedy(finding)))) == []


def test_rules_without_a_path_are_left_out() -> None:
    assert list(evaded(config(("tcp port 80", "[]", "bypass"), ALL))) == []


def test_a_rule_with_moved_parts_is_left_to_the_other_lint() -> None:
    assert list(evaded(config(("vlan 100 or vlan 200", '["ips1"]', "bypass")))) == []


def test_rules_that_were_not_reached_in_time_are_named() -> None:
    found = list(evaded(config(WEB, BLOCK), seconds=-1.0))
    assert found == [Finding("note", "rule", "rules were not checked for frames that evade them from rule r0 on")]
