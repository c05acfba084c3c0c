# SPDX-License-Identifier: GPL-2.0-only
"""The dashboard and the alert rules ask only for metrics that there are, with labels that they have."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from appliance.access.manager import Access
from appliance.config.model import Config, Segment
from appliance.hardware.board import parse
from appliance.keeperlink import KeeperLink
from appliance.metrics import collect
from appliance.openmetrics import PREFIX, Family, render
from appliance.paths import Paths
from appliance.supervisor import Supervisor

MONITORING = Path(__file__).parents[2] / "console/monitoring"
SUFFIXES = {"gauge": ("",), "counter": ("_total",), "info": ("_info",), "histogram": ("_bucket", "_count", "_sum")}
BOARD = 'name = "test"\n[[port]]\nname = "lan0"\nmac = "02:ff:ff:ff:ff:01"\n'


@pytest.fixture
def families(tmp_path: Path) -> list[Family]:
    """What a supervisor without guests and datapath has; families that need them are there without samples."""
    ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    config = Config(segment=(Segment(name="main", lan="lan0", wan="wan0"),))
    link = KeeperLink(ours)
    made = Supervisor(Paths(tmp_path), link, board=parse(BOARD), board_error="", config=config, config_errors=[])
    made.transitions.listen(made.events.transition)
    made.transitions.record("segment main", "inline", "bypass", "operator")
    assert made.access is None or isinstance(made.access, Access)
    return collect(made)


def series(families: list[Family]) -> set[str]:
    return {f"{PREFIX}{family.name}{suffix}" for family in families for suffix in SUFFIXES[family.kind]}


def expressions() -> list[str]:
    board = json.loads((MONITORING / "dashboard.json").read_text())
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    found += [item["definition"] for item in board["templating"]["list"] if "definition" in item]
    return [*found, (MONITORING / "alerts.yml").read_text()]


def test_names(families: list[Family]) -> None:
    there = series(families)
    for expression in expressions():
        for name in re.findall(rf"\b{PREFIX}\w+", expression):
            assert name in there, expression


def test_the_dashboard_is_whole() -> None:
    board = json.loads((MONITORING / "dashboard.json").read_text())
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(numbers) == len(set(numbers)) > 10
    places = [tuple(panel["gridPos"].values()) for panel in board["panels"]]
    assert len(places) == len(set(places))
    assert board["uid"] == "throughwire"


def test_what_a_supervisor_without_datapath_serves_is_valid(families: list[Family]) -> None:
    read = {family.name: family for family in text_string_to_metric_families(render(families))}
    assert read["throughwire_segment_inline"].samples[0].value == 0
    assert read["throughwire_transitions"].samples[0].labels == {"kind": "segment", "name": "main", "to": "bypass"}
    assert "throughwire_guest_state" not in read
