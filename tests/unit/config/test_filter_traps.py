# SPDX-License-Identifier: GPL-2.0-only
"""Filters that mean something else than most people read in them: what `check` says of whole configurations."""

from __future__ import annotations

import pytest

from appliance.config.check.filter_traps import traps
from appliance.config.check.load import loads
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


ALL = ("", '["ips1"]', "bypass")


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
