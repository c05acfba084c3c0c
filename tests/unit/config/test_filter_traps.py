# SPDX-License-Identifier: GPL-2.0-only
"""Filters that mean something else than most people read in them: what `check` says of whole configurations."""

from __future__ import annotations

import pytest

from appliance.config.check.filter_traps import evaded, traps
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


def config(*rules: tuple[str, str, str], more: str = "") -> Config:
    """Rules (filter, path, on_unavailable) r0, r1, ..."""
    tables = [
        f'[[rule]]\nname = "r{n}"\nmatch = \'{match}\'\npath = {path}\non_unavailable = "{then}"\n'
        for n, (match, path, then) in enumerate(rules)
    ]
    return loads(BASE.rstrip() + more + "\n" + "".join(tables))


WEB = ("tcp port 80", '["ips1"]', "bypass")
BLOCK = ("tcp port 80", '["ips1"]', "block")
ALL = ("", '["ips1"]', "bypass")


def test_what_goes_around_a_port_rule() -> None:
    """The same packet tagged, in PPPoE, MPLS or SNAP, and the later fragments: severe where the rule blocks."""
    (finding,) = traps(config(BLOCK))
    assert (finding.severity, finding.where) == ("warning", "rule r0: match")
    assert finding.what.endswith("uninspected: tagged, PPPoE, MPLS, SNAP and later fragments")
    assert [each.severity for each in traps(config(WEB))] == ["note"]


def test_what_a_rule_behind_takes_does_not_go_around() -> None:
    assert list(traps(config(WEB, ALL))) == []
    assert list(traps(config(ALL))) == []
    (finding,) = traps(config(WEB, ("", "[]", "bypass")))
    assert "tagged" in finding.what, "straight to the other port is around, with a rule too"
    (finding,) = traps(config(WEB, ("vlan", '["ips1"]', "bypass")))
    assert finding.what.endswith("uninspected: PPPoE, MPLS, SNAP and later fragments")


def test_addresses_know_later_fragments() -> None:
    (finding,) = traps(config(("ip host 10.0.0.1", '["ips1"]', "bypass")))
    assert finding.what.endswith("uninspected: tagged, PPPoE, MPLS and SNAP")


def test_ipv6_has_headers_of_its_own() -> None:
    (finding,) = traps(config(("ip6 and tcp port 80", '["ips1"]', "bypass")))
    assert finding.what.endswith("SNAP, IPv6 extension headers and later fragments")


def test_rules_alike_are_named_together() -> None:
    ports = [(f"tcp port {port}", '["ips1"]', "bypass") for port in range(80, 86)]
    (finding,) = traps(config(*ports))
    assert finding.where == "rules r0, r1, r2, r3 and more: match"


def test_rules_that_lead_nowhere_are_left_out() -> None:
    assert list(traps(config(("tcp port 80", "[]", "bypass"), ALL))) == []


def test_what_was_not_come_to_is_said() -> None:
    """Once, whatever the number of segments; and no more is looked into."""
    two = BASE + '[[segment]]\nname = "side"\nlan = "lan1"\nwan = "wan1"\n'
    rules = "".join(
        f"[[rule]]\nname = 'r{n}'\nsegment = '{segment}'\nmatch = 'tcp port {n}'\npath = ['ips1']\n"
        for n, segment in enumerate(("main", "main", "side"))
    )
    ticks = iter((0.0, 0.1, 9.0))
    found = list(evaded(loads(two + rules), seconds=1.0, clock=lambda: next(ticks)))
    assert [each.where for each in found] == ["rule", "rule r0: match"]
    assert found[0] == Finding("note", "rule", "whether frames go around was not looked into from rule r1 on")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("(vlan and tcp port 80) or tcp port 80", '"tcp port 80" is looked for in tagged frames only; put it before'),
        ("vlan 100 or vlan 200", '"vlan 200" is looked for in tagged frames only'),
        ("not vlan and tcp port 80", "`not vlan` moves what follows it"),
    ],
)
def test_what_stands_behind_vlan(text: str, what: str) -> None:
    """And nothing else is said of the rule: its writer has to say first what it is for."""
    (finding,) = traps(config((text, '["ips1"]', "bypass")))
    assert (finding.severity, finding.where, what in finding.what) == ("warning", "rule r0: match", True)


def test_a_guests_filter_is_looked_at_too() -> None:
    (finding,) = traps(config(ALL, more="\naccept = 'vlan or ip'"))
    assert (finding.where, '"ip" is looked for' in finding.what) == ("guest ips1: accept", True)
